"""
The updates that a journal holds, in memory: numbered, bounded, contiguous.

Not here: what survives a crash (file_journal.py).
"""

from __future__ import annotations

import uuid
from typing import Final

from protocol.client.journal_errors import JournalFull

# As many steps as a day's walk without network makes; the server's own bound for what one progress may have pending.
ENTRIES_MAX: Final = 5_000
BYTES_MAX: Final = 4 * 1024 * 1024
LIST_MAX: Final = 1_000


class HeldUpdates:
    """
    Updates in memory: contiguous seqs from `saved` + 1 to `made`. The bounds are for them, not for what a disk holds.
    """

    __slots__ = (
        "bytes_max",
        "damaged",
        "device",
        "entries_max",
        "exposed",
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
        self.exposed = 0
        self.payloads: dict[int, bytes] = {}
        self.size_bytes = 0
        self.damaged: frozenset[int] = frozenset()

    def append(self, payload: bytes) -> int:
        if not payload:
            raise ValueError("an update has a payload")
        if len(self.payloads) >= self.entries_max or self.size_bytes + len(payload) > self.bytes_max:
            raise JournalFull(len(self.payloads), self.size_bytes)
        self.made = seq = self.made + 1
        self.payloads[seq] = payload
        self.size_bytes += len(payload)
        return seq

    def list_after(self, seq: int, limit: int) -> list[tuple[int, bytes]]:
        if limit == 1 and self.saved <= seq < self.made:  # nearly always
            seq += 1
            if seq > self.exposed:
                self.exposed = seq
            return [(seq, self.payloads[seq])]
        first = max(seq, self.saved) + 1
        last = min(self.made, first + min(limit, LIST_MAX) - 1)
        if last > self.exposed:
            self.exposed = last
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
        self.exposed = min(self.exposed, seq)

    def reset(self, device: str, keep_after: int) -> dict[int, int]:
        kept = self.list_between(max(keep_after, self.saved), self.made)
        renumbered = {old: new for new, (old, _) in enumerate(kept, start=1)}
        self.device = device
        self.payloads = {renumbered[old]: payload for old, payload in kept}
        self.size_bytes = sum(map(len, self.payloads.values()))
        self.damaged = frozenset(renumbered[old] for old in self.damaged if old in renumbered)
        self.made = len(kept)
        self.saved = 0
        self.exposed = 0
        return renumbered

    def list_between(self, after: int, upto: int) -> list[tuple[int, bytes]]:
        return [(seq, self.payloads[seq]) for seq in range(after + 1, upto + 1)]


def new_device_id() -> str:
    """A name that no installation had before."""
    return str(uuid.uuid4())
