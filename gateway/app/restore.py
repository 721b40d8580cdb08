"""
Replace the database of `dev` by a backup. Stop `dev` first.

The backup is read to its end before anything happens. It is restored beside the present database, brought to the schema
of this release and told who was erased since; then the two change places at once. The present one is backed up before
(<data-dir>/backups, unless --no-safety-backup), and Redis is emptied: its copies are of another history.

Who was erased stays erased: the tombstones of the present data folder are honoured, and those of every --tombstones
FILE (a newer backup, or what `wayhold backup --tombstones` wrote). Into an empty folder, give the newest you have.
Clients that had saved more than the backup holds go on in new streams by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from gateway.app.backup import Progress
from gateway.app.dev_folder import BACKUPS, check_is_ours
from gateway.app.errors import ExitCode, SettingsError, UnfitDependency
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.typed import typed_command, typed_data_dir
from gateway.app.version import get_version
from persistence.embedded.backup import back_up
from persistence.embedded.backup_file import Manifest, Tombstones, check_backup, read_tombstones
from persistence.embedded.binaries import get_postgres
from persistence.embedded.child import start_and_wait, stop_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.errors import ChildFailed, EmbeddedUnfit
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.embedded.restore import RestoreReport, check_fits, restore
from persistence.errors import StoreUnavailable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backup", type=Path, metavar="FILE", help="what `wayhold backup` wrote")
    parser.add_argument("--check", action="store_true", help="only read the file to its end and say what it is")
    parser.add_argument(
        "--tombstones", type=Path, metavar="FILE", action="append", default=[], help="who was erased; may be repeated"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--no-safety-backup", action="store_true", help="do not back the present database up first")
    parser.add_argument(
        "--aside",
        action="store_true",
        help="move the present Postgres folder aside: it is damaged, or of another major",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_setting_flags(parser, ["data_dir", "database_url", "redis_url"])


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    manifest = check_backup(args.backup, Progress("reading"))
    if args.check:
        print(json.dumps(asdict(manifest)) if args.json else f"ok: {_describe(manifest)}")
        return ExitCode.OK
    if settings.database_url is not None:
        raise SettingsError(
            "this is for the Postgres of `dev`, and a database URL is given",
            "unset DATABASE_URL; postgres.dump in the file is for pg_restore",
        )
    more = [read_tombstones(path) for path in args.tombstones]
    check_fits(manifest, get_postgres())
    if not args.yes and not _confirms(settings, manifest):
        print("nothing was changed")
        return ExitCode.BAD_VERDICT
    began = time.monotonic()
    report, notes = _restore(args, settings, manifest, more)
    if args.json:
        facts = {"erased": report.erased, "migrations": report.migrations, "notes": notes, **asdict(manifest)}
        print(json.dumps(facts))
        return ExitCode.OK
    print(f"restored {_describe(manifest)} in {time.monotonic() - began:.1f} s")
    if report.erased:
        print(f"{report.erased:,} of its players had been erased since, and are gone again")
    for note in notes:
        print(f"note: {note}")
    print(f"next: {typed_command()} dev{typed_data_dir(settings.data_dir)}")
    return ExitCode.OK


def _restore(
    args: argparse.Namespace, settings: Settings, manifest: Manifest, more: list[Tombstones]
) -> tuple[RestoreReport, list[str]]:
    path = settings.data_dir.absolute()
    check_is_ours(path)
    notes = []
    with ExitStack() as stack:
        folder = stack.enter_context(DataFolder(path, disk_free_bytes_min=settings.disk_free_min_bytes))
        if args.aside and (path / "postgres").exists():
            notes.append(f"what was there is in {_move_aside(path)}; remove it when you need it no more")
        is_new = not (path / "postgres").exists()
        postgres = EmbeddedPostgres(path)
        stack.callback(stop_and_wait, postgres)
        try:
            start_and_wait(postgres)
        except (ChildFailed, EmbeddedUnfit) as error:
            if is_new:
                raise
            raise UnfitDependency(
                f"the present database cannot be started: {error}",
                "--aside moves it aside and restores into a new one; give --tombstones then",
            ) from error
        if is_new and not more:
            notes.append("whoever was erased after this backup was taken is back: give --tombstones of a newer one")
        if not is_new and not args.no_safety_backup:
            saved = _back_up_present(postgres, path)
            if saved is not None:
                notes.append(f"the database that was there is backed up in {saved}")
        report = asyncio.run(restore(postgres, args.backup, manifest, more, _say_step))
        # Last: until here the present database and its hot copies belong together.
        stop_and_wait(postgres)
        if settings.redis_url is None:
            folder.remove_hot_data()
        else:
            notes.append("empty your Redis before players come back (FLUSHDB): its copies are of another history")
    return report, notes


def _back_up_present(postgres: EmbeddedPostgres, path: Path) -> Path | None:
    """None when there is nothing in it yet."""
    folder = path / BACKUPS
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"before-restore-{datetime.now(UTC):%Y%m%d-%H%M%S}.backup.zip"
    try:
        asyncio.run(back_up(postgres.url, file, postgres.binary, get_version(), Progress("backing up")))
    except StoreUnavailable as error:
        # A database without our tables: somebody's first start was interrupted.
        if "UndefinedTable" in type(error.__cause__).__name__:
            return None
        raise
    return file


def _move_aside(path: Path) -> Path:
    aside = path / f"postgres.old-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    (path / "postgres").rename(aside)
    return aside


def _say_step(step: str) -> None:
    print(f"{step} …", file=sys.stderr)


def _describe(manifest: Manifest) -> str:
    return (
        f"a backup of {manifest.created_at}: {manifest.users:,} players, schema {manifest.schema}, "
        f"wayhold {manifest.wayhold}, PostgreSQL {manifest.postgres}"
    )


def _confirms(settings: Settings, manifest: Manifest) -> bool:
    if not sys.stdin.isatty():
        raise SettingsError("a restore replaces the database", "add --yes to say that you mean it")
    question = f"Replace the database in {settings.data_dir} by {_describe(manifest)}? [y/N] "
    return input(question).strip().lower() in ("y", "yes")
