"""A journal without a disk."""

from __future__ import annotations

from protocol.client.held_updates import BYTES_MAX, ENTRIES_MAX, HeldUpdates, new_device_id


class MemoryJournal(HeldUpdates):
    """
    A journal that dies with its process: for simulated players, of which thousands share one.

    Everything counts as synced at once, because there is no disk that could forget it.
    """

    __slots__ = ()

    def __init__(
        self, device: str | None = None, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        super().__init__(device or new_device_id(), entries_max, bytes_max)

    @property
    def synced(self) -> int:
        return self.made

    @property
    def moved_at(self) -> int | None:
        return None

    async def sync(self) -> None:
        return None

    async def close(self) -> None:
        return None
