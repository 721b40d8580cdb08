"""
One load test from start to verdict: the players' processes, the faults, the clock, waiting, the audit.

Its folder holds what a report is made of: histories and samples of the processes, `marks.jsonl` (what was done to the
servers, and when) and `run.json` (what was run, where and at what cost).

Not here: the flags (options.py), what a player does (simulation.py), what is wrong in Postgres (audit.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import asyncpg

from loadtest.audit_run import audit_run
from loadtest.cost import Cost
from loadtest.faults import Fault, frozen, kill_processes, wait_back
from loadtest.history import PlayerHistory, note_untold_voids, now_ms, read_histories
from loadtest.live import Moment, QuietView, View, open_view
from loadtest.load_test_report import LoadTestReport
from loadtest.options import Options
from loadtest.player_processes import PlayerProcesses
from loadtest.report import report_freeze
from loadtest.run_players import PlayersPlan
from loadtest.server_meter import ServerMeter, Use
from loadtest.stored import connect, get_commits, list_stream_ends
from loadtest.target import Target, TargetMissing, TargetRefused

# Streams of killed players are drained when nothing has moved for as long as several flushes take.
STILL_S = 4.0
POLL_S = 0.5
START_WAIT_S = 60.0
LEAVE_WAIT_S = 60.0


@dataclass(slots=True)
class LoadTest:
    """One load test from start to verdict."""

    options: Options
    target: Target
    folder: Path
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    faults: list[Fault] = field(default_factory=list)
    frozen_ms: tuple[float, float] | None = None
    play_from_ms: float = 0.0
    commits_before: int = 0
    commits_of_ramp: int = 0
    view: View = field(default_factory=QuietView)
    meter: ServerMeter = field(default_factory=ServerMeter)
    cost: Cost = field(init=False)

    def __post_init__(self) -> None:
        here = self.options.shard.find_part(self.options.players)[1]
        self.cost = Cost(here, self.options.seconds)

    async def run(self) -> LoadTestReport:
        """Raises what reading the database raises, and TargetMissing when the gateway does not answer."""
        options = self.options
        self.commits_before = await self._count_commits()
        self.meter.look(self._list_processes(), asyncio.get_running_loop().time())
        players = PlayerProcesses(self._list_plans())
        try:
            await players.start(START_WAIT_S)
            self.play_from_ms = now_ms() + options.ramp_s * 1000
            self.write_run()
            self.view = open_view(self._make_title(), is_quiet=options.is_quiet)
            await players.begin(now_ms())
            settled_s = await (self._play_without_return(players) if options.is_no_return else self._play(players))
            commits = await self._count_commits()
            if not options.is_no_return:
                await players.leave(LEAVE_WAIT_S)
        finally:
            await players.kill()
            self.view.close()
        histories = read_histories(sorted(self.folder.glob("*.history")))
        note_untold_voids(histories)
        self.write_run()
        if options.is_no_return:
            await self._wait_drained(histories)
            commits = await self._count_commits()
        report = await audit_run(
            histories,
            self.target,
            options.reports.audit,
            accepted_min=options.accepted_min,
            late_ack_ms=options.late_ack_ms,
            note=self._note,
        )
        freeze = report_freeze(histories, *self.frozen_ms) if self.frozen_ms is not None else None
        return LoadTestReport(
            options=options,
            histories=histories,
            audit=report,
            play_s=options.seconds,
            settled_s=settled_s,
            faults=self.faults,
            freeze=freeze,
            folder=self.folder,
            start_ms=self.play_from_ms,
            commits=commits - self.commits_before if self.target.database_url is not None else None,
            commits_of_ramp=self.commits_of_ramp,
            cost=self.cost.figures(),
        )

    def _make_title(self) -> str:
        options = self.options
        shard = f", shard {options.shard}" if options.shard.of > 1 else ""
        mud = f", mud {options.mud_level}" if options.mud_level != "none" else ""
        return f"{options.players} players, {options.scenario}{mud}{shard} (--random-seed {options.random_seed})"

    def _list_plans(self) -> list[PlayersPlan]:
        options, target = self.options, self.target
        shard_first, here = options.shard.find_part(options.players)
        tokens = list(target.tokens.items())[shard_first : shard_first + here]
        plans = []
        for number in range(options.processes):
            first = here * number // options.processes
            behind = here * (number + 1) // options.processes
            plans.append(
                PlayersPlan(
                    url=target.url,
                    tokens=tokens[first:behind],
                    secret_hex=target.secret.hex() if target.secret is not None else None,
                    experience=options.experience,
                    run_id=self.run_id,
                    first=shard_first + first,
                    players=behind - first,
                    players_in_all=options.players,
                    random_seed=options.random_seed,
                    history=str(self.folder / f"{number:02}.history"),
                    samples=str(self.folder / f"samples-{number:02}.jsonl"),
                    is_crash_safe=options.is_no_return,
                    seconds=options.seconds,
                    ramp_s=options.ramp_s,
                    settle_s=options.settle_s,
                    rate_per_s=options.rate,
                    drop_rate=options.drop_rate,
                    offline_rate=options.offline_rate,
                    scenario=options.scenario,
                    parameters=options.parameters,
                    tracks=[str(track) for track in options.tracks],
                    mud=asdict(options.mud),
                    stages=[[stage.kind, stage.players, stage.seconds] for stage in options.stages],
                    is_even=options.arrivals == "even",
                    session_s=options.session_s,
                    away_s=options.away_s,
                    think_s=options.think_s,
                    source_addresses=options.source_addresses,
                    ops_url=target.ops_url,
                    ops_token=target.ops_token,
                )
            )
        return plans

    async def _play(self, players: PlayerProcesses) -> float | None:
        """Play with the faults that were asked for, until everything is saved; answers how long that took after."""
        options = self.options
        over_ms = self.play_from_ms + options.seconds * 1000
        tasks = [asyncio.create_task(self._kill_at(at_s)) for at_s in options.kill_at_s]
        tasks += [asyncio.create_task(self._restart_at(at_s)) for at_s in options.restart_at_s]
        tasks.append(asyncio.create_task(self._count_ramp_commits()))
        if options.freeze_postgres_s:
            tasks.append(asyncio.create_task(self._freeze_postgres()))
        ticker = asyncio.create_task(self._show_progress(players))
        try:
            deadline_s = (over_ms - now_ms()) / 1000 + options.settle_s + options.freeze_postgres_s + 10
            unsettled = await players.wait_settled(deadline_s)
            settled_ms = now_ms()
            why = players.find_failure()
            if why is not None:
                raise TargetRefused(f"--scenario {options.scenario} failed:\n{why}")
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
            self._mark("kill players")
            self._note("the players are killed and will not return")
            await self._hit("kill", self.options.kill, signal.SIGKILL, "killed {}")
        finally:
            await _end_tasks(ticker, counter)

    async def _count_ramp_commits(self) -> None:
        """Note how many commits the hellos took; a Postgres that is busy with faults need not say."""
        await asyncio.sleep(max(0.0, (self.play_from_ms - now_ms()) / 1000))
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
            self.commits_of_ramp = await self._count_commits() - self.commits_before

    async def _kill_at(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, (self.play_from_ms - now_ms()) / 1000 + at_s))
        await self._hit("kill", self.options.kill, signal.SIGKILL, "killed {}")

    async def _restart_at(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, (self.play_from_ms - now_ms()) / 1000 + at_s))
        said = "asked {} to end; its supervisor starts it again"
        await self._hit("restart", self.options.restart, signal.SIGTERM, said)

    async def _hit(self, how: Literal["kill", "restart"], names: list[str], with_: signal.Signals, said: str) -> None:
        """Send the signal; returns when others have taken their places."""
        at_ms = now_ms()
        hit = [Fault(how, name, pid, at_ms) for name, pid in kill_processes(self.target, names, with_)]
        if not hit:
            raise TargetMissing(f"there is nothing to {how}: ready.json names none of {', '.join(names)}")
        self.faults += hit
        for fault in hit:
            self._note(said.format(f"{fault.process} (pid {fault.pid})"))
        try:
            await asyncio.gather(*map(self._watch_return, hit))
        finally:
            for fault in hit:
                self._mark(f"{how} {fault.process}", at_ms, fault.back_ms)

    async def _watch_return(self, fault: Fault) -> None:
        await wait_back(self.target, fault)
        if fault.back_s is not None:
            self._note(f"{fault.process} is ready again after {fault.back_s:.1f} s (pid {fault.back_pid})")

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
        self._mark("freeze postgres", *self.frozen_ms)
        self._note("Postgres goes on")

    async def _show_progress(self, players: PlayerProcesses) -> None:
        before = (0, 0)
        while True:
            await asyncio.sleep(1)
            now, now_s = players.sum_counts(), asyncio.get_running_loop().time()
            servers = self.meter.look(self._list_processes(), now_s)
            tool, at_s = self.cost.measure_tool(now, now_s), (now_ms() - self.play_from_ms) / 1000
            self.cost.note(now, tool, servers.get("gateway", Use()), at_s)
            made, accepted = now["made"], now["accepted"]
            self.view.show(
                Moment(
                    at_s=at_s,
                    seconds=self.options.seconds,
                    players=self.cost.players,
                    counts=now,
                    made_per_s=made - before[0],
                    accepted_per_s=accepted - before[1],
                    ack=players.sum_latency("ack"),
                    saved=players.sum_latency("saved"),
                    late=players.sum_latency("late"),
                    servers=servers,
                    tool=tool,
                )
            )
            before = (made, accepted)

    def _list_processes(self) -> dict[str, int]:
        try:
            return self.target.list_processes()
        except TargetMissing:
            return {}

    def _note(self, text: str) -> None:
        self.view.note(text, (now_ms() - self.play_from_ms) / 1000)

    def _mark(self, what: str, at_ms: float | None = None, until_ms: float | None = None) -> None:
        """What was done to the servers, for the charts."""
        mark: dict[str, Any] = {"at_ms": round(now_ms() if at_ms is None else at_ms, 1), "what": what}
        if until_ms is not None:
            mark["until_ms"] = round(until_ms, 1)
        with (self.folder / "marks.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(mark) + "\n")

    def write_run(self) -> dict[str, Any]:
        """run.json: what was run, with what, and at what cost. No secrets are in it."""
        options = self.options
        run = {
            "format": 1,
            "run_id": self.run_id,
            "url": self.target.url,
            "scenario": options.scenario,
            "parameters": options.make_scenario().parameters(),
            "mud": {"level": options.mud_level, **asdict(options.mud)},
            "random_seed": options.random_seed,
            "shard": str(options.shard),
            "players": options.players,
            "processes": options.processes,
            "seconds": options.seconds,
            "ramp_s": options.ramp_s,
            "ramp": [[stage.kind, stage.players, stage.seconds] for stage in options.stages],
            "arrivals": options.arrivals,
            "rate": options.rate,
            "experience": options.experience,
            "session_s": options.session_s,
            "away_s": options.away_s,
            "think_s": options.think_s,
            "tracks": [str(track) for track in options.tracks],
            "play_from_ms": self.play_from_ms,
            "cost": self.cost.figures(),
        }
        (self.folder / "run.json").write_text(json.dumps(run, indent=2) + "\n")
        return run

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
        if self.target.database_url is None:
            return 0
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
