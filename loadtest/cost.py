"""
What a run costs: CPU of this tool and of the gateways for each update, and the tool's memory, while the players play.

The ramp before and the settling after are left out: hellos and repeats are no updates. Not here: looking at processes
(server_meter.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from loadtest.server_meter import Use
from loadtest.tally import find_memory_bytes

# Below, what processes cost by themselves says nothing about players.
PLAYERS_TO_DIVIDE_BY_MIN = 1000


class Look(NamedTuple):
    """What was used up to a moment of play."""

    accepted: int
    tool_cpu_s: float
    gateway_cpu_s: float


@dataclass(slots=True)
class Cost:
    """Of the players of this machine. `counts` are those of all its player processes (player_processes.py)."""

    players: int
    seconds: float
    first: Look | None = None
    last: Look | None = None
    tool_bytes_max: int = 0
    _before: tuple[float, float] | None = None

    def measure_tool(self, counts: Mapping[str, Any], now_s: float) -> Use:
        """The players' processes and this one, since it was asked last."""
        cpu_s = counts["cpu_s"] + time.process_time()
        before_s, at_s = self._before or (cpu_s, now_s)
        self._before = (cpu_s, now_s)
        cores = (cpu_s - before_s) / (now_s - at_s) if now_s > at_s else 0.0
        return Use(cpu_s, max(0.0, cores), counts["rss_bytes"] + find_memory_bytes())

    def note(self, counts: Mapping[str, Any], tool: Use, gateway: Use, at_s: float) -> None:
        """Once a second; `at_s` is the time of play."""
        if not 0 <= at_s <= self.seconds + 1:
            return
        self.last = Look(counts["accepted"], tool.cpu_s, gateway.cpu_s)
        if self.first is None:
            self.first = self.last
        self.tool_bytes_max = max(self.tool_bytes_max, tool.rss_bytes)

    def figures(self) -> dict[str, float]:
        """What could be measured, under the names of figures.py."""
        figures: dict[str, float] = {}
        first, last = self.first, self.last
        if first is not None and last is not None and last.accepted > first.accepted:
            updates = last.accepted - first.accepted
            figures["tool_cpu_us_per_update"] = round((last.tool_cpu_s - first.tool_cpu_s) / updates * 1e6, 1)
            if last.gateway_cpu_s > first.gateway_cpu_s:
                used_s = last.gateway_cpu_s - first.gateway_cpu_s
                figures["gateway_cpu_us_per_update"] = round(used_s / updates * 1e6, 1)
        if self.tool_bytes_max and self.players >= PLAYERS_TO_DIVIDE_BY_MIN:
            figures["tool_memory_kib_per_player"] = round(self.tool_bytes_max / 1024 / self.players, 1)
        return figures


def show_cost(figures: Mapping[str, float]) -> list[str]:
    """A line for people; none where nothing was measured."""
    if "tool_cpu_us_per_update" not in figures:
        return []
    gateway = figures.get("gateway_cpu_us_per_update")
    beside = f"{gateway:.0f} µs of the gateway's" if gateway else "the gateway is not of this machine's `dev`"
    memory = figures.get("tool_memory_kib_per_player")
    of_players = f"; {memory:.1f} KiB of memory per player" if memory else ""
    return [f"  this tool    {figures['tool_cpu_us_per_update']:.0f} µs of CPU per update, beside {beside}{of_players}"]
