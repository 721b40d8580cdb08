"""
What an erase leaves behind in a data folder beside the servers' data: logs that named the player, and journals of their
unfinished walks.

Logs are overwritten in place, byte for byte: the processes that write them hold them open, and only ever append.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CHUNK_BYTES = 1 << 20
FILES_MAX = 10_000


def scrub_logs(logs_dir: Path, player: str) -> int:
    """Make the player's id unreadable in every log. Returns in how many places it stood."""
    found = 0
    for path in _list_files(logs_dir):
        with suppress(OSError):
            found += sum(_scrub_file(path, name) for name in _list_spellings(player))
    return found


def remove_walks(walk_dir: Path, player: str) -> int:
    """Remove journals and notes of the player's walks, which are named after them. Returns how many files that were."""
    removed = 0
    for path in _list_files(walk_dir):
        if player in path.name:
            with suppress(OSError):
                path.unlink()
                removed += 1
    return removed


def _list_files(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        for entry in sorted(folder.iterdir())[:FILES_MAX]:
            if entry.is_file() and not entry.is_symlink():
                yield entry


def _list_spellings(player: str) -> list[bytes]:
    return [player.encode(), player.replace("-", "").encode()]


def _scrub_file(path: Path, name: bytes) -> int:
    found = 0
    instead = b"(erased)".ljust(len(name), b"-")
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        at, tail = 0, b""
        while chunk := os.pread(fd, CHUNK_BYTES, at):
            text = tail + chunk
            begin = at - len(tail)
            place = text.find(name)
            while place >= 0:
                # A log that is being put aside and emptied at this moment must not grow again by this.
                if begin + place + len(name) <= os.fstat(fd).st_size:
                    os.pwrite(fd, instead, begin + place)
                    found += 1
                place = text.find(name, place + len(name))
            at += len(chunk)
            tail = text[-(len(name) - 1) :]
    finally:
        os.close(fd)
    return found
