"""
The device journal: every update is here before it is sent, and stays until it is saved.

Promise: an update whose `sync()` has returned survives the death of the process and of the power; the numbers 1, 2,
3 … of a stream are given out here, once each; nothing is dropped silently, a full journal refuses (`JournalFull`).
What a file holds is proven by checksums when it is opened: a torn tail is cut, a damaged record is named (`damaged`)
and its seq is kept, so that the stream has no gap and later updates are not lost with it.

Not here: what an update means (a payload is bytes), and whom it is sent to. Only the session machine decides what
may be forgotten, and only `saved` lets it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import sys
import uuid
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgpack

# As many steps as a day's walk without network makes; the server's own bound for what one progress may have pending.
ENTRIES_MAX: Final = 5_000
BYTES_MAX: Final = 4 * 1024 * 1024
LIST_MAX: Final = 1_000


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
    """The file is the journal of another player, experience or server."""

    def __init__(self, path: Path, found: StreamIdentity, wanted: StreamIdentity) -> None:
        self.path = path
        self.found = found
        self.wanted = wanted
        super().__init__(f"journal {path} belongs to {found}, not to {wanted}")


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


class StreamIdentity(NamedTuple):
    """Whose updates a journal holds; the device id makes it a stream."""

    server: str
    player: str
    experience: str


class Journal(Protocol):
    """
    What the client needs of a journal. Reading is from memory and never waits.

    `made` ≥ `synced` ≥ `saved`. `damaged` are seqs whose payload the disk lost: their payload reads as b"". Nothing
    above `known_max` can have been sent before this object existed. `is_moved`: the journal was restored or migrated
    and must learn what became of its stream before it goes on as a new device (see `FileJournal`).
    """

    @property
    def device(self) -> str: ...
    @property
    def made(self) -> int: ...
    @property
    def synced(self) -> int: ...
    @property
    def saved(self) -> int: ...
    @property
    def known_max(self) -> int: ...
    @property
    def is_moved(self) -> bool: ...

    def append(self, payload: bytes) -> int:
        """
        Give the update the next seq and hold it. It is durable only after `sync`. Raises JournalFull, JournalBroken.
        """
        ...

    async def sync(self) -> None:
        """
        Make all that was appended before this call durable. Raises OSError (those updates are gone), JournalBroken.
        """
        ...

    def list_after(self, seq: int, limit: int) -> list[tuple[int, bytes]]:
        """The updates that follow `seq`, in order, at most `limit` (and `LIST_MAX`)."""
        ...

    def forget(self, saved: int) -> None:
        """The server has saved everything up to `saved`. A crash may bring updates back; they are then sent again."""
        ...

    def reset(self, device: str, keep_after: int) -> dict[int, int]:
        """
        Go on as a new device: what lies above `keep_after` is numbered from 1; answers old seq → new seq.

        Nothing counts as synced afterwards until `sync` returns: no update may leave under a number that a crash
        would take back.
        """
        ...

    async def close(self) -> None:
        """Write what is left and let go of the file. Closing twice is harmless."""
        ...


def new_device_id() -> str:
    """A name that no installation had before."""
    return str(uuid.uuid4())


class _Entries:
    """Updates in memory: contiguous seqs from `saved` + 1 to `made`."""

    __slots__ = (
        "bytes_max",
        "damaged",
        "device",
        "entries_max",
        "known_max",
        "made",
        "payloads",
        "saved",
        "size_bytes",
    )

    def __init__(self, device: str, entries_max: int, bytes_max: int) -> None:
        if not 1 <= len(device) <= 64:
            raise ValueError("a device id has 1 to 64 characters")
        self.device = device
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.made = 0
        self.saved = 0
        self.known_max = 0
        self.payloads: dict[int, bytes] = {}
        self.size_bytes = 0
        self.damaged: frozenset[int] = frozenset()

    def append(self, payload: bytes) -> int:
        if not payload:
            raise ValueError("an update has a payload")
        if len(self.payloads) >= self.entries_max or self.size_bytes + len(payload) > self.bytes_max:
            raise JournalFull(len(self.payloads), self.size_bytes)
        self.made += 1
        self.payloads[self.made] = payload
        self.size_bytes += len(payload)
        return self.made

    def list_after(self, seq: int, limit: int) -> list[tuple[int, bytes]]:
        first = max(seq, self.saved) + 1
        last = min(self.made, first + min(limit, LIST_MAX) - 1)
        payloads = self.payloads
        return [(at, payloads[at]) for at in range(first, last + 1)]

    def forget(self, saved: int) -> bool:
        """True if anything changed. Refuses a number that was never made: it would swallow updates still to come."""
        if saved > self.made:
            raise ValueError(f"saved {saved} is beyond what was made ({self.made})")
        if saved <= self.saved:
            return False
        for seq in range(self.saved + 1, saved + 1):
            self.size_bytes -= len(self.payloads.pop(seq))
        self.saved = saved
        if self.damaged:
            self.damaged = frozenset(seq for seq in self.damaged if seq > saved)
        return True

    def drop_after(self, seq: int) -> None:
        """Take back the newest updates, which never became durable."""
        for gone in range(seq + 1, self.made + 1):
            self.size_bytes -= len(self.payloads.pop(gone))
        self.made = seq

    def reset(self, device: str, keep_after: int) -> dict[int, int]:
        kept = self.list_between(max(keep_after, self.saved), self.made)
        renumbered = {old: new for new, (old, _) in enumerate(kept, start=1)}
        self.device = device
        self.payloads = {renumbered[old]: payload for old, payload in kept}
        self.size_bytes = sum(map(len, self.payloads.values()))
        self.damaged = frozenset(renumbered[old] for old in self.damaged if old in renumbered)
        self.made = len(kept)
        self.saved = 0
        self.known_max = 0  # no server has heard of the new device yet
        return renumbered

    def list_between(self, after: int, upto: int) -> list[tuple[int, bytes]]:
        return [(seq, self.payloads[seq]) for seq in range(after + 1, upto + 1)]


class MemoryJournal:
    """
    A journal that dies with its process: for simulated players, of which thousands share one.

    Everything counts as synced at once, because there is no disk that could forget it.
    """

    __slots__ = ("_entries",)

    def __init__(
        self, device: str | None = None, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._entries = _Entries(device or new_device_id(), entries_max, bytes_max)

    @property
    def device(self) -> str:
        return self._entries.device

    @property
    def made(self) -> int:
        return self._entries.made

    @property
    def synced(self) -> int:
        return self._entries.made

    @property
    def saved(self) -> int:
        return self._entries.saved

    @property
    def known_max(self) -> int:
        """The highest seq that may have been sent before this object existed."""
        return self._entries.known_max

    @property
    def is_moved(self) -> bool:
        return False

    @property
    def damaged(self) -> frozenset[int]:
        return frozenset()

    def append(self, payload: bytes) -> int:
        return self._entries.append(payload)

    async def sync(self) -> None:
        return None

    def list_after(self, seq: int, limit: int) -> list[tuple[int, bytes]]:
        return self._entries.list_after(seq, limit)

    def forget(self, saved: int) -> None:
        self._entries.forget(saved)

    def reset(self, device: str, keep_after: int) -> dict[int, int]:
        return self._entries.reset(device, keep_after)

    async def close(self) -> None:
        return None
