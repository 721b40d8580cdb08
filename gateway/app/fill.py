"""
Fill a database with invented players and their events, for benchmarks, dashboards and demonstrations.

Players walk, collect, finish quests and come back over the last days; everything that Postgres holds of them agrees, as
if they had played: `wayhold verify` finds nothing. The database is that of the settings, else that of the `dev` that
runs on the data folder. It must have no players, unless --add says that these are more.

A fill that was cut off leaves whole players: the same command with --add and the random seed that it printed makes the
others. Takes about a minute for each two million events. Where people play, their steps wait in Redis while the rollups
are computed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from dataclasses import asdict

from gateway.app.checks import check_postgres
from gateway.app.errors import ExitCode, SettingsError, UnfitDependency
from gateway.app.experience_files import load_experiences
from gateway.app.level_rule import LEVEL_SETTINGS, make_level_rule
from gateway.app.migrate import find_database_url
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from persistence.errors import PersistenceError
from persistence.fill.fill import DatabaseNotEmpty, FillReport, fill
from persistence.fill.plan import FillPlan
from persistence.fill.story import World
from protocol.experience import EXPERIENCE_ID


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--players", type=int, default=1_000, metavar="N", help="how many players (default 1,000)")
    parser.add_argument("--events", type=int, metavar="M", help="how many events in all (default 50 for each player)")
    parser.add_argument("--experience", default="wylding-woods", metavar="NAME", help="default wylding-woods")
    parser.add_argument("--days", type=int, default=90, metavar="N", help="how far back the first events lie (90)")
    parser.add_argument("--random-seed", type=int, metavar="N", help="the same number makes the same players")
    parser.add_argument("--add", action="store_true", help="there may be players already; those that exist stay")
    parser.add_argument("--json", action="store_true", help="machine-readable; progress goes to stderr all the same")
    add_setting_flags(parser, ["database_url", "data_dir", "experiences_dir", *LEVEL_SETTINGS])


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    plan = _make_plan(args, settings)
    url = find_database_url(settings)
    if url is None:
        raise SettingsError("no database to fill", "start `wayhold dev`, or set DATABASE_URL (or give --database-url)")
    _say(
        f"{plan.players:,} players, {plan.events:,} events of {plan.world.experience_id} over {plan.days} days "
        f"(--random-seed {plan.random_seed})"
    )
    try:
        report = asyncio.run(_fill(url, plan))
    except DatabaseNotEmpty:
        raise SettingsError(
            "there are players in this database already", "add to them with --add, or give an empty database"
        ) from None
    except PersistenceError as error:
        raise UnfitDependency(f"the fill stopped: {error}", _advice(plan)) from None
    except KeyboardInterrupt:
        _say(f"stopped; {_advice(plan)}")
        raise
    if args.json:
        print(json.dumps({"random_seed": plan.random_seed, **asdict(report)}))
    else:
        print(_last_line(report))
    return ExitCode.OK


def _make_plan(args: argparse.Namespace, settings: Settings) -> FillPlan:
    if not EXPERIENCE_ID.fullmatch(args.experience):
        raise SettingsError(f"{args.experience!r} is no name of an experience", "use letters, digits and . _ -")
    definition = load_experiences(settings).get(args.experience)
    days = args.days
    if definition is not None and definition.privacy.event_retention_days is not None:
        days = min(days, definition.privacy.event_retention_days)
    seed = args.random_seed if args.random_seed is not None else random.SystemRandom().randrange(2**32)
    try:
        return FillPlan(
            World.invent(args.experience) if definition is None else World.of(definition),
            players=args.players,
            events=50 * args.players if args.events is None else args.events,
            days=days,
            random_seed=seed,
            adds=args.add,
            levels=make_level_rule(settings),
        )
    except ValueError as error:
        raise SettingsError(str(error), "correct --players, --events or --days") from None


async def _fill(url: str, plan: FillPlan) -> FillReport:
    await check_postgres(url, is_migrated_later=False)
    return await fill(url, plan, _say)


def _say(line: str) -> None:
    print(f"fill: {line}", file=sys.stderr, flush=True)


def _advice(plan: FillPlan) -> str:
    return f"whole players were kept, make the others with --add --random-seed {plan.random_seed} and the same numbers"


def _last_line(report: FillReport) -> str:
    kept = f" ({report.players_present:,} were there)" if report.players_present else ""
    return (
        f"fill: ok players={report.players}{kept} events={report.events} sessions={report.sessions} "
        f"seconds={report.duration_s:.0f}"
    )
