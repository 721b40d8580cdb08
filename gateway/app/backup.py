"""
Back up the database of `dev` into one file, while it is played or while it is stopped.

The target is a file, or a folder in which the backup gets a name with its time. Everything in it is of one instant. It
holds players' data and is written for its owner alone (mode 0600); the token key (jwt_secret) is not in it, and Redis
is not: what is not saved yet stands in the journals of the devices.

`--tombstones FILE` writes who was erased, as hashes: keep the newest one beside your backups, so that a restore of an
older one leaves them erased. This is for the Postgres of `dev`; for one of yours use its own tools.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from gateway.app.dev_folder import check_is_ours
from gateway.app.errors import ExitCode, SettingsError, UnfitDependency, UnusableFolder
from gateway.app.ready import find_running
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.version import get_version
from persistence.embedded.backup import back_up, read_present_tombstones
from persistence.embedded.backup_file import write_small_file
from persistence.embedded.binaries import ServerBinary, get_postgres
from persistence.embedded.child import start_and_wait, stop_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.postgres import EmbeddedPostgres

NAME = "wayhold-{at:%Y%m%d-%H%M%S}.backup.zip"
NAME_PATTERN = re.compile(r"wayhold-\d{8}-\d{6}\.backup\.zip")
PROGRESS_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", type=Path, metavar="FILE|DIR", help="where the backup goes")
    parser.add_argument("--tombstones", type=Path, metavar="FILE", help="write who was erased there, too, or alone")
    parser.add_argument(
        "--keep", type=int, metavar="N", help="in a DIR: remove all but the newest N backups afterwards"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_setting_flags(parser, ["data_dir", "database_url"])


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    if args.target is None and args.tombstones is None:
        raise SettingsError("there is nowhere to write to", "give a file or a folder, or --tombstones FILE")
    target = None if args.target is None else choose_file(args.target)
    if args.keep is not None and (args.keep < 1 or args.target is None or not args.target.is_dir()):
        raise SettingsError("--keep counts the backups of a folder", "give a folder, and 1 or more")
    facts: dict[str, object] = {}
    with use_postgres(settings) as (database_url, binary):
        if target is not None:
            began = time.monotonic()
            manifest = asyncio.run(back_up(database_url, target, binary, get_version(), Progress("backing up")))
            size = target.stat().st_size
            facts = {"file": str(target), "bytes": size, **asdict(manifest)}
            if not args.json:
                took_s = time.monotonic() - began
                print(f"backed up {manifest.users:,} players to {target} ({size:,} bytes, {took_s:.1f} s)")
        if args.tombstones is not None:
            tombstones = asyncio.run(read_present_tombstones(database_url))
            write_small_file(args.tombstones, tombstones.to_json())
            facts |= {"tombstones": str(args.tombstones), "erased": len(tombstones.erased)}
            if not args.json:
                print(f"wrote {len(tombstones.erased):,} tombstones to {args.tombstones}")
    if args.keep is not None:
        facts["removed"] = [path.name for path in remove_oldest(args.target, args.keep)]
    if args.json:
        print(json.dumps(facts))
    return ExitCode.OK


@contextmanager
def use_postgres(settings: Settings) -> Iterator[tuple[str, ServerBinary]]:
    """The Postgres of the data folder: that of the running `dev`, else one that is started for us. Yields its URL."""
    if settings.database_url is not None:
        raise SettingsError(
            "this is for the Postgres of `dev`, and a database URL is given",
            "use pg_dump or your provider's backups for that one, or unset DATABASE_URL",
        )
    binary = get_postgres()
    running = find_running(settings.data_dir)
    if running is not None:
        if "postgres" not in running.processes:
            raise SettingsError("the running `dev` uses a Postgres of yours", "back it up with its own tools")
        yield running.database_url, binary
        return
    path = settings.data_dir.absolute()
    check_is_ours(path)
    if not (path / "postgres").exists():
        raise UnfitDependency(f"there is no database in {path}", "give the --data-dir of a `dev` that has run")
    with ExitStack() as stack:
        stack.enter_context(DataFolder(path, disk_free_bytes_min=settings.disk_free_min_bytes))
        postgres = EmbeddedPostgres(path)
        stack.callback(stop_and_wait, postgres)
        start_and_wait(postgres)
        yield postgres.url, binary


def choose_file(target: Path) -> Path:
    """The file to write. Raises UnusableFolder: there is no such folder, or something is in its place."""
    if target.is_dir():
        return target.absolute() / NAME.format(at=datetime.now(UTC))
    if target.exists() and not target.is_file():
        raise UnusableFolder(f"{target} is no file", "give a file or a folder")
    if not target.absolute().parent.is_dir():
        raise UnusableFolder(f"the folder {target.absolute().parent} is not there", "make it, or give another one")
    return target.absolute()


def remove_oldest(folder: Path, keep: int) -> list[Path]:
    """Remove our backups of a folder but the newest; files of other names are nobody's business here."""
    ours = sorted(path for path in folder.iterdir() if NAME_PATTERN.fullmatch(path.name))
    removed = ours[:-keep]
    for path in removed:
        path.unlink()
    return removed


class Progress:
    """A line on a terminal that counts bytes; nothing where nobody looks."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown_at = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int = 0) -> None:
        now = time.monotonic()
        if self._is_terminal and (now - self._shown_at > PROGRESS_S or done == total):
            self._shown_at = now
            part = f" ({done / total:.0%})" if total else ""
            print(f"\r{self._what}: {done / 2**20:,.0f} MiB{part} ", end="" if done != total else "\n", file=sys.stderr)
