"""Faults of processes: killed, frozen, told to stop; and installations that share a device id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Any, ClassVar

from websockets.asyncio.client import connect

from tests.faults.fault import Fault, database, wait_for_database

STEP_DEADLINE_S = 20.0


class _Killed(Fault):
    victim: ClassVar[str]

    async def inject(self) -> None:
        name = self.scene.pick(self.victim)
        deaths = self.rig.members[name].deaths
        self.rig.kill(name)
        await self.rig.wait_dead(name, deaths)


class GatewayKilled(_Killed):
    name, rows, victim = "gateway killed", "F01", "gateway"
    weight = 20


class FlusherKilled(_Killed):
    name, rows, victim = "flusher killed", "F02", "flusher"
    weight = 18


class ValkeyKilled(_Killed):
    name, rows, victim = "valkey killed", "F03", "valkey"
    weight = 14


class PostgresKilled(_Killed):
    name, rows, victim = "postgres killed", "F12", "postgres"
    weight = 14


class _KilledTogether(Fault):
    """Several at one stroke, as a machine takes all that runs on it along."""

    def choose(self) -> list[str]:
        raise NotImplementedError

    async def inject(self) -> None:
        members = self.rig.members
        names = self.choose()
        deaths = {name: members[name].deaths for name in names}
        for name in names:
            self.rig.kill(name)
        for name in names:
            await self.rig.wait_dead(name, deaths[name])


class NodeKilled(_KilledTogether):
    name, rows = "a gateway and a flusher killed together", "F01 F02"
    weight = 10

    def choose(self) -> list[str]:
        return [self.scene.pick("gateway"), self.scene.pick("flusher")]


class ProgramsKilled(_KilledTogether):
    name, rows = "all gateways and flushers killed", "F01 F02"
    weight = 12

    def choose(self) -> list[str]:
        return [*self.rig.names("gateway"), *self.rig.names("flusher")]


class EverythingKilled(_KilledTogether):
    name, rows = "all processes killed", "F01 F02 F03 F12"
    weight = 10

    def choose(self) -> list[str]:
        return list(self.rig.members)


class BackendKilled(Fault):
    """One server process of Postgres: the others end too, and it recovers as after a crash."""

    name, rows = "postgres backend killed", "F12"
    weight = 10

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
        self.rig.sigkills += 1

    async def heal(self) -> None:
        await wait_for_database(self.rig)
        await super().heal()


class FlusherKilledAtStep(Fault):
    """The flusher dies right after a step that it names; see run_dying_flusher.py."""

    rows = "F02"
    weight = 9
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
        self.rig.sigkills += 1


def at_step(step: str) -> type[FlusherKilledAtStep]:
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
    weight = 5

    async def inject(self) -> None:
        await super().inject()
        # Its players find out at once and come in by the other door; it still holds their sockets, and what they sent.
        self.rig.links["players"].strand()


class FlusherFrozen(_Frozen):
    name, rows, victim, hold_s = "flusher frozen", "F21 F24", "flusher", 4.0
    weight = 5


class ValkeyFrozen(_Frozen):
    name, rows, victim, hold_s = "valkey frozen 5 s", "F04", "valkey", 5.0
    weight = 3


class PostgresFrozen(_Frozen):
    name, rows, victim, hold_s = "postgres frozen 10 s", "F18", "postgres", 10.0
    weight = 2


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


@contextlib.asynccontextmanager
async def stalled_reader(url: str) -> Any:
    """A client that connected and reads nothing any more, not even a close."""
    async with connect(url, compression=None, ping_interval=None, close_timeout=0.1) as client:
        client.transport.pause_reading()
        yield client
        client.transport.abort()
