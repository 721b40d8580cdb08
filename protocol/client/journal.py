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

from typing import Protocol

from protocol.client.disk import Disk
from protocol.client.file_journal import FileJournal
from protocol.client.held_updates import BYTES_MAX, ENTRIES_MAX, LIST_MAX, new_device_id
from protocol.client.journal_errors import (
    JournalBroken,
    JournalBusy,
    JournalDamaged,
    JournalForeign,
    JournalFull,
    StreamIdentity,
)
from protocol.client.journal_format import DAMAGED, RECORDS_START, encode_record, read_journal
from protocol.client.memory_journal import MemoryJournal

__all__ = [
    "BYTES_MAX",
    "DAMAGED",
    "ENTRIES_MAX",
    "LIST_MAX",
    "RECORDS_START",
    "Disk",
    "FileJournal",
    "Journal",
    "JournalBroken",
    "JournalBusy",
    "JournalDamaged",
    "JournalForeign",
    "JournalFull",
    "MemoryJournal",
    "StreamIdentity",
    "encode_record",
    "new_device_id",
    "read_journal",
]


class Journal(Protocol):
    """
    What the client needs of a journal. Reading is from memory and never waits. One event loop at a time.

    `made` ≥ `saved`; what lies above `synced` must not be sent yet (-1: a reset is not on disk). Nothing above
    `exposed` can have left this device: it was neither here when the journal was opened nor listed since.
    `moved_at`: the journal was restored or migrated when it had made so many, and must learn what became of its
    stream before it goes on as a new device (see `FileJournal`).
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
    def exposed(self) -> int: ...
    @property
    def moved_at(self) -> int | None: ...

    def append(self, payload: bytes) -> int:
        """
        Give the update the next seq and hold it. It is durable only after `sync`. Raises JournalFull, JournalBroken.
        """
        ...

    async def sync(self) -> None:
        """
        Make all that was appended before this call durable. Call it without an await in between.

        Callers that come together share one write. Cancelling is safe: the write goes on.

        Raises:
            OSError: the disk refused; every update that was not durable yet was taken back, its seq is free again.
            JournalBroken: nobody knows what the disk holds; open the journal anew.
        """
        ...

    def list_after(self, seq: int, limit: int) -> list[tuple[int, bytes]]:
        """The updates that follow `seq`, in order, at most `limit` (and `LIST_MAX`). They count as `exposed`."""
        ...

    def forget(self, saved: int) -> object:
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
