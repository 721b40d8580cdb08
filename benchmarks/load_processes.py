"""
The processes of players as the benchmarks drive them.

Promise: an order has a deadline, and a process that does not keep it is killed with the part that gave the order. None
is left when the context ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from benchmarks.accounts import pin

ROOT = Path(__file__).parents[1]
SLACK_S = 60.0
LINE_BYTES_MAX = 1 << 20


class LoadFailed(Exception):
    """Players could not do what they were told."""


class Target(Protocol):
    """Where players go, and the key that their tokens are made with."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def secret(self) -> str: ...
    @property
    def players_on(self) -> frozenset[int] | None:
        """The cores that the processes of players are bound to; None: wherever the system likes."""


class LoadProcess:
    """One process of players; use `run_load`."""

    def __init__(self, process: asyncio.subprocess.Process, players: int) -> None:
        self._process = process
        self.players = players
        self.pid = process.pid

    async def do(self, order: str, **facts: Any) -> dict[str, Any]:
        """Give an order and wait for what came of it. Raises LoadFailed."""
        allowed_s = SLACK_S + sum(float(facts.get(name, 0)) for name in ("seconds", "timeout_s"))
        await self.write({"do": order, **facts})
        found = await self.read(allowed_s, order)
        if "failed" in found:
            raise LoadFailed(f"{order}: {found['failed']}")
        return found

    async def write(self, facts: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(facts).encode() + b"\n")
        await self._process.stdin.drain()

    async def read(self, timeout_s: float, what: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        except TimeoutError:
            raise LoadFailed(f"{what}: the players said nothing for {timeout_s:g} s") from None
        if not line:
            raise LoadFailed(f"{what}: the process of players ended")
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def run_load(
    target: Target, *, players: int, run: str, first: int = 0, dialect: str = "wayhold"
) -> AsyncIterator[LoadProcess]:
    """Players `first` … of a run; the same run and number is the same player in every process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "benchmarks.load"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    load = LoadProcess(process, players)
    if target.players_on is not None:
        pin(process.pid, target.players_on)
    try:
        await load.write(
            {
                "host": target.host,
                "port": target.port,
                "secret": target.secret,
                "players": players,
                "run": run,
                "first": first,
                "dialect": dialect,
            }
        )
        await load.read(SLACK_S, "start")
        yield load
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
