"""
Side by side: Wayhold and small servers written for the comparison, in turns, on the same two cores.

Each turn of each server: 2,000 new players, a warm-up, then the closed loop between two settled moments. All rivals
share one Valkey, one Postgres and one write-behind process, set up as Wayhold's; a ratio is of two neighbouring turns,
and the middle of all rounds counts. What a rival leaves out is said in `rivals/__init__.py`; it is to its advantage.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
from redis.asyncio import Redis

from benchmarks.accounts import CpuAccounts, pin, read_memory
from benchmarks.installation import Cores, run_installation
from benchmarks.load_processes import ROOT, LoadFailed, LoadProcess, run_load
from benchmarks.measure import CONNECT_DEADLINE_S, SETTLE_DEADLINE_S, WARM_S, Measured, bring_in, measure, middle
from benchmarks.plan import Plan
from benchmarks.rivals_installed import find_unfit, install
from benchmarks.walk_step import ITEMS, QUESTS, WAYPOINTS, make_user_id
from persistence.embedded.child import start_all_and_wait, stop_all_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.embedded.valkey import EmbeddedValkey

PLAYERS = 2000
START_DEADLINE_S = 60.0
FOLDER = Path(__file__).parent / "rivals"

RIVALS: dict[str, tuple[str, str]] = {
    "websockets_redis_py": ("websockets_redis_py.py", "wayhold"),
    "fastapi": ("fastapi_redis_py.py", "wayhold"),
    "middle": ("middle.py", "wayhold"),
    "ws": ("ws_node.js", "wayhold"),
    "socketio": ("socketio_node.js", "socketio"),
    "colyseus": ("colyseus_node.js", "colyseus"),
}
"""Name → program and the protocol it speaks."""


async def run(plan: Plan) -> dict[str, Any]:
    skipped = {name: why for name in RIVALS if (why := find_unfit(name))}
    plan.say("side by side: installing what the rivals need, once")
    skipped |= install(set(RIVALS) - set(skipped))
    names = [name for name in RIVALS if name not in skipped]
    for name, why in skipped.items():
        plan.say(f"SKIPPED {name}: {why}")
    failed: dict[str, str] = {}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in ("wayhold", *names)}
    async with (
        run_installation(plan.cores, settings=plan.settings()) as wayhold,
        run_rivals(plan.cores, names) as rivals,
    ):
        for number in range(plan.rounds(3)):
            for name in turns:
                target: Measured = wayhold if name == "wayhold" else rivals[name]
                try:
                    turns[name].append(await take_turn(plan, target, name, number))
                except Exception as error:
                    failed[name] = repr(error)
                    plan.say(f"{name} FAILED: {error}")
                    continue
                plan.say(f"{name}: {turns[name][-1]['rate_per_s']:,.0f}/s {turns[name][-1]['cpu_us_per_update']}")
        facts = await wayhold.describe()
    return {
        "figures": make_figures(turns),
        "players": plan.players(PLAYERS),
        "turns": turns,
        "skipped": skipped,
        "installation": facts,
        **({"failed": "; ".join(f"{name}: {why}" for name, why in failed.items())} if failed else {}),
    }


async def take_turn(plan: Plan, target: Measured, name: str, number: int) -> dict[str, Any]:
    players, run_name = plan.players(PLAYERS), f"{name}-{number}"
    dialect = RIVALS[name][1] if name in RIVALS else "wayhold"
    before = read_memory(target.gateway_pid).rss_bytes
    async with run_load(target, players=players, run=run_name, dialect=dialect) as load:
        if isinstance(target, Rival):
            await target.seed(run_name, players)
            found = await load.do("connect", timeout_s=CONNECT_DEADLINE_S, per_s=500.0)
            if found["welcome"] < players:
                raise LoadFailed(f"{found['welcome']} of {players} players are welcome: {found['counts']}")
        else:
            await bring_in(load)
        memory = (read_memory(target.gateway_pid).rss_bytes - before) / players
        await load.do("closed", seconds=min(WARM_S, plan.seconds(WARM_S)))
        await target.settle(load)
        window = await measure(target, load, "closed", seconds=plan.seconds(8))
        return {**window, "rss_bytes_per_connection": round(memory)}


def make_figures(turns: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, windows in turns.items():
        if not windows:
            continue
        figures[f"side_{name}_gateway_us"] = middle(windows, "cpu_us_per_update", "gateway")
        figures[f"side_{name}_redis_us"] = middle(windows, "cpu_us_per_update", "redis")
        figures[f"side_{name}_rate_per_s"] = middle(windows, "rate_per_s")
        figures[f"side_{name}_p99_ms"] = middle(windows, "loop", "latency", "p99")
        pairs = zip(windows, turns["wayhold"], strict=False)
        ratios = [
            theirs["cpu_us_per_update"]["gateway"] / ours["cpu_us_per_update"]["gateway"] for theirs, ours in pairs
        ]
        if name != "wayhold" and ratios:
            figures[f"ratio_{name}"] = round(median(ratios), 2)
    return figures


class Rival:
    """One rival with the servers that all of them share; what `measure` asks of a target."""

    secret: str

    def __init__(self, name: str, servers: Servers, process: subprocess.Popen[bytes], port: int) -> None:
        self.name, self.servers = name, servers
        self.host, self.port, self.secret = "127.0.0.1", port, servers.secret
        self.players_on = servers.cores.rest
        self.gateway_pid = process.pid

    def pin_all(self) -> None:
        self.servers.pin_all()

    def take_accounts(self, others: dict[str, int]) -> CpuAccounts:
        pids = {"gateway-1": self.gateway_pid, **self.servers.pids(), **others}
        return CpuAccounts.take(pids, ("postgres", "valkey"))

    async def count_rows(self) -> int:
        return int(await self.servers.database.fetchval("SELECT count(*) FROM rival_events"))

    async def settle(self, load: LoadProcess) -> None:
        """Until nothing is pending. Raises LoadFailed."""
        for _ in range(int(SETTLE_DEADLINE_S / 0.05)):
            if not await self.servers.redis.exists("rival:dirty"):
                return
            await asyncio.sleep(0.05)
        raise LoadFailed("what the rival's players did was not saved in time")

    async def seed(self, run: str, players: int) -> None:
        """The state of the workload, written as the rival's script would have."""
        redis = self.servers.redis
        for first in range(0, players, 500):
            pipe = redis.pipeline(transaction=False)
            for index in range(first, min(first + 500, players)):
                user = make_user_id(run, index)
                pipe.hset(f"rival:{user}:state", mapping={"seq": 0, "version": 0})
                pipe.sadd(f"rival:{user}:visited", *(f"wp-{number:02d}" for number in range(WAYPOINTS)))
                pipe.sadd(f"rival:{user}:inventory", *(f"item-{number}" for number in range(ITEMS)))
                pipe.sadd(f"rival:{user}:quests", *(f"quest-{number}" for number in range(QUESTS)))
            await pipe.execute()


class Servers:
    """Valkey, Postgres and the write-behind of all rivals."""

    def __init__(self, folder: Path, cores: Cores) -> None:
        self.valkey, self.postgres = EmbeddedValkey(folder), EmbeddedPostgres(folder)
        self.folder = folder
        self.secret = secrets.token_hex(24)
        self.cores = cores
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.redis: Redis
        self.database: asyncpg.Connection[asyncpg.Record]

    def pids(self) -> dict[str, int]:
        assert self.valkey.pid is not None and self.postgres.pid is not None
        return {
            "valkey": self.valkey.pid,
            "postgres": self.postgres.pid,
            "flusher-1": self.processes["write_behind"].pid,
        }

    def pin_all(self) -> None:
        if self.cores.gateway is None or self.cores.rest is None:
            return
        for pid in self.pids().values():
            pin(pid, self.cores.rest)
        for name, process in self.processes.items():
            if name != "write_behind":
                pin(process.pid, self.cores.gateway)

    async def start_program(self, name: str, program: str) -> int:
        """Start one and wait until it says its port. Raises LoadFailed."""
        path = FOLDER / program
        python = [sys.executable, "-P", "-m", f"benchmarks.rivals.{path.stem}"]
        command = ["node", str(path)] if path.suffix == ".js" else python
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(FOLDER / ".python"), str(ROOT)] if name == "fastapi" else [str(ROOT)]),
            "NODE_ENV": "production",
            "RIVAL_REDIS": str(self.valkey.socket_path),
            "RIVAL_DATABASE": self.postgres.url,
            "RIVAL_SECRET": self.secret,
        }
        with (self.folder / f"{name}.log").open("wb") as errors:
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        self.processes[name] = process
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), START_DEADLINE_S)
            return int(json.loads(line)["port"])
        except (TimeoutError, ValueError, KeyError) as error:
            process.kill()
            raise LoadFailed(f"{name} did not start: {error!r}; {self.read_last(name)}") from None

    def read_last(self, name: str) -> str:
        """The last line that a program wrote to stderr."""
        return "".join((self.folder / f"{name}.log").read_text("utf-8", "replace").splitlines()[-1:])


@asynccontextmanager
async def run_rivals(cores: Cores, names: list[str]) -> AsyncIterator[dict[str, Rival]]:
    """All of them at once: who has no players uses no CPU."""
    folder = Path(tempfile.mkdtemp(prefix="wayhold-bench-"))
    os.chmod(folder, 0o711)  # noqa: PTH101 - Postgres runs as another user when we are root
    servers = Servers(folder, cores)
    stack = contextlib.ExitStack()
    try:
        stack.enter_context(DataFolder(folder))
        # Not in a thread: the kernel ends a server with the thread that started it.
        start_all_and_wait([servers.valkey, servers.postgres])
        servers.redis = Redis.from_url(servers.valkey.url)
        servers.database = await asyncpg.connect(servers.postgres.url)
        await servers.start_program("write_behind", "write_behind.py")
        rivals = {}
        for name in names:
            port = await servers.start_program(name, RIVALS[name][0])
            rivals[name] = Rival(name, servers, servers.processes[name], port)
        servers.pin_all()
        yield rivals
        await servers.redis.aclose()
        await servers.database.close(timeout=5)
    finally:
        for process in servers.processes.values():
            process.kill()
            process.wait()
        stop_all_and_wait([servers.valkey, servers.postgres])
        stack.close()
        shutil.rmtree(folder, ignore_errors=True)
