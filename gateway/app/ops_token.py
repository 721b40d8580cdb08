"""
The token that an ops process of `dev` leaves in the data folder for its owner, so that `wayhold kick` and the like work
there without an account. Whoever may read the file owns the servers' data anyway.

Promise: a new secret with each start of the process, mode 0600 from the first byte on, gone with a clean end, and of no
use anywhere else. It is in no database.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

TOKEN_FILE = "ops_token"
_PREFIX = "wh_ops_local_"


def make_ops_token(data_dir: Path) -> str:
    """Returns the secret; empty when the folder cannot be written, which costs only this convenience."""
    token = _PREFIX + secrets.token_urlsafe(32)
    aside = data_dir / f".{TOKEN_FILE}.{os.getpid()}"
    try:
        aside.unlink(missing_ok=True)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(token + "\n")
        aside.replace(data_dir / TOKEN_FILE)
    except OSError:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        return ""
    return token


def remove_ops_token(data_dir: Path, token: str) -> None:
    """If it is still ours: another process may have started already."""
    with suppress(OSError):
        path = data_dir / TOKEN_FILE
        if path.read_text().strip() == token:
            path.unlink()
