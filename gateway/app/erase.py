"""
Erase everything about a player, for ever; sockets are closed, a phone that comes back later is refused.

The stores are those of the settings, else those of the `dev` that runs on the data folder. Running it again is
harmless and finishes an erase that was interrupted. With a newer token and a new device the player may start anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid

from gateway.app.errors import ExitCode, SettingsError
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.store_urls import get_store_urls
from persistence.erase import EraseReport, erase_player
from persistence.hot.store import HotStore

DEADLINE_S = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("player", metavar="PLAYER", help="the player's UUID")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_setting_flags(parser, ["redis_url", "database_url", "data_dir", "redis_partitions"])


def run(args: argparse.Namespace) -> int:
    try:
        player = str(uuid.UUID(args.player))
    except ValueError:
        raise SettingsError(f"{args.player!r} is no UUID", "give the player's user_id") from None
    settings = load_settings(args).settings
    if not args.yes and not _confirms(player):
        print("nothing was changed")
        return ExitCode.BAD_VERDICT
    report = asyncio.run(_erase(settings, player))
    if args.json:
        print(json.dumps({"was_known": report.was_known, "progress": report.progress, "keys": report.keys}))
    elif report.was_known:
        print(f"erased: {report.progress} progress with all events, {report.keys} keys in redis")
    else:
        print("nothing was known of this player; whoever comes back with an older token is refused all the same")
    return ExitCode.OK


def _confirms(player: str) -> bool:
    if not sys.stdin.isatty():
        raise SettingsError("an erase cannot be undone", "add --yes to say that you mean it")
    return input(f"Erase everything about {player}, for ever? [y/N] ").strip().lower() in ("y", "yes")


async def _erase(settings: Settings, player: str) -> EraseReport:
    redis_url, database_url = get_store_urls(settings)
    hot = await HotStore.open(redis_url, partitions=settings.redis_partitions)
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await erase_player(hot, database_url, player)
    finally:
        await hot.close()
