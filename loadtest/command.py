"""
Simulate many players through the real client, hurt the processes if asked, and audit what Postgres holds.

The players make their updates when they are due, whether or not the gateway keeps up. At the end it waits until
everything is saved, audits what Postgres holds, and reports.

Whatever happens, no player process is left behind and no Postgres stays frozen. The last line is the audit's verdict
and the exit code says the same; without a verdict there is no `ok`.
"""

# The text above is shown by --help. Here: starting the players' processes, the clock, kills and freezes on time,
# waiting, the report. Not here: what a player does (storyline.py, player.py), what is wrong in Postgres (audit.py).

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from loadtest.audit import ACCEPTED_MIN, AuditReport, audit_with
from loadtest.experience import WYLDING_WOODS, find_privacy
from loadtest.faults import KILLABLE, frozen, kill_processes
from loadtest.history import PlayerHistory, note_untold_voids, now_ms, read_histories
from loadtest.player import Habits
from loadtest.player_processes import PlayerProcesses, split_players
from loadtest.report import FreezeReport, ack_latency, report_freeze, saved_latency, show_counts, sum_counts
from loadtest.run_players import PlayersPlan
from loadtest.stored import connect, get_commits, list_stream_ends
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
    check_json_file,
    find_target,
)
from protocol.experience_file import ExperienceRefused

PLAYERS_MAX = 100_000
# What a gateway takes without making anybody wait; see its setting for handshakes.
PLAYERS_PER_RAMP_S = 100
# Streams of killed players are drained when nothing has moved for as long as several flushes take.
STILL_S = 4.0
POLL_S = 0.5
START_WAIT_S = 60.0
LEAVE_WAIT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target_arguments(parser)
    parser.add_argument("--players", type=int, default=100, metavar="N", help="simulated players (default 100)")
    parser.add_argument("--seconds", type=float, default=15.0, metavar="S", help="how long each plays (default 15)")
    parser.add_argument(
        "--rate", type=float, default=2.0, metavar="N", help="updates per second and player (default 2)"
    )
    parser.add_argument("--ramp-s", type=float, metavar="S", help="time over which they connect (default by players)")
    parser.add_argument("--processes", type=int, metavar="N", help="processes that hold them (default by players)")
    parser.add_argument("--experience", default=WYLDING_WOODS.experience_id, metavar="ID", help="what they play")
    parser.add_argument("--random-seed", type=int, metavar="N", help="makes their stories repeatable (default: any)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as JSON, too")
    parser.add_argument(
        "--drop-rate", type=float, default=0.002, metavar="P", help="part of updates before which a connection is cut"
    )
    parser.add_argument(
        "--offline-rate",
        type=float,
        default=0.001,
        metavar="P",
        help="part of updates before which a player goes offline",
    )
    parser.add_argument(
        "--accepted-min",
        type=float,
        default=ACCEPTED_MIN,
        metavar="P",
        help=f"part of the offered updates that must be answered (default {ACCEPTED_MIN})",
    )
    parser.add_argument(
        "--settle-s", type=float, default=90.0, metavar="S", help="how long to wait for everything saved (default 90)"
    )
    faults = parser.add_argument_group("faults (on the running `dev` of this machine)")
    faults.add_argument(
        "--kill", metavar="NAMES", help=f"SIGKILL these, comma-separated: {', '.join(KILLABLE)}, gateway-1, …"
    )
    faults.add_argument("--kill-at", metavar="S[,S…]", help="when, in seconds of play (default: in the middle)")
    faults.add_argument(
        "--no-return",
        action="store_true",
        help="SIGKILL the players, who never return, then at once --kill (default gateway,flusher,valkey)",
    )
    faults.add_argument("--freeze-postgres-s", type=float, metavar="S", help="SIGSTOP Postgres for so long")
    parser.add_argument(
        "--history-dir", type=Path, metavar="DIR", help="keep the players' histories there (else only of a FAILED run)"
    )


def run(args: argparse.Namespace) -> int:
    """Exit codes: 0 ok, 1 the verdict is bad, 2 usage, 3 something needed is missing, 130 interrupted."""
    try:
        options = read_options(args)
        check_json_file(args.json)
        find_privacy(options.experience)  # a definition that cannot be used is found before anybody plays
        target = find_target(args)
        if target.database_url is None:
            raise TargetMissing("the audit needs the database: say --database-url (or set DATABASE_URL)")
        if options.needs_processes:
            target.list_processes()
        return asyncio.run(_run(options, target))
    except (TargetRefused, ExperienceRefused) as refused:
        print(f"wayhold loadtest: {refused}", file=sys.stderr)
        return EXIT_USAGE
    except TargetMissing as missing:
        print(f"wayhold loadtest: {missing}", file=sys.stderr)
        return EXIT_DEPENDENCY
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


@dataclass(slots=True)
class Options:
    """The flags, checked."""

    players: int
    seconds: float
    rate: float
    ramp_s: float
    processes: int
    experience: str
    random_seed: int
    json: Path | None
    drop_rate: float
    offline_rate: float
    accepted_min: float
    settle_s: float
    kill: list[str]
    kill_at_s: list[float]
    is_no_return: bool
    freeze_postgres_s: float
    history_dir: Path | None

    @property
    def needs_processes(self) -> bool:
        return bool(self.kill) or self.freeze_postgres_s > 0


def read_options(args: argparse.Namespace) -> Options:
    """Raises TargetRefused, naming the flag."""
    for flag, value, low, high in (
        ("--players", args.players, 1, PLAYERS_MAX),
        ("--seconds", args.seconds, 0.1, 86_400),
        ("--rate", args.rate, 0.01, 100),
        ("--drop-rate", args.drop_rate, 0, 1),
        ("--offline-rate", args.offline_rate, 0, 1),
        ("--accepted-min", args.accepted_min, 0, 1),
        ("--settle-s", args.settle_s, 1, 3600),
        ("--ramp-s", args.ramp_s, 0, 3600),
        ("--processes", args.processes, 1, 64),
        ("--freeze-postgres-s", args.freeze_postgres_s, 0.1, 600),
    ):
        if value is not None and not low <= value <= high:
            raise TargetRefused(f"{flag} must be between {low:g} and {high:g}, is {value:g}")
    if args.token is not None and args.players > 1:
        raise TargetRefused("--token is one player's token: say --token-secret-file for many players")
    kill = [name.strip() for name in args.kill.split(",") if name.strip()] if args.kill else []
    for name in kill:
        if name not in KILLABLE and name.rpartition("-")[0] not in KILLABLE:
            raise TargetRefused(f"--kill does not know {name!r}: use {', '.join(KILLABLE)}")
    if args.no_return and not kill:
        kill = ["gateway", "flusher", "valkey"]
    if args.kill_at is not None and not kill:
        raise TargetRefused("--kill-at needs --kill")
    try:
        kill_at_s = [float(at) for at in args.kill_at.split(",")] if args.kill_at else []
    except ValueError:
        raise TargetRefused(f"--kill-at wants seconds, comma-separated, not {args.kill_at!r}") from None
    if any(not 0 <= at_s <= 86_400 for at_s in kill_at_s):
        raise TargetRefused(f"--kill-at wants seconds of play, not {args.kill_at!r}")
    if args.no_return and (args.freeze_postgres_s or len(kill_at_s) > 1):
        raise TargetRefused("--no-return goes with one --kill-at and without --freeze-postgres-s")
    default_at_s = args.seconds if args.no_return else args.seconds / 2
    return Options(
        players=args.players,
        seconds=args.seconds,
        rate=args.rate,
        ramp_s=args.ramp_s if args.ramp_s is not None else max(1.0, args.players / PLAYERS_PER_RAMP_S),
        processes=args.processes if args.processes is not None else split_players(args.players),
        experience=args.experience,
        random_seed=args.random_seed if args.random_seed is not None else random.SystemRandom().randrange(2**32),
        json=args.json,
        drop_rate=args.drop_rate,
        offline_rate=args.offline_rate,
        accepted_min=args.accepted_min,
        settle_s=args.settle_s,
        kill=kill,
        kill_at_s=kill_at_s or ([default_at_s] if kill else []),
        is_no_return=args.no_return,
        freeze_postgres_s=args.freeze_postgres_s or 0.0,
        history_dir=args.history_dir,
    )


async def _run(options: Options, target: Target) -> int:
    folder = Path(tempfile.mkdtemp(prefix="wayhold-loadtest-"))
    is_ok = False
    try:
        report = await LoadTest(options, target, folder).run()
        is_ok = report.audit.is_ok
        for line in report.lines():
            print(line, flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
        for line in report.audit.lines()[:-1]:
            print(line)
        if not is_ok and options.history_dir is None:
            print(f"  histories of the players: {folder}")
        print(report.audit.last_line(), flush=True)
        return EXIT_OK if is_ok else EXIT_BAD
    except (OSError, TimeoutError, asyncpg.PostgresError) as fault:
        raise TargetMissing(f"the database cannot be read: {_first_line(fault)}") from fault
    finally:
        if options.history_dir is not None:
            shutil.copytree(folder, options.history_dir, dirs_exist_ok=True)
        if is_ok or options.history_dir is not None:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class LoadTestReport:
    """What happened, for people and as JSON."""

    options: Options
    histories: list[PlayerHistory]
    audit: AuditReport
    play_s: float
    settled_s: float | None  # None: not everything was saved in time, or nobody was left to be told
    kills: list[tuple[float, str, int]]
    freeze: FreezeReport | None
    commits: int  # from the first hello until everything was saved
    commits_of_ramp: int  # … of these before the play began: hellos

    @property
    def answered(self) -> int:
        return self.audit.accepted + self.audit.void

    def lines(self) -> list[str]:
        options, histories = self.options, self.histories
        away = ack_latency(histories, lambda step: step.is_away)
        lines = [
            "",
            f"{options.players} players, {options.rate:g}/s each for {options.seconds:g} s "
            f"(--random-seed {options.random_seed})",
            f"  accepted     {self.audit.accepted} + {self.audit.void} void of {self.audit.offered} offered, "
            f"{self.answered / self.play_s:.0f}/s",
            f"  ack latency  {ack_latency(histories)}  (from the time each was due)",
            f"  saved        {saved_latency(histories)}",
        ]
        if away.count:
            lines.append(f"  offline      {away.count} updates made without a connection, accepted after {away}")
        lines += [
            f"  came back    {show_counts(sum_counts(history.welcomes for history in histories))}",
            f"  closes       {show_counts(sum_counts(history.closes for history in histories))}",
            f"  errors       {show_counts(sum_counts(history.errors for history in histories))}",
        ]
        per_commit = self.answered / self.commits if self.commits else 0.0
        lines.append(
            f"  commits      {self.commits} in Postgres ({self.commits_of_ramp} while the players came), "
            f"one for {per_commit:.1f} accepted updates"
        )
        lines += [f"  killed       {name} (pid {pid}) after {at_s:.1f} s of play" for at_s, name, pid in self.kills]
        if self.freeze is not None:
            lines += [
                f"  frozen       Postgres for {self.freeze.frozen_s:.1f} s: ack {self.freeze.ack}, "
                f"{self.freeze.saved_during} saved meanwhile",
                f"               caught up: accepted after {_seconds(self.freeze.accepted_caught_up_s)}, "
                f"saved after {_seconds(self.freeze.saved_caught_up_s)}",
            ]
        if not options.is_no_return:
            settled = "not everything in time" if self.settled_s is None else f"everything {self.settled_s:.1f} s after"
            lines.append(f"  settled      {settled}")
        if self.audit.unanswered:
            lines.append(
                f"  unanswered   {self.audit.unanswered} made updates had no answer; "
                f"{self.audit.unanswered_saved} of them are in Postgres all the same"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        histories = self.histories
        return {
            "options": {
                key: str(value) if isinstance(value, Path) else value for key, value in asdict(self.options).items()
            },
            "play_s": round(self.play_s, 3),
            "accepted_per_s": round(self.answered / self.play_s, 3),
            "ack": ack_latency(histories).as_dict(),
            "ack_after_absence": ack_latency(histories, lambda step: step.is_away).as_dict(),
            "saved": saved_latency(histories).as_dict(),
            "welcomes": sum_counts(history.welcomes for history in histories),
            "resumes": sum(history.resumes for history in histories),
            "closes": sum_counts(history.closes for history in histories),
            "errors": sum_counts(history.errors for history in histories),
            "commits": self.commits,
            "commits_of_ramp": self.commits_of_ramp,
            "accepted_per_commit": round(self.answered / self.commits, 2) if self.commits else None,
            "kills": [{"at_s": round(at_s, 3), "process": name, "pid": pid} for at_s, name, pid in self.kills],
            "freeze": self.freeze.as_dict() if self.freeze is not None else None,
            "settled_s": self.settled_s,
            "audit": self.audit.as_dict(),
        }


@dataclass(slots=True)
class LoadTest:
    """One load test from start to verdict."""

    options: Options
    target: Target
    folder: Path
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    kills: list[tuple[float, str, int]] = field(default_factory=list)
    frozen_ms: tuple[float, float] | None = None
    play_from_ms: float = 0.0
    commits_before: int = 0
    commits_of_ramp: int = 0

    async def run(self) -> LoadTestReport:
        """Raises what reading the database raises, and TargetMissing when the gateway does not answer."""
        options = self.options
        self.commits_before = await self._count_commits()
        players = PlayerProcesses(self._list_plans())
        try:
            await players.start(START_WAIT_S)
            self.play_from_ms = now_ms() + options.ramp_s * 1000
            await players.begin(now_ms())
            settled_s = await (self._play_without_return(players) if options.is_no_return else self._play(players))
            commits = await self._count_commits()
            if not options.is_no_return:
                await players.leave(LEAVE_WAIT_S)
        finally:
            await players.kill()
        histories = read_histories(sorted(self.folder.glob("*.history")))
        note_untold_voids(histories)
        if options.is_no_return:
            await self._wait_drained(histories)
            commits = await self._count_commits()
        async with self._connected() as connection:
            report = await audit_with(connection, histories, accepted_min=options.accepted_min)
        freeze = report_freeze(histories, *self.frozen_ms) if self.frozen_ms is not None else None
        return LoadTestReport(
            options=options,
            histories=histories,
            audit=report,
            play_s=options.seconds,
            settled_s=settled_s,
            kills=self.kills,
            freeze=freeze,
            commits=commits - self.commits_before,
            commits_of_ramp=self.commits_of_ramp,
        )

    def _list_plans(self) -> list[PlayersPlan]:
        options, target = self.options, self.target
        habits = Habits(
            rate_per_s=options.rate,
            seconds=options.seconds,
            ramp_s=options.ramp_s,
            drop_rate=options.drop_rate,
            offline_rate=options.offline_rate,
            settle_s=options.settle_s,
        )
        plans = []
        for number in range(options.processes):
            first = options.players * number // options.processes
            behind = options.players * (number + 1) // options.processes
            plans.append(
                PlayersPlan(
                    url=target.url,
                    token=target.token,
                    secret_hex=target.secret.hex() if target.secret is not None else None,
                    experience=options.experience,
                    run_id=self.run_id,
                    first=first,
                    players=behind - first,
                    random_seed=options.random_seed,
                    history=str(self.folder / f"{number:02}.history"),
                    is_crash_safe=options.is_no_return,
                    habits=asdict(habits),
                )
            )
        return plans

    async def _play(self, players: PlayerProcesses) -> float | None:
        """Play with the faults that were asked for, until everything is saved; answers how long that took after."""
        options = self.options
        over_ms = self.play_from_ms + options.seconds * 1000
        tasks = [asyncio.create_task(self._kill_at(at_s)) for at_s in options.kill_at_s]
        tasks.append(asyncio.create_task(self._count_ramp_commits()))
        if options.freeze_postgres_s:
            tasks.append(asyncio.create_task(self._freeze_postgres()))
        ticker = asyncio.create_task(self._show_progress(players))
        try:
            deadline_s = (over_ms - now_ms()) / 1000 + options.settle_s + options.freeze_postgres_s + 10
            unsettled = await players.wait_settled(deadline_s)
            settled_ms = now_ms()
            await asyncio.gather(*tasks)
        finally:
            await _end_tasks(ticker, *tasks)
        return round(max(0.0, settled_ms - over_ms) / 1000, 3) if unsettled == 0 else None

    async def _play_without_return(self, players: PlayerProcesses) -> None:
        """SIGKILL the players in the middle of their play, then at once whoever was asked for."""
        ticker = asyncio.create_task(self._show_progress(players))
        counter = asyncio.create_task(self._count_ramp_commits())
        try:
            await asyncio.sleep(max(0.0, (self.play_from_ms - now_ms()) / 1000 + self.options.kill_at_s[0]))
            await players.kill()
            self._note("the players are killed and will not return")
            self._kill()
        finally:
            await _end_tasks(ticker, counter)

    async def _count_ramp_commits(self) -> None:
        """Note how many commits the hellos took; a Postgres that is busy with faults need not say."""
        await asyncio.sleep(max(0.0, (self.play_from_ms - now_ms()) / 1000))
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
            self.commits_of_ramp = await self._count_commits() - self.commits_before

    async def _kill_at(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, (self.play_from_ms - now_ms()) / 1000 + at_s))
        self._kill()

    def _kill(self) -> None:
        killed = kill_processes(self.target, self.options.kill)
        if not killed:
            raise TargetMissing(f"there is nothing to kill: ready.json names none of {', '.join(self.options.kill)}")
        for name, pid in killed:
            self.kills.append(((now_ms() - self.play_from_ms) / 1000, name, pid))
            self._note(f"killed {name} (pid {pid})")

    async def _freeze_postgres(self) -> None:
        """Let Postgres stand still, from a third of the play on."""
        await asyncio.sleep(max(0.0, (self.play_from_ms - now_ms()) / 1000 + self.options.seconds / 3))
        pid = self.target.list_processes().get("postgres")
        if pid is None:
            raise TargetMissing(
                "--freeze-postgres-s needs the Postgres that `wayhold dev` started; it uses another one"
            )
        with frozen(pid) as stopped:
            from_ms = now_ms()
            self._note(f"Postgres stands still ({len(stopped)} processes)")
            await asyncio.sleep(self.options.freeze_postgres_s)
            self.frozen_ms = (from_ms, now_ms())
        self._note("Postgres goes on")

    async def _show_progress(self, players: PlayerProcesses) -> None:
        before = (0, 0)
        while True:
            await asyncio.sleep(1)
            now, at_s = players.sum_counts(), (now_ms() - self.play_from_ms) / 1000
            made, accepted, saved = now["made"], now["accepted"], now["saved"]
            self._note(
                f"players {now['connected']}/{self.options.players}  made {made} (+{made - before[0]})  "
                f"accepted {accepted} (+{accepted - before[1]})  saved {saved}  "
                f"ack p50 {now['ack_p50_ms']:.1f} p99 {now['ack_p99_ms']:.1f} ms  resumes {now['resumes']}  "
                f"errors {now['errors']}",
                at_s,
            )
            before = (made, accepted)

    def _note(self, text: str, at_s: float | None = None) -> None:
        at_s = (now_ms() - self.play_from_ms) / 1000 if at_s is None else at_s
        print(f"{at_s:6.1f} s  {text}", flush=True)

    async def _wait_drained(self, histories: list[PlayerHistory]) -> None:
        """
        Wait until Postgres has every stream up to what its player was told, and then until nothing moves any more.

        Nobody is left who could be told; after the deadline the audit says what is missing.
        """
        told = {stream.device: stream.accepted for history in histories for stream in history.streams.values()}
        user_ids = [history.user_id for history in histories]
        before: dict[str, int] = {}
        still_since_ms = now_ms()
        deadline_ms = now_ms() + self.options.settle_s * 1000
        while now_ms() < deadline_ms:
            try:
                async with self._connected() as connection:
                    ends = await list_stream_ends(connection, user_ids, self.options.experience)
            except (OSError, TimeoutError, asyncpg.PostgresError):
                ends = before  # it may be among those that were killed
            if ends != before:
                before, still_since_ms = ends, now_ms()
            is_drained = all(ends.get(device, 0) >= seq for device, seq in told.items())
            if is_drained and now_ms() - still_since_ms >= STILL_S * 1000:
                self._note("everything that was accepted is drained")
                return
            await asyncio.sleep(POLL_S)
        self._note("not everything that was accepted is drained in time")

    async def _count_commits(self) -> int:
        async with self._connected() as connection:
            return await get_commits(connection)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        assert self.target.database_url is not None
        connection = await connect(self.target.database_url)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)


async def _end_tasks(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _seconds(value_s: float | None) -> str:
    return "never" if value_s is None else f"{value_s:.1f} s"


def _first_line(fault: BaseException) -> str:
    lines = str(fault).splitlines()
    return f"{type(fault).__name__}: {lines[0]}" if lines else type(fault).__name__
