"""A journal without a disk."""

from __future__ import annotations

from protocol.client.held_updates import BYTES_MAX, ENTRIES_MAX, HeldUpdates, new_device_id


class MemoryJournal:
    """
    A journal that dies with its process: for simulated players, of which thousands share one.

    Everything counts as synced at once, because there is no disk that could forget it.
    """

    __slots__ = ("_entries",)

    def __init__(
        self, device: str | None = None, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._entries = HeldUpdates(device or new_device_id(), entries_max, bytes_max)

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
    def exposed(self) -> int:
        return self._entries.exposed

    @property
    def moved_at(self) -> int | None:
        return None

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
