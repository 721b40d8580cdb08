"""
What `dev` keeps in its data folder beside the embedded servers: the dev secret, ready.json, metrics.

Promise: a folder that holds other people's files is never used and never emptied; what `--fresh` removes are the names
that we made, and only while we hold the folder's lock.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from gateway.app.errors import UnusableFolder
from gateway.app.ready import FILE_NAME as READY_FILE
from gateway.app.settings import read_jwt_secret
from persistence.embedded.data_folder import DataFolder

SECRET_FILE = "jwt_secret"
BACKUPS = "backups"
OUR_NAMES = frozenset(
    {
        "lock",
        "valkey",
        "valkey.lock",
        "postgres",
        "postgres.new",
        "postgres.lock",
        "sockets",
        "logs",
        "run",
        "walk",
        "upgrade",
        SECRET_FILE,
        READY_FILE,
    }
)
# What may lie in a folder that is meant for us: set-up tools put these there.
# Backups are ours, and stay all the same: emptying the folder must not take what would bring its contents back.
HARMLESS_NAMES = frozenset({"lost+found", ".gitkeep", ".gitignore", ".DS_Store", BACKUPS})
OTHER_FOLDER = "choose another folder with --data-dir"


def check_is_ours(path: Path) -> None:
    """
    Look at the folder without touching it: absent, empty and ours are fine.

    Raises:
        UnusableFolder: it is no folder, cannot be read, or was not made by us.
    """
    try:
        names = {entry.name for entry in os.scandir(path)}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise UnusableFolder(f"data folder {path} is not a folder", OTHER_FOLDER) from None
    except OSError as error:
        raise UnusableFolder(f"data folder {path} cannot be read ({error.strerror})", OTHER_FOLDER) from None
    foreign = names - OUR_NAMES - HARMLESS_NAMES
    if foreign and "lock" not in names:
        raise UnusableFolder(
            f"{path} is not a wayhold data folder (it holds {sorted(foreign)[0]!r})",
            "give an empty one with --data-dir",
        )


def empty_folder(folder: DataFolder) -> None:
    """
    Remove everything that we made in a folder whose lock we hold, the lock file aside.

    Raises:
        UnusableFolder: something in it is not ours; nothing was removed.
    """
    names = {entry.name for entry in os.scandir(folder.path)}
    foreign = {name for name in names if not _is_ours(name)} - HARMLESS_NAMES
    if foreign:
        raise UnusableFolder(
            f"{folder.path} holds {sorted(foreign)[0]!r}, which is not ours: --fresh removed nothing",
            "move that away, or give another --data-dir",
        )
    folder.remove_server_data()
    for name in names - HARMLESS_NAMES - {"lock"}:
        path = folder.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def make_secret(data_dir: Path) -> Path:
    """The file with the dev secret (0600), made when it is not there. Raises SettingsError for an unusable one."""
    path = data_dir / SECRET_FILE
    if not path.exists():
        aside = path.with_name(f".{SECRET_FILE}.{os.getpid()}")
        with suppress(FileNotFoundError):
            aside.unlink()
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
        aside.replace(path)
    read_jwt_secret(path)
    return path


def _is_ours(name: str) -> bool:
    # postgres.incomplete-1, postgres.old-18: put aside; postgres.program-18: to read such data with;
    # .ready.json.123: half-written by a killed process.
    return name in OUR_NAMES or name.startswith(
        ("postgres.incomplete", "postgres.old-", "postgres.program-", f".{READY_FILE}.", f".{SECRET_FILE}.", ".probe-")
    )
