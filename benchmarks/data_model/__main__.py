"""
The data model's tables of targets, with what this machine measures beside them: `make bench-data-model`.

Starts everything (`wayhold dev` with the settings of production) on a data folder of its own, which stays: the first
run fills it, later ones find it filled. What is done is in workload.toml, which is printed first; --players and
--events make what is stored smaller, --minutes what is done with it shorter.

    operations   how long reads, writes and questions take while players play, by socket and by the Python API
    cache        how often a read is answered from Redis, by kind of player
    storage      bytes for each player in Postgres and in Redis, and what that comes to for many
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import time
import tomllib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks.data_model.api import run_analytics, run_api
from benchmarks.data_model.cache import measure_cache
from benchmarks.data_model.load import Load, run_players
from benchmarks.data_model.report import show_report
from benchmarks.data_model.storage import measure_redis, measure_storage
from benchmarks.installation import Cores, Installation, run_installation
from benchmarks.load_processes import ROOT
from benchmarks.machine import Noise, describe_machine, describe_versions
from gateway.app.launch import raise_file_limit
from persistence.cold.migrate import migrate
from persistence.fill.fill import fill
from persistence.fill.plan import FillPlan
from persistence.fill.story import World
from protocol.experience_file import parse_experience

WORKLOAD = Path(__file__).with_name("workload.toml")
DATA_DIR = Path(__file__).parents[1] / ".data" / "data-model"
FORMAT = 1
MINUTES = 10.0
FILLED_DAYS_MAX = 5
"""Data that is older than this is made again: questions about the last day would find nothing."""

PARTS = ("operations", "cache", "storage")
SETTINGS = {"updates_per_s": 1000.0, "updates_burst": 5000}
CONNECT_DEADLINE_S = 120.0
SAVED_DEADLINE_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.report:
        print(show_report(json.loads(args.report.read_text())))
        return 0
    text = WORKLOAD.read_text()
    workload = scale(tomllib.loads(text), args)
    print(f"── workload ({WORKLOAD.relative_to(ROOT)})\n\n{text}")
    stored = workload["stored"]
    print(f"── with {stored['players']:,} players, {stored['events']:,} events, {args.minutes:g} minutes\n", flush=True)
    raise_file_limit()
    bench = Bench(workload, args.data_dir, Cores.choose(args.pin))
    result: dict[str, Any] = {
        "format": FORMAT,
        "began_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "pinning": bench.cores.describe(),
        "workload": workload,
    }
    noise = Noise()
    try:
        asyncio.run(bench.run(args.parts, result, fresh=args.fresh))
    except KeyboardInterrupt:
        say("interrupted; what was filled stays")
        return 130
    result["others_cores"] = noise.read_cores()
    print(show_report(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
        print(f"results: {args.json}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_model", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default all: {', '.join(PARTS)}")
    parser.add_argument("--players", type=int, metavar="N", help="stored players (200,000)")
    parser.add_argument("--events", type=int, metavar="M", help="stored events (50 for each player)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"without the fill ({MINUTES:g})")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="stays between runs")
    parser.add_argument("--fresh", action="store_true", help="fill again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep everything that was measured")
    parser.add_argument("--pin", action="store_true", help="the gateway alone on one core, everything else on another")
    parser.add_argument("--report", type=Path, metavar="FILE", help="show what an earlier run kept in FILE, and end")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.parts if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)} (there are {', '.join(PARTS)})")
    if not 0.5 <= args.minutes <= 600:
        parser.error("--minutes must be between 0.5 and 600")
    args.parts = args.parts or list(PARTS)
    return args


def scale(workload: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The workload with other numbers of players, events and minutes."""
    stored, share = workload["stored"], args.minutes / MINUTES
    if args.players:
        stored["players"] = args.players
        stored["events"] = 50 * args.players
    if args.events:
        stored["events"] = args.events
    active, cache, storage = workload["active"], workload["cache"], workload["storage"]
    active["players"] = min(active["players"], max(1, stored["players"] // 4))
    cache["active_players"] = min(cache["active_players"], max(1, stored["players"] // 20))
    storage["players"] = min(storage["players"], stored["players"])
    active["seconds"] = max(5, round(active["seconds"] * share))
    active["fewer_seconds"] = max(5, round(active["fewer_seconds"] * share))
    cache["hour_s"] = max(20, round(cache["hour_s"] * min(1.0, share)))
    cache["visit_s"] = min(cache["visit_s"], cache["hour_s"])
    cache["minutes"] = max(3 * cache["hour_s"] / 60, cache["minutes"] * share)
    return workload


@dataclass
class Bench:
    """A workload on a data folder. `settings` replace those of production."""

    workload: dict[str, Any]
    data_dir: Path
    cores: Cores = field(default_factory=Cores)
    settings: Mapping[str, Any] = field(default_factory=lambda: dict(SETTINGS))

    async def run(self, parts: Sequence[str], result: dict[str, Any], *, fresh: bool = False) -> None:
        """Measure these parts into `result`."""
        self._prepare_folder(fresh)
        async with run_installation(self.cores, settings=self.settings, kept_in=self.data_dir) as wayhold:
            say(f"started on {self.data_dir}")
            result["fill"] = await self._fill(wayhold)
            if "storage" in parts:
                result["storage"] = await self._measure_storage(wayhold)
            if "operations" in parts or "storage" in parts:
                operations, redis = await self._measure_operations(wayhold)
                result["operations"] = operations
                if "storage" in parts:
                    result["storage"]["redis"] = redis
            result["installation"] = await wayhold.describe()
            say("stopping")
        if "cache" in parts:
            hour_s = self.workload["cache"]["hour_s"]
            faster = {"progress_idle_s": hour_s, "session_expiry_s": hour_s, "heartbeat_s": min(20, hour_s / 4)}
            async with run_installation(
                self.cores, settings={**self.settings, **faster}, kept_in=self.data_dir
            ) as wayhold:
                await forget_hot(wayhold)
                result["cache"] = await measure_cache(wayhold, self.plan, self.workload["cache"], say)

    @cached_property
    def plan(self) -> FillPlan:
        stored = self.workload["stored"]
        return FillPlan(
            self.world, stored["players"], stored["events"], days=stored["days"], random_seed=stored["random_seed"]
        )

    @cached_property
    def world(self) -> World:
        name = self.workload["stored"]["experience"]
        file = ROOT / "protocol" / "experiences" / f"{name}.toml"
        return World.of(parse_experience(file.read_text(), str(file), experience_id=name))

    # ── what is stored ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _note(self) -> Path:
        """Beside the data folder: what is in it, and since when; without a time the fill was cut off."""
        return self.data_dir.with_name(self.data_dir.name + ".json")

    def _read_note(self) -> dict[str, Any] | None:
        try:
            note: dict[str, Any] = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return None
        return note if note["stored"] == self.workload["stored"] else None

    def _prepare_folder(self, fresh: bool) -> None:
        """Keep what an earlier run has filled, if it is what this one needs."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        kept = None if fresh else self._read_note()
        if kept is not None and (self.data_dir / "postgres").exists():
            age_days = (time.time() - (kept["filled_at"] or time.time())) / 86_400
            if age_days < FILLED_DAYS_MAX:
                say(f"keeping what was filled {age_days:.1f} days ago")
                return
        if self.data_dir.exists():
            say(f"emptying {self.data_dir}")
            shutil.rmtree(self.data_dir)
        self._write_note(None, {})

    def _write_note(self, filled_at: float | None, facts: Mapping[str, Any]) -> None:
        note = {"stored": self.workload["stored"], "filled_at": filled_at, "fill": facts}
        self._note.write_text(json.dumps(note, indent=1) + "\n")

    async def _fill(self, wayhold: Installation) -> dict[str, Any]:
        kept = self._read_note()
        if kept is not None and kept["filled_at"] is not None:
            return dict(kept["fill"])
        plan = self.plan
        say(f"filling, this once: about {max(1, round(plan.events / 30_000 / 60))} minutes")
        report = await fill(wayhold.ready["database_url"], replace(plan, adds=True), say)
        facts = {"seconds": round(report.duration_s, 1), "stages_s": report.stages_s, "events": report.events}
        self._write_note(time.time(), facts)
        return facts

    # ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _measure_storage(self, wayhold: Installation) -> dict[str, Any]:
        wanted = self.workload["storage"]
        players, events = wanted["players"], wanted["players"] * wanted["events_per_player"]
        say(f"storage: {players:,} players with {events:,} events in a database of their own")
        await wayhold.database.execute("DROP DATABASE IF EXISTS bench_storage")
        await wayhold.database.execute("CREATE DATABASE bench_storage")
        parts = urlsplit(wayhold.ready["database_url"])
        url = urlunsplit(parts._replace(path="/bench_storage"))
        try:
            await migrate(url)
            await fill(url, FillPlan(self.world, players, events, random_seed=1))
            connection = await asyncpg.connect(url)
            try:
                return await measure_storage(connection, players)
            finally:
                await connection.close()
        finally:
            await wayhold.database.execute("DROP DATABASE IF EXISTS bench_storage WITH (FORCE)")

    async def _measure_settled(self, wayhold: Installation, load: Load, user_ids: Sequence[str]) -> dict[str, Any]:
        """Redis with all players in, each of whom has played a little, and everything saved."""
        rate = self.workload["active"]["updates_per_s"]
        await load.do("play", seconds=2 * len(user_ids) / rate, updates_per_s=rate, queries_per_s=0, queries={})
        await wait_saved(wayhold)
        return await measure_redis(wayhold.redis, user_ids)

    async def _measure_operations(self, wayhold: Installation) -> tuple[dict[str, Any], dict[str, Any]]:
        active = self.workload["active"]
        plan = self.plan
        numbers = random.Random(time.time_ns()).sample(range(plan.players), active["players"])
        user_ids = [str(plan.make_id(number, "user")) for number in numbers]
        say(f"operations: {len(user_ids):,} players come in")
        await forget_hot(wayhold)
        empty = await measure_redis(wayhold.redis)
        async with run_players(wayhold, user_ids, plan.world) as load:
            came = await load.do("connect", timeout_s=CONNECT_DEADLINE_S)
            # Before services ask about other players, which makes those hot, too.
            redis = await self._measure_settled(wayhold, load, user_ids)

            async def play(seconds: float) -> dict[str, Any]:
                say(f"operations: {seconds} s of play")
                return await load.do(
                    "play",
                    seconds=seconds,
                    updates_per_s=active["updates_per_s"],
                    queries_per_s=active["queries_per_s"],
                    queries=active["queries"],
                )

            ask_api = partial(run_api, wayhold.ready, plan, self.workload["api"], user_ids)
            ask_analytics = partial(run_analytics, wayhold.ready, plan, self.workload["analytics"])
            fewer_s = active["fewer_seconds"]
            alone, _ = await beside(play(fewer_s))
            with_api, (api_fewer,) = await beside(play(fewer_s), ask_api)
            played, (api, analytics) = await beside(play(active["seconds"]), ask_api, ask_analytics)
            await load.do("leave", timeout_s=30.0)
        await wait_saved(wayhold)
        counted = await wayhold.database.fetchrow(
            "SELECT (SELECT sum(updates) FROM experience_hours)::bigint AS events, count(*) AS players FROM users"
        )
        assert counted is not None
        facts = {
            "stored_events": counted["events"],
            "stored_players": counted["players"],
            "came": came,
            "socket": played,
            "socket_fewer": {"players alone": alone, "and the Python API": with_api},
            "api": api,
            "api_fewer": api_fewer,
            "analytics": analytics,
        }
        return facts, {"active": len(user_ids), "empty": empty, "settled": redis}


async def beside(
    play: Awaitable[dict[str, Any]], *others: Callable[[asyncio.Event], Coroutine[Any, Any, dict[str, Any]]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `play` answers, and what the others do who go on until it ends."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(other(stop)) for other in others]
    try:
        played = await play
    finally:
        stop.set()
        answers = await asyncio.gather(*tasks)
    return played, answers


async def wait_saved(wayhold: Installation) -> None:
    """Until Postgres has everything. Raises TimeoutError."""
    async with asyncio.timeout(SAVED_DEADLINE_S):
        while await wayhold.redis.keys("{p*}:player:*:pending:*"):  # noqa: ASYNC110 - nobody tells when the last one is
            await asyncio.sleep(0.2)


async def forget_hot(wayhold: Installation) -> None:
    """Empty Redis, which keeps what an earlier run has read. Nobody is in, and what was done is saved."""
    await wayhold.redis.flushall()
    # The gateway looks once a second if Redis has forgotten, and is not measured at what it does then.
    await asyncio.sleep(2.5)


def say(text: str) -> None:
    print(f"[{datetime.now(UTC):%H:%M:%S}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
