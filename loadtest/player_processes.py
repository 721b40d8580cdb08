"""
The processes that hold the simulated players, seen from the load test that owns them.

Promise: a process that does not do what it should in time is killed, and `kill` leaves none. What they say is read all
the time, so that none of them ever waits for a full pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from loadtest.run_players import PlayersPlan
from loadtest.target import TargetMissing

PLAYERS_PER_PROCESS = 1500
COUNTED = ("made", "refused", "accepted", "saved", "voids", "connected", "resumes", "errors", "closes", "stopped")


def split_players(players: int) -> int:
    """How many processes so many players should have: few leave the cores to the gateway."""
    return max(1, min(os.cpu_count() or 1, -(-players // PLAYERS_PER_PROCESS)))


class PlayerProcesses:
    """All player processes of one load test."""

    def __init__(self, plans: Sequence[PlayersPlan]) -> None:
        self._plans = plans
        self._processes: list[_PlayerProcess] = []

    async def start(self, timeout_s: float) -> None:
        """Start all and wait until each has its players ready. Raises TargetMissing if one cannot start."""
        for plan in self._plans:
            self._processes.append(await _PlayerProcess.start(plan))
        for process in self._processes:
            if await process.wait_for("ready", timeout_s) is None:
                raise TargetMissing("a process of players did not start")

    async def begin(self, start_ms: float) -> None:
        """The ramp begins at `start_ms`."""
        for process in self._processes:
            await process.order("start", start_ms=start_ms)

    async def wait_settled(self, timeout_s: float) -> int:
        """Wait until all players have everything saved; answers how many have not."""
        said = await asyncio.gather(*(process.wait_for("settled", timeout_s) for process in self._processes))
        return sum(
            process.plan.players if facts is None else facts["unsettled"]
            for process, facts in zip(self._processes, said, strict=True)
        )

    async def leave(self, timeout_s: float) -> None:
        """End all sessions politely."""
        for process in self._processes:
            await process.order("leave")
        await asyncio.gather(*(process.wait_for("left", timeout_s) for process in self._processes))
        await asyncio.gather(*(process.wait_end(5) for process in self._processes))

    async def kill(self) -> None:
        """SIGKILL what still runs. Their last words are read, they are not waited for in vain."""
        for process in self._processes:
            process.kill()
        await asyncio.gather(*(process.wait_end(10) for process in self._processes))

    def sum_counts(self) -> dict[str, Any]:
        """What all players did so far; latencies are of the process that fares worst."""
        counts = [process.counts for process in self._processes]
        return {name: sum(one.get(name, 0) for one in counts) for name in COUNTED} | {
            name: max((one.get(name, 0.0) for one in counts), default=0.0) for name in ("ack_p50_ms", "ack_p99_ms")
        }


class _PlayerProcess:
    def __init__(self, plan: PlayersPlan, process: asyncio.subprocess.Process) -> None:
        self.plan = plan
        self.counts: dict[str, Any] = {}
        self._process = process
        self._said: dict[str, asyncio.Future[dict[str, Any] | None]] = {
            name: asyncio.get_running_loop().create_future() for name in ("ready", "settled", "left")
        }
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, plan: PlayersPlan) -> _PlayerProcess:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest.run_players"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # A Ctrl-C is for the load test, which ends its players itself.
            start_new_session=True,
        )
        started = cls(plan, process)
        await started._write(asdict(plan))
        return started

    async def order(self, what: str, **facts: Any) -> None:
        await self._write({"order": what, **facts})

    async def wait_for(self, what: str, timeout_s: float) -> dict[str, Any] | None:
        """What the process said, or None if it ended or was late."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                return await asyncio.shield(self._said[what])
        except TimeoutError:
            return None

    def kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def wait_end(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
                await self._reader
        except TimeoutError:
            self.kill()

    async def _write(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                with contextlib.suppress(ValueError):
                    said: dict[str, Any] = json.loads(line)
                    if said["say"] == "counts":
                        self.counts = said
                    elif not self._said[said["say"]].done():
                        self._said[said["say"]].set_result(said)
        finally:
            for waiting in self._said.values():
                if not waiting.done():
                    waiting.set_result(None)
