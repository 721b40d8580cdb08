"""
The disk of a simulated phone: in memory, and with a power button.

A thousand phones have a thousand disks; a machine that simulates them has one, so syncing a real file for each of their
updates would measure that. The journal on it is the real one (protocol.client.journal), byte for byte.

Promise: an app that dies leaves what it wrote; a power cut leaves what was synced, and any part of the rest.
"""

from __future__ import annotations

import random
from pathlib import Path

from protocol.client.journal import Disk


class _File:
    __slots__ = ("data", "synced_bytes")

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.synced_bytes = len(data)


class PhoneDisk(Disk):
    """Handles are numbers of this disk. A disk that was copied away is dead: who still writes to it writes nowhere."""

    __slots__ = ("_files", "_handles", "_next")

    def __init__(self) -> None:
        self._files: dict[Path, _File] = {}
        self._handles: dict[int, _File] = {}
        self._next = 1

    def survive(self, rng: random.Random, *, is_power_cut: bool) -> PhoneDisk:
        """The disk as the next start of the app finds it."""
        after = PhoneDisk()
        for path, file in list(self._files.items()):
            data = bytes(file.data)
            if is_power_cut:
                data = data[: rng.randint(min(file.synced_bytes, len(data)), len(data))]
            after._files[path] = _File(data)
        return after

    def read(self, path: Path) -> bytes | None:
        file = self._files.get(path)
        return None if file is None else bytes(file.data)

    def create(self, path: Path, data: bytes) -> int:
        self._files[path] = file = _File(data)
        return self._hand_out(file)

    def open(self, path: Path) -> int:
        return self._hand_out(self._files[path])

    def append(self, handle: int, data: bytes) -> None:
        self._handles[handle].data += data

    def truncate(self, handle: int, size: int) -> None:
        file = self._handles[handle]
        del file.data[size:]
        file.synced_bytes = min(file.synced_bytes, size)

    def sync(self, handle: int) -> None:
        file = self._handles[handle]
        file.synced_bytes = len(file.data)

    def close(self, handle: int) -> None:
        self._handles.pop(handle, None)

    def replace(self, source: Path, target: Path) -> None:
        self._files[target] = self._files.pop(source)

    def lock(self, path: Path) -> int:
        return self._hand_out(_File())  # one app on one phone

    def _hand_out(self, file: _File) -> int:
        self._next += 1
        self._handles[self._next] = file
        return self._next
