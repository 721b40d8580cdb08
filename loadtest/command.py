"""
Simulate many players through the real client, on bad networks if asked, hurt the processes if asked, and audit what
Postgres holds.

The players make their updates when they are due, whether or not the gateway keeps up. At the end it waits until
everything is saved, audits what Postgres holds, and reports.

Scenarios: story (every kind of update at an even rate), ar-walk, unity-session, reconnect-storm, offline-return, idle,
liveops-watch, mixed; or a class of your own, as FILE.py:CLASS.

Whatever happens, no player process is left behind and no Postgres stays frozen. The last line is the audit's verdict
and the exit code says the same; without a verdict there is no `ok`.
"""

# The text above is shown by --help. Here: the flags, and what is said and written when it is over. Not here: checking
# the flags (options.py), the test (load_test.py), what is wrong in Postgres (audit.py).

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import asyncpg

from loadtest.address import check_addresses, check_files
from loadtest.audit import ACCEPTED_MIN
from loadtest.audit_run import check_auditable
from loadtest.experience import WYLDING_WOODS, find_privacy
from loadtest.faults import KILLABLE
from loadtest.load_test import LoadTest
from loadtest.load_test_report import LoadTestReport
from loadtest.mud import FLAGS as MUD_FLAGS
from loadtest.mud import LEVELS
from loadtest.options import DROP_RATE_DEFAULT, OFFLINE_RATE_DEFAULT, Options, read_options
from loadtest.player_tokens import check_lifetimes, read_player_tokens
from loadtest.report_flags import add_report_arguments, publish, read_report_options, run_about_reports
from loadtest.scenario_choice import DEFAULT
from loadtest.target import (
    EXIT_BAD,
    EXIT_DEPENDENCY,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    Target,
    TargetMissing,
    TargetRefused,
    add_target_arguments,
    find_target,
)
from loadtest.thresholds import Breach, list_breaches
from loadtest.track import TrackRefused, read_track
from protocol.experience_file import ExperienceRefused


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target_arguments(parser)
    _add_players(parser.add_argument_group("players"))
    _add_time(parser.add_argument_group("how they come and go"))
    _add_mud(parser.add_argument_group("mud (their networks and phones)"))
    _add_scale(parser.add_argument_group("scale"))
    _add_faults(parser.add_argument_group("faults (on the running `dev` of this machine)"))
    _add_verdict(parser.add_argument_group("how long to wait, what to keep and to show"))
    add_report_arguments(parser)


def _add_players(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--players", type=int, default=100, metavar="N", help="simulated players (default 100)")
    group.add_argument(
        "--scenario", default=DEFAULT, metavar="NAME", help=f"what they do, or FILE.py:CLASS (default {DEFAULT})"
    )
    group.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the scenario; repeatable"
    )
    group.add_argument(
        "--track", action="append", default=[], type=Path, metavar="FILE", help="GPX track to walk along; repeatable"
    )
    group.add_argument("--experience", default=WYLDING_WOODS.experience_id, metavar="ID", help="what they play")
    group.add_argument(
        "--rate",
        type=float,
        metavar="N",
        help="updates per second and player (default 2 for the story; other scenarios have a pace of their own)",
    )
    group.add_argument("--think-s", metavar="DIST", help="how long they think, instead of what the scenario says")
    group.add_argument("--random-seed", type=int, metavar="N", help="makes their stories repeatable (default: any)")


def _add_time(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--seconds", type=float, metavar="S", help="how long the play lasts (default 15)")
    group.add_argument("--minutes", type=float, metavar="M", help="the same in minutes")
    group.add_argument("--ramp-s", type=float, metavar="S", help="time over which they connect (default by players)")
    group.add_argument(
        "--ramp",
        metavar="STAGES",
        help="stages instead, comma-separated: linear:N:S, step:N, hold:S, spike:N:S (N more for S seconds)",
    )
    group.add_argument(
        "--arrivals", choices=("random", "even"), default="random", help="at random (Poisson), or at even distances"
    )
    group.add_argument(
        "--session-s",
        metavar="DIST",
        help="how long a session lasts: S, uniform:A:B, exponential:MEAN, normal:MEAN:SD, lognormal:MEDIAN:SHAPE",
    )
    group.add_argument("--away-s", metavar="DIST", help="how long until the next one (default: at once)")


def _add_mud(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--mud", choices=tuple(LEVELS), default="none", help="how bad it is (default none)")
    for name in MUD_FLAGS:
        flag = f"--mud-{name.replace('_', '-')}"
        unit = "MS" if name.endswith("_ms") else "S"
        group.add_argument(flag, dest=f"mud_{name}", type=float, metavar=unit, help=_MUD_HELP[name])
    group.add_argument(
        "--drop-rate",
        type=float,
        metavar="P",
        help=f"part of updates before which a connection is cut (default {DROP_RATE_DEFAULT} for the story, else 0)",
    )
    group.add_argument(
        "--offline-rate",
        type=float,
        metavar="P",
        help=f"part of updates before which a player goes offline (default {OFFLINE_RATE_DEFAULT} for the story)",
    )


_MUD_HELP = {
    "latency_ms": "latency of one way",
    "jitter_ms": "up to so much more, at random",
    "dropout_every_s": "no network for 2 to 30 s, per player on average once in so long (0: never; so all below)",
    "half_open_every_s": "the socket falls silent and nobody is told",
    "address_change_every_s": "the player comes back from another address",
    "app_kill_every_s": "the app dies; its journal has what it wrote",
    "power_cut_every_s": "the phone dies; what its journal had not synced is gone",
    "second_device_every_s": "the player goes on with another phone for a while",
    "clock_skew_s": "phones' clocks are up to so wrong, both ways",
}


def _add_scale(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--processes", type=int, metavar="N", help="processes that hold them (default by players)")
    group.add_argument("--shard", metavar="I/N", help="this machine's part of the players: 2/3 is the second of three")
    group.add_argument(
        "--source-addresses",
        metavar="A,B,…",
        help="addresses of this machine to connect from (past 25,000 sockets; loopback needs none)",
    )


def _add_faults(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--kill", metavar="NAMES", help=f"SIGKILL these, comma-separated: {', '.join(KILLABLE)}, gateway-1, …"
    )
    group.add_argument("--kill-at", metavar="S[,S…]", help="when, in seconds of play (default: in the middle)")
    group.add_argument("--restart", metavar="NAMES", help="end these politely; the supervisor starts them again")
    group.add_argument("--restart-at", metavar="S[,S…]", help="when, in seconds of play (default: in the middle)")
    group.add_argument(
        "--no-return",
        action="store_true",
        help="SIGKILL the players, who never return, then at once --kill (default gateway,flusher,valkey)",
    )
    group.add_argument("--freeze-postgres-s", type=float, metavar="S", help="SIGSTOP Postgres for so long")


def _add_verdict(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--accepted-min",
        type=float,
        default=ACCEPTED_MIN,
        metavar="P",
        help=f"part of the offered updates that must be answered (default {ACCEPTED_MIN})",
    )
    group.add_argument(
        "--settle-s", type=float, default=90.0, metavar="S", help="how long to wait for everything saved (default 90)"
    )
    group.add_argument(
        "--history-dir", type=Path, metavar="DIR", help="keep the players' histories there (else only of a FAILED run)"
    )
    group.add_argument("--quiet", action="store_true", help="no view of the run, only what came of it")


def run(args: argparse.Namespace) -> int:
    """Exit codes: 0 ok, 1 the verdict is bad, 2 usage, 3 something needed is missing, 130 interrupted."""
    try:
        reports = read_report_options(args)
        if reports.is_about_reports:
            return run_about_reports(reports)
        return asyncio.run(_run(*prepare(args)))
    except (TargetRefused, ExperienceRefused, TrackRefused) as refused:
        print(f"wayhold loadtest: {refused}", file=sys.stderr)
        return EXIT_USAGE
    except TargetMissing as missing:
        print(f"wayhold loadtest: {missing}", file=sys.stderr)
        return EXIT_DEPENDENCY
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def prepare(args: argparse.Namespace) -> tuple[Options, Target]:
    """
    What to play and where, after everything that can be checked before.

    Raises:
        TargetRefused, ExperienceRefused, TrackRefused: a flag, or a file that it names, cannot be used.
        TargetMissing: nothing to play on, or to audit.
    """
    options = read_options(args)
    find_privacy(options.experience)  # a definition that cannot be used is found before anybody plays
    for track in options.tracks:
        read_track(track)
    target = find_target(args)
    if args.token is not None:
        tokens = read_player_tokens(args.token)
        if options.players > len(tokens):
            raise TargetRefused(f"--players {options.players}, and {len(tokens)} tokens: each player needs its own")
        first, here = options.shard.find_part(options.players)
        playing = dict(itertools.islice(tokens.items(), first, first + here))
        check_lifetimes(playing, time.time() + options.ramp_s + options.seconds)
        target = replace(target, tokens=tokens)
    check_auditable(target, options.reports.audit, is_no_return=options.is_no_return)
    if options.needs_processes:
        target.list_processes()
    here = options.shard.find_part(options.players)[1]
    check_files(here, options.processes, sockets_each=options.sockets_each)
    check_addresses(here, target.url, options.source_addresses)
    return options, target


async def _run(options: Options, target: Target) -> int:
    folder = Path(tempfile.mkdtemp(prefix="wayhold-loadtest-"))
    is_ok = False
    try:
        report = await LoadTest(options, target, folder).run()
        breaches, unwritten = _publish(report, options)
        is_ok = report.audit.is_ok and not breaches
        for line in report.lines():
            print(line, flush=True)
        for line in report.audit.lines()[:-1]:
            print(line)
        for breach in breaches:
            print(f"  fail-if {breach}")
        if not is_ok and options.history_dir is None:
            print(f"  histories of the players: {folder}")
        print(report.audit.last_line(), flush=True)
        if unwritten:
            raise TargetMissing(f"the report cannot be written: {unwritten}")
        return EXIT_OK if is_ok else EXIT_BAD
    except (OSError, TimeoutError, asyncpg.PostgresError) as fault:
        raise TargetMissing(f"the database cannot be read: {_first_line(fault)}") from fault
    finally:
        if options.history_dir is not None:
            shutil.copytree(folder, options.history_dir, dirs_exist_ok=True)
        if is_ok or options.history_dir is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _publish(report: LoadTestReport, options: Options) -> tuple[list[Breach], str]:
    """Bounds that were not kept, and why the report could not be written: a full disk must not hide the verdict."""
    document = report.as_document()
    try:
        return publish(document, options.reports), ""
    except OSError as fault:
        return list_breaches(options.reports.thresholds, document["figures"]), _first_line(fault)


def _first_line(fault: BaseException) -> str:
    lines = str(fault).splitlines()
    return f"{type(fault).__name__}: {lines[0]}" if lines else type(fault).__name__
