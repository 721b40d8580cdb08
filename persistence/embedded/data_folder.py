"""
The data folder: who owns it, whether it can be used, and how it is emptied.

    lock          held by the supervisor that owns the folder; names its process
    valkey/ postgres/       the servers' data
    valkey.lock postgres.lock    held by a server's processes as long as one lives
    sockets/      their sockets, or a link to a folder with a shorter path
    logs/         what the children say; capped

Promise: one supervisor per folder. A folder that cannot be used is refused before anything in it changes. Data goes
only when somebody asks for exactly that (`remove_server_data`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
from pathlib import Path
from types import TracebackType

from persistence.embedded.errors import DataFolderBusy, DataFolderUnusable, EmbeddedUnfit
from persistence.embedded.privileges import COPY_PARENT, COPY_PREFIX

# A new folder takes 62 MB, and Postgres keeps up to 512 MB of WAL before it tidies up. Below this it is a matter of
# minutes until a write fails, and a full disk stops Postgres in the middle of its work.
DISK_FREE_BYTES_MIN = 256 * 1024 * 1024

LOCK_TRIES = 5
LOCK_RETRY_S = 0.02

OTHER_FOLDER_ADVICE = "choose another one with --data-dir or WAYHOLD_DATA_DIR"


class DataFolder:
    """An open, locked data folder. Close it after the servers have ended."""

    def __init__(self, path: Path | str, *, disk_free_bytes_min: int = DISK_FREE_BYTES_MIN) -> None:
        """
        Make the folder if it is missing, check it and take its lock.

        Raises:
            DataFolderBusy: another supervisor has the lock.
            DataFolderUnusable: it cannot be written to, or does not keep what the servers rely on.
            EmbeddedUnfit: its disk is nearly full.
        """
        self.path = Path(path).absolute()
        self._fd: int | None = None
        _check_disk(self.path, disk_free_bytes_min)
        _make(self.path)
        self._fd = _open_lock(self.path)
        try:
            _check_keeps_modes(self.path)
        except BaseException:
            self.close()
            raise

    @property
    def logs_dir(self) -> Path:
        return self.path / "logs"

    def remove_server_data(self) -> None:
        """Empty the servers of everything. The caller has made sure that none of them runs."""
        assert self._fd is not None, "the folder is closed"
        for name in ("valkey", "postgres", "postgres.new", "sockets"):
            _remove(self.path / name)

    def remove_hot_data(self) -> None:
        """Empty Valkey alone: after a restore its copies are of another history. It must be down."""
        assert self._fd is not None, "the folder is closed"
        _remove(self.path / "valkey")

    def close(self) -> None:
        if self._fd is None:
            return
        # A folder that belongs to an ordinary user stays theirs after a run as root (`sudo make run`), or the
        # next ordinary run could not write to what this one has made.
        _give_back(self.path)
        os.close(self._fd)
        self._fd = None

    def __enter__(self) -> DataFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find_owner_pid(path: Path | str) -> int | None:
    """The process that holds the lock of this data folder, None when it is free."""
    try:
        fd = os.open(Path(path) / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(fd)
    return None


def remove_tree(path: Path) -> None:
    """Remove a folder of ours with servers' data and sockets in it, also what of these had to live elsewhere."""
    for name in ("postgres", "sockets"):
        _remove(path / name)
    _remove(path)


def _check_disk(path: Path, bytes_min: int) -> None:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        free = shutil.disk_usage(existing).free
    except OSError:
        return
    if free < bytes_min:
        raise EmbeddedUnfit(
            f"the disk of {path} is nearly full ({free // 2**20} MiB free, {bytes_min // 2**20} MiB needed)",
            f"make room, or {OTHER_FOLDER_ADVICE}",
        )


def _make(path: Path) -> None:
    try:
        if not path.is_dir():
            path.mkdir(parents=True)
            # As root, Postgres runs as an ordinary user who must be able to pass through.
            path.chmod(0o711 if os.geteuid() == 0 else 0o700)
    except FileExistsError:
        raise DataFolderUnusable(f"{path} is not a folder", OTHER_FOLDER_ADVICE) from None
    except OSError as error:
        raise DataFolderUnusable(f"cannot make the data folder {path}: {error.strerror}", OTHER_FOLDER_ADVICE) from None


def _open_lock(path: Path) -> int:
    try:
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataFolderUnusable(
            f"cannot write to the data folder {path}: {error.strerror}{_describe_owner(path)}", OTHER_FOLDER_ADVICE
        ) from None
    try:
        _lock(fd)
    except OSError as error:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise DataFolderBusy(
                f"the data folder {path} is in use" + (f" by process {owner}" if owner.isdigit() else ""),
                f"stop that one (wayhold stop), or {OTHER_FOLDER_ADVICE}",
            ) from None
        raise DataFolderUnusable(f"cannot lock {path / 'lock'}: {error.strerror}", OTHER_FOLDER_ADVICE) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _lock(fd: int) -> None:
    """Take the lock. Somebody who only looks (`find_owner_pid`) holds it for a moment, so once is not enough."""
    for _ in range(LOCK_TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOCK_RETRY_S)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _check_keeps_modes(path: Path) -> None:
    """Postgres refuses a folder that others may enter; some file systems (vfat, shared folders) let everybody in."""
    probe = path / f".probe-{os.getpid()}"
    try:
        probe.mkdir(mode=0o700)
        mode = stat.S_IMODE(probe.stat().st_mode)
        probe.rmdir()
    except OSError as error:
        raise DataFolderUnusable(f"cannot write to {path}: {error.strerror}", OTHER_FOLDER_ADVICE) from None
    if mode != 0o700:
        raise DataFolderUnusable(
            f"the file system of {path} does not keep Unix permissions, which Postgres needs", OTHER_FOLDER_ADVICE
        )


def _describe_owner(path: Path) -> str:
    with contextlib.suppress(OSError):
        return f" (it belongs to {path.owner()})"
    return ""


def _remove(path: Path) -> None:
    if path.is_symlink():
        # Data or sockets that had to live elsewhere; see privileges.py and sockets.py.
        target = path.readlink()
        path.unlink()
        is_copy = target.parent.parent == COPY_PARENT and target.parent.name.startswith(COPY_PREFIX)
        shutil.rmtree(target.parent if is_copy else target, ignore_errors=True)
    elif path.exists():
        shutil.rmtree(path)


def _give_back(path: Path) -> None:
    owner = path.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(parent, name)
            with contextlib.suppress(OSError):
                if entry.lstat().st_uid == 0:
                    os.chown(entry, owner.st_uid, owner.st_gid, follow_symlinks=False)
