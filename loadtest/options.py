"""
What a load test is asked for: its flags, checked before anything starts.

Not here: reading them (command.py), doing it (load_test.py).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from loadtest.address import parse_addresses
from loadtest.distribution import parse_distribution
from loadtest.faults import KILLABLE
from loadtest.late_acks import LATE_ACK_MS
from loadtest.mud import FLAGS as MUD_FLAGS
from loadtest.mud import Mud, choose_mud
from loadtest.player_processes import split_players
from loadtest.ramp import Stage, count_players, find_length_s, parse_ramp
from loadtest.report_flags import ReportOptions, read_report_options
from loadtest.scenario import Scenario
from loadtest.scenario_choice import DEFAULT, make_scenario, read_parameters
from loadtest.shards import Shard, parse_shard
from loadtest.target import TargetRefused

PLAYERS_MAX = 1_000_000
SECONDS_DEFAULT = 15.0
RATE_DEFAULT = 2.0
DROP_RATE_DEFAULT, OFFLINE_RATE_DEFAULT = 0.002, 0.001
# What a gateway takes without making anybody wait; see its setting for handshakes.
PLAYERS_PER_RAMP_S = 100

_T = TypeVar("_T")


@dataclass(slots=True)
class Options:
    """The flags, checked. `rate` is None for a scenario at its own pace."""

    players: int
    seconds: float
    rate: float | None
    ramp_s: float
    processes: int
    experience: str
    random_seed: int
    drop_rate: float
    offline_rate: float
    accepted_min: float
    settle_s: float
    kill: list[str]
    kill_at_s: list[float]
    is_no_return: bool
    freeze_postgres_s: float
    history_dir: Path | None
    scenario: str = DEFAULT
    parameters: dict[str, str] = field(default_factory=dict)
    tracks: list[Path] = field(default_factory=list)
    mud_level: str = "none"
    mud: Mud = field(default_factory=Mud)
    stages: tuple[Stage, ...] = ()
    arrivals: str = "random"
    session_s: str | None = None
    away_s: str | None = None
    think_s: str | None = None
    restart: list[str] = field(default_factory=list)
    restart_at_s: list[float] = field(default_factory=list)
    shard: Shard = field(default_factory=Shard)
    source_addresses: list[str] = field(default_factory=list)
    is_quiet: bool = False
    reports: ReportOptions = field(default_factory=ReportOptions)

    def as_dict(self) -> dict[str, Any]:
        """For reports: what was played, without what became of it."""
        kept = {name: value for name, value in asdict(self).items() if name != "reports"}
        kept["shard"], kept["stages"] = str(self.shard), [str(stage) for stage in self.stages]
        kept["tracks"] = [str(track) for track in self.tracks]
        kept["history_dir"] = str(self.history_dir) if self.history_dir is not None else None
        return kept

    @property
    def late_ack_ms(self) -> float | None:
        """Mud holds answers back by itself: then late ones are only looked for when somebody says what is late."""
        if self.reports.late_ack_ms is None:
            return None if self.mud.has_link else LATE_ACK_MS
        return self.reports.late_ack_ms

    @property
    def needs_processes(self) -> bool:
        return bool(self.kill or self.restart) or self.freeze_postgres_s > 0

    @property
    def sockets_each(self) -> float:
        """How many sockets a player may hold at once: those that the network forgot linger."""
        return 1.5 if self.mud.has_link or self.mud.second_device_every_s else 1.0

    def make_scenario(self) -> Scenario:
        """Raises TargetRefused."""
        return make_scenario(self.scenario, self.parameters)


def read_options(args: argparse.Namespace) -> Options:
    """Raises TargetRefused, naming the flag."""
    for flag, value, low, high in (
        ("--players", args.players, 1, PLAYERS_MAX),
        ("--seconds", args.seconds, 0.1, 604_800),
        ("--minutes", args.minutes, 0.01, 10_080),
        ("--rate", args.rate, 0.01, 100),
        ("--drop-rate", args.drop_rate, 0, 1),
        ("--offline-rate", args.offline_rate, 0, 1),
        ("--accepted-min", args.accepted_min, 0, 1),
        ("--settle-s", args.settle_s, 1, 3600),
        ("--ramp-s", args.ramp_s, 0, 3600),
        ("--processes", args.processes, 1, 64),
        ("--freeze-postgres-s", args.freeze_postgres_s, 0.1, 600),
        *((_mud_flag(name), getattr(args, f"mud_{name}"), 0, 1e6) for name in MUD_FLAGS),
    ):
        if value is not None and not low <= value <= high:
            raise TargetRefused(f"{flag} must be between {low:g} and {high:g}, is {value:g}")
    if args.token is not None and not args.token.startswith("@") and args.players > 1:
        raise TargetRefused("--token is one player's token: say --token @FILE or --token-secret-file for many players")
    stages = _read("--ramp", args.ramp, parse_ramp) or ()
    if stages and args.ramp_s is not None:
        raise TargetRefused("--ramp says itself how long it takes: leave out --ramp-s")
    if stages and count_players(stages) > args.players:
        raise TargetRefused(f"--ramp needs --players {count_players(stages)}, there are {args.players}")
    seconds = _choose_seconds(args, stages)
    kill = _read_names("--kill", args.kill)
    if args.no_return and not kill:
        kill = ["gateway", "flusher", "valkey"]
    kill_at_s = _read_times("--kill-at", args.kill_at, "--kill", kill)
    restart = _read_names("--restart", args.restart)
    restart_at_s = _read_times("--restart-at", args.restart_at, "--restart", restart)
    if args.no_return and (args.freeze_postgres_s or len(kill_at_s) > 1 or restart):
        raise TargetRefused("--no-return goes with one --kill-at, without --restart and without --freeze-postgres-s")
    for track in args.track:
        if not track.is_file():
            raise TargetRefused(f"--track: there is no file {track}")
    if args.away_s is not None and args.session_s is None:
        raise TargetRefused("--away-s is between sessions: say --session-s, too")
    is_story = args.scenario == DEFAULT
    shard = _read("--shard", args.shard, parse_shard) or Shard()
    here = shard.find_part(args.players)[1]
    options = Options(
        players=args.players,
        seconds=seconds,
        rate=args.rate if args.rate is not None or not is_story else RATE_DEFAULT,
        ramp_s=0.0 if stages else args.ramp_s if args.ramp_s is not None else max(1.0, here / PLAYERS_PER_RAMP_S),
        processes=args.processes if args.processes is not None else split_players(here),
        experience=args.experience,
        random_seed=args.random_seed if args.random_seed is not None else random.SystemRandom().randrange(2**32),
        drop_rate=_default(args.drop_rate, DROP_RATE_DEFAULT if is_story else 0.0),
        offline_rate=_default(args.offline_rate, OFFLINE_RATE_DEFAULT if is_story else 0.0),
        accepted_min=args.accepted_min,
        settle_s=args.settle_s,
        kill=kill,
        kill_at_s=kill_at_s or ([seconds if args.no_return else seconds / 2] if kill else []),
        is_no_return=args.no_return,
        freeze_postgres_s=args.freeze_postgres_s or 0.0,
        history_dir=args.history_dir,
        scenario=args.scenario,
        parameters=read_parameters(args.param),
        tracks=args.track,
        mud_level=args.mud,
        mud=choose_mud(args.mud, **{name: getattr(args, f"mud_{name}") for name in MUD_FLAGS}),
        stages=stages,
        arrivals=args.arrivals,
        session_s=_read_distribution("--session-s", args.session_s),
        away_s=_read_distribution("--away-s", args.away_s),
        think_s=_read_distribution("--think-s", args.think_s),
        restart=restart,
        restart_at_s=restart_at_s or ([seconds / 2] if restart else []),
        shard=shard,
        source_addresses=_read("--source-addresses", args.source_addresses, parse_addresses) or [],
        is_quiet=args.quiet,
        reports=read_report_options(args),
    )
    options.make_scenario()
    return options


def _mud_flag(name: str) -> str:
    return f"--mud-{name.replace('_', '-')}"


def _default(value: float | None, default: float) -> float:
    return default if value is None else value


def _choose_seconds(args: argparse.Namespace, stages: tuple[Stage, ...]) -> float:
    if args.seconds is not None and args.minutes is not None:
        raise TargetRefused("--seconds and --minutes say the same: use one of them")
    if args.seconds is not None:
        return float(args.seconds)
    if args.minutes is not None:
        return float(args.minutes) * 60
    return find_length_s(stages) or SECONDS_DEFAULT


def _read(flag: str, text: str | None, parse: Callable[[str], _T]) -> _T | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as refused:
        raise TargetRefused(f"{flag}: {refused}") from None


def _read_distribution(flag: str, text: str | None) -> str | None:
    found = _read(flag, text, parse_distribution)
    return str(found) if found is not None else None


def _read_names(flag: str, text: str | None) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()] if text else []
    for name in names:
        if name not in KILLABLE and name.rpartition("-")[0] not in KILLABLE:
            raise TargetRefused(f"{flag} does not know {name!r}: use {', '.join(KILLABLE)}")
    return names


def _read_times(flag: str, text: str | None, needs: str, names: list[str]) -> list[float]:
    if text is not None and not names:
        raise TargetRefused(f"{flag} needs {needs}")
    try:
        times_s = [float(at) for at in text.split(",")] if text else []
    except ValueError:
        raise TargetRefused(f"{flag} wants seconds, comma-separated, not {text!r}") from None
    if any(not 0 <= at_s <= 604_800 for at_s in times_s):
        raise TargetRefused(f"{flag} wants seconds of play, not {text!r}")
    return times_s
