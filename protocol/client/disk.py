"""What a journal asks of a file system, on each platform."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Disk:
    """
    The few things a journal asks of a file system. Tests put a disk in its place that forgets what was not synced.
    """

    def read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def create(self, path: Path, data: bytes) -> int:
        """A new file with this content, durable under this name only after `replace`; replaces what was there."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | _CLOEXEC, 0o600)
        try:
            self.append(handle, data)
            self.sync(handle)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_APPEND | _CLOEXEC)

    def append(self, handle: int, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def sync(self, handle: int) -> None:
        """Return once the file is on the medium, as far as the system can tell."""
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)  # its fsync leaves the data in the drive's cache
        else:
            os.fsync(handle)

    def close(self, handle: int) -> None:
        os.close(handle)

    def replace(self, source: Path, target: Path) -> None:
        """Rename, and make the rename durable."""
        source.replace(target)
        if sys.platform != "win32":
            folder = os.open(target.parent, os.O_RDONLY | _CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def lock(self, path: Path) -> int:
        """
        Hold the only writer's lock, which the system lets go of when the process dies. Raises OSError if it is held.
        """
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _CLOEXEC, 0o600)
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(handle)
            raise
        return handle
