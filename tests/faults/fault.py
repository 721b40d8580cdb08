"""
What a fault is: a name, a way to inject it and a way to end it; and what several of them need.

A fault ends when the rig is whole again: `heal` returns when every process works and every link passes. What players
then see (players.Timeline) is the product's doing.

Not here: the faults themselves (process_faults.py, hot_faults.py, link_faults.py, postgres_faults.py,
handler_faults.py), the table of them (kinds.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import Any, ClassVar

import asyncpg
import redis.asyncio as redis_asyncio

from tests.faults.players import PlayerProcesses
from tests.faults.rig import Rig


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
    weight: ClassVar[int] = 6
    """How often it comes up compared with the others. Kills are quick, and what a run is for; long ones are rarer."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.rig = scene.rig
        self.healed_ms: float | None = None
        """When it was over, for a kind that has to look on before it returns."""

    async def inject(self) -> None:
        raise NotImplementedError

    async def heal(self) -> None:
        await self.rig.wait_up()


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
