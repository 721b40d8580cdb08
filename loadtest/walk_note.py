"""
What a walk must remember beside its journal to go on after its process was killed.

Promise: the note is written whole (aside, then renamed) before the first step is made, so that a journal with steps
always has its note. Which step comes next is not in it: the journal's numbers say that, and they cannot disagree with
what was sent.

Not here: the journal itself (protocol.client.journal).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

FORMAT = 1
NOTE_SUFFIX = ".walk"
JOURNAL_SUFFIXES = ("", ".lock", ".new", ".marker")
NOTES_MAX = 200
FAR_FOLDER_PREFIX = "wayhold-walk-"  # a folder made for one walk, where there is no data folder
NOTE_BYTES_MAX = 64 * 1024


@dataclass(slots=True)
class WalkNote:
    """
    One walk: who walks, which plan, and which seq its first step has.

    `first_seq` may be 0 or less: after a stream reset the walk goes on as a new device, whose numbers begin behind its
    first steps.
    """

    player: str
    device: str
    experience: str
    server: str
    digest: str
    random_seed: int
    first_seq: int
    steps: int
    is_done: bool = False
    format: int = FORMAT

    def write(self, journal: Path) -> None:
        file = find_note_file(journal)
        aside = file.with_name(file.name + ".new")
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, json.dumps(asdict(self)).encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        aside.replace(file)


def find_note_file(journal: Path) -> Path:
    return journal.with_name(journal.name + NOTE_SUFFIX)


def find_note(journal: Path) -> WalkNote | None:
    """The note beside a journal; None when there is none that can be read."""
    try:
        with find_note_file(journal).open("rb") as file:
            raw = json.loads(file.read(NOTE_BYTES_MAX))
        note = WalkNote(**raw)
    except (OSError, ValueError, TypeError):
        return None
    return note if note.format == FORMAT else None


def list_journals(folder: Path) -> Iterator[Path]:
    """The journals in a folder that have a note, the newest first."""
    notes = sorted(folder.glob(f"*{NOTE_SUFFIX}"), key=_age, reverse=True)
    for file in notes[:NOTES_MAX]:
        yield file.with_name(file.name.removesuffix(NOTE_SUFFIX))


def remove_walk(journal: Path) -> None:
    """Forget a finished walk; the note last, so that a journal without one is never found."""
    for suffix in JOURNAL_SUFFIXES:
        journal.with_name(journal.name + suffix).unlink(missing_ok=True)
    find_note_file(journal).unlink(missing_ok=True)
    if journal.parent.name.startswith(FAR_FOLDER_PREFIX):
        with contextlib.suppress(OSError):
            journal.parent.rmdir()


def _age(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
