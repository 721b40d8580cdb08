"""
Where the servers' sockets are: in the data folder, or in a short folder under /tmp when that path is too long.

A unix socket's path has room for about a hundred bytes. When the data folder's own path does not fit (or holds
characters that a connection URL cannot carry), `sockets` in it is a link to a folder that does; the link is used
again, so that killed runs leave nothing behind that piles up.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from pathlib import Path

# sun_path has 108 bytes on Linux and 104 on macOS, with the closing NUL.
SOCKET_PATH_BYTES_MAX = 103
LONGEST_NAME = "pg/.s.PGSQL.5432.lock"
# A comma parts hosts in a database URL and folders in Postgres's settings; quotes and blanks need care in both.
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+@=~-]+")
SHORT_PARENT = Path("/tmp")


def get_sockets_dir(data_dir: Path) -> Path:
    """The folder for sockets of this data folder, made if it is not there."""
    link = data_dir / "sockets"
    if fits(data_dir.resolve() / "sockets"):
        if link.is_symlink():
            link.unlink()
        if not link.is_dir():
            link.mkdir()
            # Whatever the umask: as root, Postgres runs as somebody else and must reach its own folder in here.
            link.chmod(0o711)
        return data_dir.resolve() / "sockets"
    if link.is_symlink():
        target = link.readlink()
        if _is_private(target):
            return target
        link.unlink()
    elif link.is_dir():
        # The data folder was moved to a longer path. What is in here are dead sockets.
        for path in sorted(link.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        link.rmdir()
    parent = SHORT_PARENT if SHORT_PARENT.is_dir() else Path(tempfile.gettempdir())
    short = Path(tempfile.mkdtemp(prefix="wayhold-", dir=parent))
    short.chmod(0o711)
    link.symlink_to(short)
    return short


def fits(sockets_dir: Path) -> bool:
    path = os.fsencode(sockets_dir / LONGEST_NAME)
    return len(path) <= SOCKET_PATH_BYTES_MAX and PLAIN_PATH.fullmatch(str(sockets_dir)) is not None


def _is_private(folder: Path) -> bool:
    """True for a folder that we own and nobody else can write to: /tmp belongs to everybody."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
