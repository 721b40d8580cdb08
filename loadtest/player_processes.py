"""
The processes that hold the simulated players, seen from the load test that owns them.

Promise: a process that does not do what it should in time is killed, and `kill` leaves none.

Not here: how they are talked to (told_process.py).
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from loadtest.percentiles import Histogram, sum_histograms
from loadtest.run_players import PlayersPlan
from loadtest.tally import COUNTED, STATES
from loadtest.target import TargetMissing
from loadtest.told_process import ToldProcess

PLAYERS_PER_PROCESS = 1500
WORDS = ("ready", "played", "failed", "settled", "left")
SUMMED = (*COUNTED, *STATES, "connected", "cpu_s", "rss_bytes")


def split_players(players: int) -> int:
    """How many processes so many players should have: few leave the cores to the gateway."""
    return max(1, min(os.cpu_count() or 1, -(-players // PLAYERS_PER_PROCESS)))


class PlayerProcesses:
    """All player processes of one load test."""

    def __init__(self, plans: Sequence[PlayersPlan]) -> None:
        self._plans = plans
        self._processes: list[ToldProcess] = []

    async def start(self, timeout_s: float) -> None:
        """Start all and wait until each has its players ready. Raises TargetMissing if one cannot start."""
        for plan in self._plans:
            self._processes.append(await ToldProcess.start("loadtest.run_players", asdict(plan), WORDS))
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
            plan.players if facts is None else facts["unsettled"] for plan, facts in zip(self._plans, said, strict=True)
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

    def find_failure(self) -> str | None:
        """What is wrong with the scenario itself, if a process has said so."""
        for process in self._processes:
            failed = process.find_said("failed")
            if failed is not None:
                return str(failed["why"])
        return None

    def sum_counts(self) -> dict[str, Any]:
        """What all players did so far."""
        counts = [process.counts for process in self._processes]
        summed: dict[str, Any] = {name: sum(one.get(name, 0) for one in counts) for name in SUMMED}
        for name in ("errors", "closes"):
            by_code: Counter[int] = Counter()
            for one in counts:
                by_code.update({int(code): count for code, count in one.get(name, {}).items()})
            summed[name] = dict(sorted(by_code.items()))
        return summed

    def sum_latency(self, name: str) -> Histogram:
        """Of the last second: `ack`, `saved` or `late`."""
        texts = [process.counts.get(f"{name}_hdr") for process in self._processes]
        return sum_histograms(Histogram.decode(text) for text in texts if text)
