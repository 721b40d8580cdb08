"""
The gateway at saturation: 2,000 players, each with one update outstanding, always.

CPU is counted with the gateway on a core of its own. Then it is the second core (players, Redis, flusher, Postgres)
that is full first; `cores_used` says so, and updates per CPU-second of the gateway say what it could do alone. The wall
rate is that of a last window in which the system chooses the cores, as it does where Wayhold is at work.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from statistics import median
from typing import Any

from benchmarks.installation import run_installation
from benchmarks.load_processes import ROOT, run_load
from benchmarks.measure import WARM_S, bring_in, measure, middle, settle
from benchmarks.plan import Plan

PLAYERS = 2000


async def run(plan: Plan) -> dict[str, Any]:
    players = plan.players(PLAYERS)
    windows: dict[str, list[dict[str, Any]]] = {}
    facts: dict[str, Any] = {}
    trees = {"this": ROOT} | ({"other": plan.against} if plan.against else {})
    async with AsyncExitStack() as stack:
        sides = {}
        for name, root in trees.items():
            wayhold = await stack.enter_async_context(run_installation(plan.cores, settings=plan.settings(), root=root))
            load = await stack.enter_async_context(run_load(wayhold, players=players, run=f"saturation-{name}"))
            await bring_in(load)
            await load.do("closed", seconds=min(WARM_S, plan.seconds(WARM_S)))
            await settle(load)
            sides[name] = wayhold, load
        for number in range(plan.rounds(3)):
            for name, (wayhold, load) in sides.items():
                window = await measure(wayhold, load, "closed", seconds=plan.seconds(20))
                windows.setdefault(name, []).append(window)
                plan.say(f"{name} {number + 1}: {window['rate_per_s']:,.0f}/s {window['cpu_us_per_update']}")
        wayhold, load = sides["this"]
        facts = await wayhold.describe()
        wayhold.let_go(load)
        free = await measure(wayhold, load, "closed", seconds=plan.seconds(20))
        plan.say(f"on any core: {free['rate_per_s']:,.0f}/s {free['cpu_us_per_update']}")
    figures = make_figures(windows["this"]) | {"saturation_rate_per_s": free["rate_per_s"]}
    if "other" in windows:
        figures |= compare(windows)
    return {
        "figures": figures,
        "players": players,
        "windows": windows["this"],
        "window_on_any_core": free,
        "windows_of_other": windows.get("other", []),
        "installation": facts,
    }


def make_figures(windows: list[dict[str, Any]]) -> dict[str, float]:
    gateway_us = middle(windows, "cpu_us_per_update", "gateway")
    return {
        "saturation_gateway_us": gateway_us,
        "saturation_redis_us": middle(windows, "cpu_us_per_update", "redis"),
        "saturation_flusher_us": middle(windows, "cpu_us_per_update", "flusher"),
        "saturation_postgres_us": middle(windows, "cpu_us_per_update", "postgres"),
        "saturation_load_us": middle(windows, "cpu_us_per_update", "load"),
        "saturation_updates_per_gateway_cpu_s": round(1e6 / gateway_us),
        "saturation_pinned_rate_per_s": middle(windows, "rate_per_s"),
        "saturation_p50_ms": middle(windows, "loop", "latency", "p50"),
        "saturation_p99_ms": middle(windows, "loop", "latency", "p99"),
    }


def compare(windows: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """CPU of this tree ÷ CPU of the other one, of neighbouring windows: below 1, this one is cheaper."""
    pairs = list(zip(windows["this"], windows["other"], strict=True))
    # Another tree may have other processes.
    kinds = [kind for kind in pairs[0][0]["cpu_us_per_update"] if kind in pairs[0][1]["cpu_us_per_update"]]
    shares = {
        kind: median(ours["cpu_us_per_update"][kind] / theirs["cpu_us_per_update"][kind] for ours, theirs in pairs)
        for kind in kinds
    }
    return {f"against_{kind}_share": round(share, 3) for kind, share in shares.items()}
