"""
What a check of a guard is, and what several of them need: empty servers, a step, a count of rows.

A check answers how often each number rose that should have stayed zero. Their names are the audit's where they can be
(`lost`, `duplicated`, `state_mismatches`), else they say what happened.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from persistence.cold.store import ColdStore
from persistence.hot.store import HotStore
from tests.property.test_write_path_schedules import World
from tests.stores.conftest import StorePlayer, Stores

REST_S = 6.0
"""How long a client may take to come to rest when nothing is broken any more; it takes a fraction of a second."""

Found = Counter[str]
Check = Callable[["Ground"], Awaitable[Found]]
CHECKS: dict[str, Check] = {}

STEP = {"type": "step", "content_id": "lamp"}
COUNT = [{"op": "incr", "path": "collectibles.steps", "value": 1}]


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


@dataclass(slots=True)
class Ground:
    """Empty servers."""

    redis_url: str
    database_url: str

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[Stores]:
        hot = await HotStore.open(self.redis_url, flush_interval_s=5.0)
        cold = await ColdStore.open(self.database_url, pool_max=4)
        try:
            yield Stores(hot, cold, self.database_url, self.redis_url)
        finally:
            await hot.close()
            await cold.close()

    @asynccontextmanager
    async def world(self, seed: int = 1) -> AsyncIterator[World]:
        """One progress and two devices, step by step, as in the schedules."""
        async with self.stores() as stores:
            connection = await asyncpg.connect(self.database_url)
            try:
                yield World(random.Random(seed), stores, connection)
            finally:
                await connection.close()

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        connection = await asyncpg.connect(self.database_url)
        try:
            return list(await connection.fetch(sql, *args))
        finally:
            await connection.close()


async def count_rows(at: Ground, made: int) -> Found:
    """Rows by what they say: `made` different steps should be there, each once, with a state that says so."""
    rows = await at.fetch("SELECT content_id, count(*) AS n FROM player_progress_events GROUP BY 1")
    found = Counter(lost=max(0, made - len(rows)), duplicated=sum(row["n"] - 1 for row in rows), state_mismatches=0)
    for row in await at.fetch("SELECT state FROM experience_progress"):
        steps = json.loads(row["state"]).get("collectibles", {}).get("steps", 0)
        found["state_mismatches"] += abs(steps - sum(row["n"] for row in rows))
    return +found


async def send(player: StorePlayer, number: int, **fields: Any) -> Any:
    """One step, as the next of its stream."""
    return await player.send(player.make({"type": "step", "content_id": f"{player.device}-{number}"}, COUNT, **fields))


def name_failure(error: BaseException) -> str:
    """What an assertion of the schedules is about, as the number that rose."""
    text = str(error)
    for words, name in (
        ("stored twice", "duplicated"),
        ("out of order", "reordered"),
        ("told saved", "lost"),
        ("never at rest", "never_at_rest"),
        ("thrown away", "discards"),
        ("postgres never forgets", "discards"),
        ("set(stored)", "lost"),
    ):
        if words in text:
            return name
    return "state_mismatches"
