"""Whose journal it is, and why one cannot be opened or written."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class StreamIdentity(NamedTuple):
    """Whose updates a journal holds; the device id makes it a stream."""

    server: str
    player: str
    experience: str


class JournalFull(Exception):
    """The journal holds as much as it may and takes no further update until the server has saved some."""

    def __init__(self, entries: int, size_bytes: int) -> None:
        self.entries = entries
        self.size_bytes = size_bytes
        super().__init__(f"journal is full: {entries} updates, {size_bytes} bytes are not saved yet")


class JournalBusy(Exception):
    """Another process (or another object in this one) writes this journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"journal {path} is in use by another writer")


class JournalForeign(Exception):
    """The file is the journal of another player, experience, server or device."""

    def __init__(self, path: Path, found: object, wanted: object) -> None:
        self.path = path
        self.found = found
        self.wanted = wanted
        super().__init__(
            f"journal {path} belongs to {_differing(found, wanted)}, not to {_differing(wanted, found)}; "
            "give that one, or another file"
        )


def _differing(one: object, other: object) -> str:
    """What of `one` is not that of `other`, in words."""
    if not isinstance(one, StreamIdentity) or not isinstance(other, StreamIdentity):
        return str(one)
    return ", ".join(
        f"{name} {value}" for name, value, wanted in zip(one._fields, one, other, strict=True) if value != wanted
    )


class JournalDamaged(Exception):
    """Nothing in the file says whose journal it is. It is left untouched."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"journal {path} cannot be read: {reason}")


class JournalBroken(Exception):
    """The disk refused to make records durable; nothing is taken until the journal is opened anew."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"journal cannot write: {reason}")
