"""
Erase everything about a player, for ever; sockets are closed, a phone that comes back later is refused.

The stores are those of the settings, else those of the `dev` that runs on the data folder; there the audit log says
that somebody was erased, and why, but not who. Running it again is harmless and finishes an erase that was
interrupted. With a newer token and a new device the player may start anew.

What no query sees (the append-only file of Redis, dead rows in Postgres's files) goes at once where the servers are
`dev`'s own, together with the player's id in its logs. On servers of yours it goes when they tidy up by themselves, or
with --tidy, which may take long on a large database. docs/privacy.md says what remains where.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid

from gateway.app.errors import ExitCode, SettingsError
from gateway.app.operate.api import Away, find_local_api
from gateway.app.operate.to_the_end import act_to_the_end
from gateway.app.ready import find_running
from gateway.app.remains import remove_walks, scrub_logs
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.store_urls import get_store_urls
from persistence.erase import EraseReport, erase_player
from persistence.errors import StoreUnavailable
from persistence.hot.store import HotStore
from persistence.remains import rewrite_append_only_file, vacuum_deleted_rows

DEADLINE_S = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("player", metavar="PLAYER", help="the player's UUID")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--tidy", action="store_true", help="rewrite files and vacuum tables on servers of yours, too")
    parser.add_argument("--reason", default="wayhold erase", metavar="TEXT", help="why, for the audit log")
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
    report = _erase_by_api(settings, player, args.reason) or asyncio.run(_erase(settings, player))
    tidied = _tidy(settings, player, is_everywhere=args.tidy)
    if args.json:
        facts = {"was_known": report.was_known, "progress": report.progress, "keys": report.keys, "tidied": tidied}
        print(json.dumps(facts))
        return ExitCode.OK
    if report.was_known:
        print(f"erased: {report.progress} progress with all events, {report.keys} keys in redis")
    else:
        print("nothing was known of this player; whoever comes back with an older token is refused all the same")
    print(f"tidied up: {', '.join(tidied) or 'nothing, the servers do it by themselves (--tidy for now)'}")
    return ExitCode.OK


def _tidy(settings: Settings, player: str, *, is_everywhere: bool) -> list[str]:
    """Get rid of what the erase left behind; what fails is said, and harms nothing. Returns what was done."""
    redis_url, database_url = get_store_urls(settings)
    done = []
    if is_everywhere or settings.redis_url is None:
        try:
            if asyncio.run(rewrite_append_only_file(redis_url)):
                done.append("append-only file")
        except StoreUnavailable as error:
            print(
                f"wayhold erase: {error}; the append-only file holds old writes until it is rewritten", file=sys.stderr
            )
    if is_everywhere or settings.database_url is None:
        try:
            asyncio.run(vacuum_deleted_rows(database_url))
            done.append("tables")
        except StoreUnavailable as error:
            print(f"wayhold erase: {error}; deleted rows stay in the files until a vacuum", file=sys.stderr)
    if find_running(settings.data_dir) is not None:
        if scrub_logs(settings.data_dir / "logs", player):
            done.append("logs")
        if remove_walks(settings.data_dir / "walk", player):
            done.append("walks")
    return done


def _confirms(player: str) -> bool:
    if not sys.stdin.isatty():
        raise SettingsError("an erase cannot be undone", "add --yes to say that you mean it")
    return input(f"Erase everything about {player}, for ever? [y/N] ").strip().lower() in ("y", "yes")


def _erase_by_api(settings: Settings, player: str, reason: str) -> EraseReport | None:
    """None: there is no API, or it went away; then the stores are asked themselves, which is harmless."""
    api = find_local_api(settings)
    if api is None:
        return None
    try:
        result = act_to_the_end(api, "erase", {"player": player}, {}, reason, DEADLINE_S)["result"]
    except Away:
        return None
    return EraseReport(result["was_known"], result["progress"], result["keys"])


async def _erase(settings: Settings, player: str) -> EraseReport:
    redis_url, database_url = get_store_urls(settings)
    hot = await HotStore.open(redis_url, partitions=settings.redis_partitions)
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await erase_player(hot, database_url, player)
    finally:
        await hot.close()
