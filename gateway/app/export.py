"""
Write everything that is known about a player into one JSON file: what a player may ask you for.

The stores are those of the settings, else those of the `dev` that runs on the data folder, whose audit log notes it.
Without --output it goes to stdout. The format is described in docs/privacy.md. The exit code is 1 when nothing is known
of the player.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import uuid
from contextlib import aclosing, suppress
from pathlib import Path

from gateway.app.errors import ExitCode, SettingsError, UnfitDependency, UnusableFolder
from gateway.app.operate.api import Refused, find_local_api
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.store_urls import get_store_urls
from persistence.errors import PlayerUnknown
from persistence.export import export_player
from persistence.hot.store import HotStore

DEADLINE_S = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("player", metavar="PLAYER", help="the player's UUID")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it there (mode 0600; default: stdout)")
    add_setting_flags(parser, ["redis_url", "database_url", "data_dir", "redis_partitions"])


def run(args: argparse.Namespace) -> int:
    try:
        player = str(uuid.UUID(args.player))
    except ValueError:
        raise SettingsError(f"{args.player!r} is no UUID", "give the player's user_id") from None
    settings = load_settings(args).settings
    try:
        if args.output is None:
            _export_by(settings, player, sys.stdout.fileno())
        else:
            size = _write_file(settings, player, args.output)
            print(f"exported {size:,} bytes to {args.output}")
    except PlayerUnknown as unknown:
        print(f"wayhold export: {unknown}", file=sys.stderr)
        return ExitCode.BAD_VERDICT
    except TimeoutError:
        raise UnfitDependency(f"the export took longer than {DEADLINE_S / 60:.0f} minutes", "run it again") from None
    return ExitCode.OK


def _write_file(settings: Settings, player: str, output: Path) -> int:
    """It appears whole or not at all, and is nobody else's to read."""
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UnusableFolder(f"{output} cannot be written ({error.strerror})", "give another --output") from None
    try:
        try:
            _export_by(settings, player, fd)
            os.fsync(fd)
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        aside.replace(output)
    except TimeoutError:
        raise
    except OSError as error:
        raise UnusableFolder(f"{output} cannot be written ({error.strerror})", "make room") from None
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
    return size


def _export_by(settings: Settings, player: str, fd: int) -> None:
    """Through the API of a `dev` that runs, whose audit log says that it was done; else from the stores."""
    api = find_local_api(settings)
    if api is None:
        asyncio.run(_export(settings, player, fd))
        return
    try:
        api.download(f"/api/v1/players/{player}/export", fd)
    except Refused:
        raise PlayerUnknown(player) from None


async def _export(settings: Settings, player: str, fd: int) -> None:
    redis_url, database_url = get_store_urls(settings)
    hot = await HotStore.open(redis_url, partitions=settings.redis_partitions)
    try:
        async with asyncio.timeout(DEADLINE_S), aclosing(export_player(hot, database_url, player)) as pieces:
            with os.fdopen(fd, "w", encoding="utf-8", newline="\n", closefd=False) as file:
                async for piece in pieces:
                    file.write(piece)
    finally:
        await hot.close()
