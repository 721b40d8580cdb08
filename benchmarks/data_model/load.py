"""
Drives the process of players (players.py).

Promise: an order has a deadline, and a process that does not keep it is killed with the part that gave the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.installation import Installation
from benchmarks.load_processes import LINE_BYTES_MAX, ROOT, LoadFailed
from persistence.fill.story import World

SLACK_S = 60.0


class Load:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(
        self, order: str, on_news: Callable[[dict[str, Any]], None] = lambda news: None, **facts: Any
    ) -> dict[str, Any]:
        """Give an order and wait for what came of it; `on_news` gets what is told on the way. Raises LoadFailed."""
        allowed_s = SLACK_S + sum(float(facts.get(name, 0)) for name in ("seconds", "timeout_s"))
        await self.write({"do": order, **facts})
        try:
            async with asyncio.timeout(allowed_s):
                while True:
                    told = await self.read()
                    if "done" in told:
                        done: dict[str, Any] = told["done"]
                        return done
                    if "failed" in told:
                        raise LoadFailed(f"{order}: {told['failed']}")
                    on_news(told)
        except TimeoutError:
            raise LoadFailed(f"{order}: the players did not end within {allowed_s:g} s") from None

    async def write(self, facts: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(facts).encode() + b"\n")
        await self._process.stdin.drain()

    async def read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise LoadFailed("the process of players ended")
        told: dict[str, Any] = json.loads(line)
        return told


@asynccontextmanager
async def run_players(wayhold: Installation, user_ids: Sequence[str], world: World) -> AsyncIterator[Load]:
    """A process with these players, none of them connected yet. None is left when the context ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "benchmarks.data_model.players"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    load = Load(process)
    try:
        await load.write(
            {
                "host": wayhold.host,
                "port": wayhold.port,
                "secret": wayhold.secret,
                "experience": world.experience_id,
                "device": f"bench-{os.urandom(6).hex()}",
                "places": [{"id": place.content_id, "lat": place.lat, "lng": place.lng} for place in world.places],
                "user_ids": list(user_ids),
            }
        )
        async with asyncio.timeout(SLACK_S):
            await load.read()
        yield load
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
