"""
A disk in memory that dies: at a chosen operation, and with it everything that was not synced.

What survives a power cut is what a POSIX file system promises and no more: synced bytes are there, unsynced ones may be
there, partly, or as zeros; a rename is there after the folder was synced, and otherwise one of both names wins.
"""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

from protocol.client.journal import Disk


class PowerCut(Exception):
    """The machine is off."""


class _File:
    def __init__(self) -> None:
        self.synced = b""
        self.data = b""


class ForgetfulDisk(Disk):
    def __init__(self, *, cut_at: int | None = None, room_bytes: int | None = None) -> None:
        self.names: dict[Path, _File] = {}
        self.synced_names: dict[Path, _File] = {}
        self.handles: dict[int, _File] = {}
        self.locked: dict[Path, int] = {}
        self.next_handle = 1
        self.operations = 0
        self.syncs = 0
        self.cut_at = cut_at
        self.room_bytes = room_bytes
        self.fails_sync = False

    def _operate(self) -> None:
        self.operations += 1
        if self.cut_at is not None and self.operations >= self.cut_at:
            raise PowerCut

    def _hand_out(self, file: _File) -> int:
        self.next_handle += 1
        self.handles[self.next_handle] = file
        return self.next_handle

    def read(self, path: Path) -> bytes | None:
        file = self.names.get(path)
        return None if file is None else file.data

    def create(self, path: Path, data: bytes) -> int:
        self._operate()
        file = _File()
        self.names[path] = file
        handle = self._hand_out(file)
        self.append(handle, data)
        self.sync(handle)
        return handle

    def open(self, path: Path) -> int:
        self._operate()
        return self._hand_out(self.names[path])

    def append(self, handle: int, data: bytes) -> None:
        file = self.handles[handle]
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            self._operate()
            if self.room_bytes is not None:
                taken = part[: self.room_bytes]
                self.room_bytes -= len(taken)
                file.data += taken
                if len(taken) < len(part):
                    raise OSError(errno.ENOSPC, "no space left")
            else:
                file.data += part

    def truncate(self, handle: int, size: int) -> None:
        self._operate()
        self.handles[handle].data = self.handles[handle].data[:size]

    def sync(self, handle: int) -> None:
        self._operate()
        if self.fails_sync:
            raise OSError(errno.EIO, "input/output error")
        self.syncs += 1
        self.handles[handle].synced = self.handles[handle].data

    def close(self, handle: int) -> None:
        self.handles.pop(handle, None)
        self.locked = {path: held for path, held in self.locked.items() if held != handle}

    def replace(self, source: Path, target: Path) -> None:
        self._operate()
        self.names[target] = self.names.pop(source)
        self._operate()
        self.synced_names = dict(self.names)

    def lock(self, path: Path) -> int:
        if path in self.locked:
            raise BlockingIOError(errno.EAGAIN, "locked")
        self.locked[path] = self._hand_out(_File())
        return self.locked[path]

    def restart(self, rng: Random) -> ForgetfulDisk:
        """The disk as the next start finds it."""
        after = ForgetfulDisk()
        names = dict(self.synced_names)
        for path in {*self.names, *self.synced_names}:
            if self.names.get(path) is not self.synced_names.get(path) and rng.random() < 0.5:
                if path in self.names:
                    names[path] = self.names[path]
                elif rng.random() < 0.5:
                    names.pop(path, None)
        for path, file in names.items():
            survivor = _File()
            survivor.data = survivor.synced = self._survive(file, rng)
            after.names[path] = after.synced_names[path] = survivor
        return after

    @staticmethod
    def _survive(file: _File, rng: Random) -> bytes:
        if not file.data.startswith(file.synced):
            return rng.choice([file.synced, file.data])  # a truncation that was not synced
        unsynced = file.data[len(file.synced) :]
        kept = unsynced[: rng.randint(0, len(unsynced))]
        if kept and rng.random() < 0.3:
            kept = bytes(len(kept))  # the length was written, the content was not
        return file.synced + kept
