"""
The faults: each a small class with a name, a way to inject it and a way to end it. `KINDS` is the table.

A fault ends when the rig is whole again: `heal` returns when every process works and every link passes. What players
then see (players.Timeline) is the product's doing.

Not here: when which fault happens (run.py), and whether anything was lost (the audit).
"""

# ruff: noqa: ASYNC110 - servers signal nothing, so they are asked.

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import redis.asyncio as redis_asyncio
from websockets.asyncio.client import connect

from loadtest.history import now_ms
from persistence.embedded.child import start_and_wait
from persistence.embedded.postgres import USER
from persistence.embedded.valkey import EmbeddedValkey
from persistence.flusher.flusher import STEPS
from tests.faults.players import PlayerProcesses
from tests.faults.rig import Rig

STEP_DEADLINE_S = 20.0
AOF_CUT_BYTES = 5_000
STALE_S = 1.5
"""How long the primary goes on after its replica was cut off: what is acknowledged meanwhile is forgotten."""


@dataclass(slots=True)
class Scene:
    """What a fault works on."""

    rig: Rig
    rng: random.Random
    players: PlayerProcesses | None = None

    def pick(self, kind: str) -> str:
        return self.rng.choice(self.rig.names(kind))


class Fault:
    """One fault, injected once."""

    name: ClassVar[str]
    rows: ClassVar[str]
    """The rows of the fault catalogue that it belongs to."""
    hold_s: ClassVar[float] = 0.0
    loses_hot: ClassVar[bool] = False
    """Redis forgets something: then a client that never returns takes what it was told with it."""
    kills: ClassVar[bool] = False
    """It ends a process by SIGKILL."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.rig = scene.rig
        self.healed_ms: float | None = None
        """When it was over, for a kind that has to look on before it returns."""

    async def inject(self) -> None:
        raise NotImplementedError

    async def heal(self) -> None:
        await self.rig.wait_up()


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Killed(Fault):
    kills = True
    victim: ClassVar[str]

    async def inject(self) -> None:
        name = self.scene.pick(self.victim)
        deaths = self.rig.members[name].deaths
        self.rig.kill(name)
        await self.rig.wait_dead(name, deaths)


class GatewayKilled(_Killed):
    name, rows, victim = "gateway killed", "F01", "gateway"


class FlusherKilled(_Killed):
    name, rows, victim = "flusher killed", "F02", "flusher"


class ValkeyKilled(_Killed):
    name, rows, victim = "valkey killed", "F03", "valkey"


class PostgresKilled(_Killed):
    name, rows, victim = "postgres killed", "F12", "postgres"


class EverythingKilled(Fault):
    name, rows, kills = "all processes killed", "F01 F02 F03 F12", True

    async def inject(self) -> None:
        members = self.rig.members
        deaths = {name: member.deaths for name, member in members.items()}
        for name in members:
            self.rig.kill(name)
        for name in members:
            await self.rig.wait_dead(name, deaths[name])


class BackendKilled(Fault):
    """One server process of Postgres: the others end too, and it recovers as after a crash."""

    name, rows, kills = "postgres backend killed", "F12", True

    async def inject(self) -> None:
        async with database(self.rig) as connection:
            pids = [
                row["pid"]
                for row in await connection.fetch(
                    "SELECT pid FROM pg_stat_activity"
                    " WHERE application_name LIKE 'wayhold%' AND pid <> pg_backend_pid()"
                )
            ]
        os.kill(self.scene.rng.choice(pids), signal.SIGKILL)

    async def heal(self) -> None:
        await wait_for_database(self.rig)
        await super().heal()


class FlusherKilledAtStep(Fault):
    """The flusher dies right after a step that it names; see run_dying_flusher.py."""

    rows, kills = "F02", True
    step: ClassVar[str]

    async def inject(self) -> None:
        flushers = {name: self.rig.members[name].deaths for name in self.rig.names("flusher")}
        order = self.rig.orders / self.step
        await asyncio.to_thread(order.write_bytes, b"")
        give_up_at = time.monotonic() + STEP_DEADLINE_S
        while all(self.rig.members[name].deaths == deaths for name, deaths in flushers.items()):
            if time.monotonic() > give_up_at:
                order.unlink(missing_ok=True)
                raise TimeoutError(f"no flusher came to {self.step} within {STEP_DEADLINE_S:g} s")
            await asyncio.sleep(0.01)


def _at_step(step: str) -> type[FlusherKilledAtStep]:
    name = f"flusher killed after {step}"
    return type(
        "FlusherKilledAfter" + step.title().replace("_", ""), (FlusherKilledAtStep,), {"name": name, "step": step}
    )


class _Frozen(Fault):
    victim: ClassVar[str]

    async def inject(self) -> None:
        self.victim_name = self.scene.pick(self.victim)
        self.rig.freeze(self.victim_name)

    async def heal(self) -> None:
        self.rig.unfreeze(self.victim_name)
        await super().heal()


class GatewayFrozen(_Frozen):
    """A zombie: its players go on elsewhere, then it wakes up and still believes in its connections."""

    name, rows, victim, hold_s = "gateway frozen, taken over", "F22", "gateway", 6.0

    async def inject(self) -> None:
        await super().inject()
        # Its players find out at once and come in by the other door; it still holds their sockets, and what they sent.
        self.rig.links["players"].strand()


class FlusherFrozen(_Frozen):
    name, rows, victim, hold_s = "flusher frozen", "F21 F24", "flusher", 4.0


class ValkeyFrozen(_Frozen):
    name, rows, victim, hold_s = "valkey frozen 5 s", "F04", "valkey", 5.0


class PostgresFrozen(_Frozen):
    name, rows, victim, hold_s = "postgres frozen 10 s", "F18", "postgres", 10.0


class GatewayDrained(Fault):
    """SIGTERM while one of its clients has stopped reading."""

    name, rows = "gateway drained, a reader stalled", "F34 F35"
    signals = 1

    async def inject(self) -> None:
        name = self.scene.pick("gateway")
        member = self.rig.members[name]
        member.is_out = True
        self.name_hit, deaths = name, member.deaths
        async with stalled_reader(f"ws://127.0.0.1:{member.child.facts['play_port']}/v1/play"):  # type: ignore[attr-defined]
            self.rig.kill(name, signal.SIGTERM)
            for _ in range(self.signals - 1):
                await asyncio.sleep(0.1)
                with contextlib.suppress(LookupError):
                    self.rig.kill(name, signal.SIGTERM)
            await self.rig.wait_dead(name, deaths)

    async def heal(self) -> None:
        self.rig.members[self.name_hit].is_out = False
        await super().heal()


class GatewayDrainedTwice(GatewayDrained):
    name, rows = "gateway told twice to stop", "F36"
    signals = 2


class DeviceRaced(Fault):
    """Other installations with the same device id take sessions over, eight hellos at a time."""

    name, rows, hold_s = "duplicate device", "F23", 1.0

    async def inject(self) -> None:
        if self.scene.players is not None:
            await self.scene.players.race(5)


# ── what Redis knows ────────────────────────────────────────────────────────────────────────────────────────────────


class ValkeyRestarted(Fault):
    name, rows = "valkey restarted", "F03"

    async def inject(self) -> None:
        await self.rig.stop_server("valkey", signal.SIGTERM)

    async def heal(self) -> None:
        await self.rig.start_server("valkey")
        await super().heal()


class ValkeyFlushed(Fault):
    name, rows, loses_hot = "FLUSHALL", "F06", True

    async def inject(self) -> None:
        async with valkey(self.rig) as client:
            await client.flushall()


class ValkeyEmptied(Fault):
    name, rows, loses_hot, kills = "valkey restarted without its data", "F06", True, True

    async def inject(self) -> None:
        await self.rig.stop_server("valkey")
        self.change_files()

    def change_files(self) -> None:
        for path in _aof_folder(self.rig).glob("*"):
            path.unlink()

    async def heal(self) -> None:
        await self.rig.start_server("valkey")
        await super().heal()


class AofTruncated(ValkeyEmptied):
    name, rows = "append-only file cut short", "F06"

    def change_files(self) -> None:
        newest = max(_aof_folder(self.rig).glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
        size = newest.stat().st_size
        with newest.open("r+b") as file:
            file.truncate(max(0, size - self.scene.rng.randrange(777, AOF_CUT_BYTES)))


class StaleReplicaPromoted(Fault):
    """A replica that was cut off a while ago takes the address: what was acknowledged since is gone."""

    name, rows, loses_hot, kills = "stale replica promoted", "F06", True, True

    async def inject(self) -> None:
        rig = self.rig
        port = _free_port()
        folder = rig.folder / f"replica-{time.monotonic_ns() % 10**9}"
        folder.mkdir()
        folder.chmod(0o711)
        replica = EmbeddedValkey(folder, for_tests=not rig.plan.is_durable)
        async with valkey(rig) as primary:
            await primary.config_set("bind", "127.0.0.1")
            await primary.config_set("port", port)
            start_and_wait(replica, 10.0)
            async with redis_asyncio.from_url(replica.url) as client:
                await client.execute_command("REPLICAOF", "127.0.0.1", port)
                async with asyncio.timeout(20):
                    while (await client.info("replication"))["master_link_status"] != "up":
                        await asyncio.sleep(0.05)
                await asyncio.sleep(0.5)
                await client.execute_command("REPLICAOF", "NO", "ONE")
        await asyncio.sleep(STALE_S)
        await rig.replace_valkey(replica, folder)


class ScriptsFlushed(Fault):
    name, rows = "SCRIPT FLUSH", "F10"

    async def inject(self) -> None:
        async with valkey(self.rig) as client:
            await client.script_flush()


class ValkeyFull(Fault):
    """Postgres is away until Redis has no memory left; then Postgres comes back and Redis drains by itself."""

    name, rows, hold_s = "valkey full, postgres down", "F07 F13", 5.0
    room_bytes = 600_000

    async def inject(self) -> None:
        for link in self.rig.links_between("flusher", "postgres"):
            link.refuse()
        async with valkey(self.rig) as client:
            used = (await client.info("memory"))["used_memory"]
            await client.config_set("maxmemory", used + self.room_bytes)

    async def heal(self) -> None:
        self.rig.heal_links()
        await super().heal()
        self.healed_ms = now_ms()
        # Redis must drain, and acks come again, before anybody gives it more room.
        if self.scene.players is not None:
            assert await self.scene.players.wait_saved(20.0), "a full Redis did not drain by itself"
        async with valkey(self.rig) as client:
            await client.config_set("maxmemory", 0)


# ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Link(Fault):
    rows = "F28"
    near: ClassVar[str]
    far: ClassVar[str]
    how: ClassVar[str]

    async def inject(self) -> None:
        if self.near == "players":
            self.hurt = [self.rig.links["players"]]
        else:
            self.hurt = self.rig.links_between(self.scene.pick(self.near), self.far)
        for link in self.hurt:
            if self.how == "hang":
                link.hang(*self.scene.rng.choice((("up",), ("down",), ("up", "down"))))
            else:
                getattr(link, self.how)()

    async def heal(self) -> None:
        for link in self.hurt:
            link.heal()
            if self.how == "hang":
                # What hung may have been given up by one side only.
                link.cut()
        await super().heal()


def _link(near: str, far: str, how: str, hold_s: float, rows: str) -> type[_Link]:
    words = {"cut": "cut", "hang": "hangs", "reset": "reset"}[how]
    name = f"link {near}–{far} {words}"
    body = {"name": name, "rows": rows, "near": near, "far": far, "how": how, "hold_s": hold_s}
    return type(f"Link{near.title()}{far.title()}{how.title()}", (_Link,), body)


class RedisReplyLost(Fault):
    """Redis does what it was asked and the answer never arrives."""

    name, rows = "redis reply lost", "F05"

    async def inject(self) -> None:
        links = self.rig.links_between("gateway", "valkey")
        before = sum(link.robbed for link in links)
        for link in links:
            link.rob(b"EVALSHA")
        await _wait_robbed(links, before + len(links))


class CommitReplyLost(Fault):
    """Postgres commits a flush and the flusher is not told."""

    name, rows = "reply of COMMIT lost", "F14"

    async def inject(self) -> None:
        links = self.rig.links_between("flusher", "postgres")
        before = sum(link.robbed for link in links)
        for link in links:
            link.rob(b"COMMIT")
        await _wait_robbed(links, before + 1)
        for link in links:
            link.heal()


async def _wait_robbed(links: list[Any], wanted: int) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            while sum(link.robbed for link in links) < wanted:
                await asyncio.sleep(0.01)


# ── Postgres ────────────────────────────────────────────────────────────────────────────────────────────────────────


class PostgresRefuses(Fault):
    name, rows, hold_s = "postgres refuses", "F12 F13", 3.0

    async def inject(self) -> None:
        for kind in ("flusher", "gateway"):
            for link in self.rig.links_between(kind, "postgres"):
                link.refuse()

    async def heal(self) -> None:
        self.rig.heal_links()
        await super().heal()


class PostgresSlow(Fault):
    name, rows, hold_s = "postgres slow", "F18", 5.0
    latency_s = 0.1

    async def inject(self) -> None:
        for link in self.rig.links_between("flusher", "postgres"):
            link.latency_s = self.latency_s

    async def heal(self) -> None:
        self.rig.heal_links()
        await super().heal()


class RowsLocked(Fault):
    """An operator's transaction holds progress and profile rows."""

    name, rows, hold_s = "rows locked by an operator", "F17", 3.0

    async def inject(self) -> None:
        self.connection = await asyncpg.connect(self.rig.database_url)
        self.transaction = self.connection.transaction()
        await self.transaction.start()
        await self.connection.execute("SET lock_timeout = '10s'")
        await self.connection.fetch("SELECT id FROM experience_progress ORDER BY updated_at DESC LIMIT 20 FOR UPDATE")
        await self.connection.fetch("SELECT id FROM player_profiles ORDER BY updated_at DESC LIMIT 40 FOR UPDATE")

    async def heal(self) -> None:
        await self.transaction.rollback()
        await self.connection.close()
        await super().heal()


class Deadlocks(Fault):
    """Transactions that lock profiles before progress, the other way round than a flush does, in a hurry."""

    name, rows, hold_s = "deadlocks provoked", "F17", 0.0

    async def inject(self) -> None:
        await asyncio.gather(*(self._lock_backwards() for _ in range(4)))

    async def _lock_backwards(self) -> None:
        async with database(self.rig) as connection:
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                with contextlib.suppress(asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError):
                    async with connection.transaction():
                        await connection.execute("SET LOCAL deadlock_timeout = '50ms'")
                        rows = await connection.fetch(
                            "SELECT id FROM player_profiles ORDER BY updated_at DESC LIMIT 10 FOR UPDATE"
                        )
                        await asyncio.sleep(0.05)
                        await connection.fetch(
                            "SELECT id FROM experience_progress WHERE player_id = ANY($1) FOR UPDATE",
                            [row["id"] for row in rows],
                        )


class BackendsTerminated(Fault):
    name, rows = "backends terminated", "F20"

    async def inject(self) -> None:
        async with database(self.rig) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE usename = '{USER}' AND application_name LIKE 'wayhold%' AND pid <> pg_backend_pid()"
            )


class ConnectionsExhausted(Fault):
    """All connections that Postgres has are taken by somebody else, and those we had are gone."""

    name, rows, hold_s = "postgres out of connections", "F20", 2.0

    async def inject(self) -> None:
        self.taken: list[Any] = []
        async with database(self.rig) as connection:
            with contextlib.suppress(asyncpg.PostgresError):
                while True:
                    self.taken.append(await asyncpg.connect(self.rig.database_url))
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'wayhold%'"
            )
            with contextlib.suppress(asyncpg.PostgresError):
                while True:
                    self.taken.append(await asyncpg.connect(self.rig.database_url))

    async def heal(self) -> None:
        for connection in self.taken:
            connection.terminate()
        await wait_for_database(self.rig)
        await super().heal()


KINDS: tuple[type[Fault], ...] = (
    GatewayKilled,
    FlusherKilled,
    *(_at_step(step) for step in STEPS),
    ValkeyKilled,
    PostgresKilled,
    BackendKilled,
    EverythingKilled,
    GatewayFrozen,
    FlusherFrozen,
    ValkeyFrozen,
    PostgresFrozen,
    GatewayDrained,
    GatewayDrainedTwice,
    DeviceRaced,
    ValkeyRestarted,
    ValkeyFlushed,
    ValkeyEmptied,
    AofTruncated,
    StaleReplicaPromoted,
    ScriptsFlushed,
    ValkeyFull,
    _link("players", "gateway", "cut", 0.0, "F28"),
    _link("players", "gateway", "reset", 0.0, "F28"),
    _link("players", "gateway", "hang", 4.0, "F28"),
    _link("gateway", "valkey", "cut", 0.0, "F05"),
    _link("gateway", "valkey", "reset", 0.0, "F05"),
    _link("gateway", "valkey", "hang", 3.0, "F04"),
    _link("flusher", "valkey", "cut", 0.0, "F05"),
    _link("flusher", "valkey", "hang", 3.0, "F04"),
    _link("flusher", "postgres", "cut", 0.0, "F14"),
    _link("flusher", "postgres", "hang", 3.0, "F18"),
    _link("gateway", "postgres", "cut", 0.0, "F20"),
    _link("gateway", "postgres", "hang", 3.0, "F18"),
    RedisReplyLost,
    CommitReplyLost,
    PostgresRefuses,
    PostgresSlow,
    RowsLocked,
    Deadlocks,
    BackendsTerminated,
    ConnectionsExhausted,
)

assert len({kind.name for kind in KINDS}) == len(KINDS)


def find_kind(name: str) -> type[Fault] | None:
    return next((kind for kind in KINDS if kind.name == name), None)


# ── what several faults need ────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def database(rig: Rig) -> Any:
    """A connection past the proxies."""
    connection = await asyncpg.connect(rig.database_url, timeout=5, command_timeout=15)
    try:
        yield connection
    finally:
        connection.terminate()


@contextlib.asynccontextmanager
async def valkey(rig: Rig) -> Any:
    async with redis_asyncio.from_url(rig.redis_url, socket_timeout=5) as client:
        yield client


async def wait_for_database(rig: Rig, deadline_s: float = 20.0) -> None:
    """Until Postgres takes connections again."""
    async with asyncio.timeout(deadline_s):
        while True:
            with contextlib.suppress(asyncpg.PostgresError, OSError, TimeoutError):
                async with database(rig) as connection:
                    await connection.fetchval("SELECT 1")
                    return
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def stalled_reader(url: str) -> Any:
    """A client that connected and reads nothing any more, not even a close."""
    async with connect(url, compression=None, ping_interval=None, close_timeout=0.1) as client:
        client.transport.pause_reading()
        yield client
        client.transport.abort()


def _aof_folder(rig: Rig) -> Path:
    return rig.valkey_folder / "valkey" / "appendonlydir"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
