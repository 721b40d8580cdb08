"""
The gateway at saturation: 2,000 players, each with one update outstanding, always.

With everything on two cores it is the second core (load, Redis, flusher, Postgres) that is full first; `cores_used`
says so, and updates per CPU-second of the gateway say what a gateway with a core of its own could do.
"""

from __future__ import annotations

from typing import Any

from benchmarks.installation import run_installation
from benchmarks.load_processes import run_load
from benchmarks.measure import WARM_S, bring_in, measure, middle, settle
from benchmarks.plan import Plan

PLAYERS = 2000


async def run(plan: Plan) -> dict[str, Any]:
    players = plan.players(PLAYERS)
    windows = []
    async with (
        run_installation(plan.cores, settings=plan.settings()) as wayhold,
        run_load(wayhold, players=players, run="saturation") as load,
    ):
        await bring_in(load)
        await load.do("closed", seconds=min(WARM_S, plan.seconds(WARM_S)))
        await settle(load)
        for number in range(plan.rounds(3)):
            windows.append(await measure(wayhold, load, "closed", seconds=plan.seconds(20)))
            plan.say(f"saturation {number + 1}: {windows[-1]['rate_per_s']:,.0f}/s {windows[-1]['cpu_us_per_update']}")
        facts = await wayhold.describe()
    gateway_us = middle(windows, "cpu_us_per_update", "gateway")
    return {
        "figures": {
            "saturation_gateway_us": gateway_us,
            "saturation_redis_us": middle(windows, "cpu_us_per_update", "redis"),
            "saturation_flusher_us": middle(windows, "cpu_us_per_update", "flusher"),
            "saturation_postgres_us": middle(windows, "cpu_us_per_update", "postgres"),
            "saturation_load_us": middle(windows, "cpu_us_per_update", "load"),
            "saturation_updates_per_gateway_cpu_s": round(1e6 / gateway_us),
            "saturation_rate_per_s": middle(windows, "rate_per_s"),
            "saturation_p50_ms": middle(windows, "loop", "latency", "p50"),
            "saturation_p99_ms": middle(windows, "loop", "latency", "p99"),
        },
        "players": players,
        "windows": windows,
        "installation": facts,
    }
