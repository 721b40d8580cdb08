"""
Fixed rates in an open loop: 2,000 players × 2 updates per second, 2,000 × 10, 10,000 × 2.

A latency counts from the moment at which its update was due. `sent_late` is how late the process of players itself
was: that much of a latency is ours and not the gateway's.
"""

from __future__ import annotations

from typing import Any

from benchmarks.installation import run_installation
from benchmarks.load_processes import run_load
from benchmarks.measure import WARM_S, bring_in, measure, settle
from benchmarks.plan import Plan

RATES = ((2000, 2), (2000, 10), (10_000, 2))
"""Players, and updates of each per second."""


async def run(plan: Plan) -> dict[str, Any]:
    figures: dict[str, float] = {}
    cells: list[dict[str, Any]] = []
    failed: list[str] = []
    facts: dict[str, Any] = {}
    for players, each_per_s in RATES:
        name = f"rate_{players}x{each_per_s}"
        try:
            cell, facts = await _measure_cell(plan, plan.players(players), each_per_s)
        except Exception as error:  # a rate that is too high must not take the others along
            failed.append(f"{name}: {error}")
            plan.say(f"{name} FAILED: {error}")
            continue
        latency = cell["loop"]["latency"]
        plan.say(f"{name}: {latency} {cell['cpu_us_per_update']}")
        cells.append({"name": name, **cell})
        figures |= {f"{name}_{which}_ms": latency[which] for which in ("p50", "p99", "p999")}
        figures |= {f"{name}_{kind}_us": us for kind, us in cell["cpu_us_per_update"].items()}
    found = {"figures": figures, "cells": cells, "installation": facts}
    return {**found, "failed": "; ".join(failed)} if failed else found


async def _measure_cell(plan: Plan, players: int, each_per_s: int) -> tuple[dict[str, Any], dict[str, Any]]:
    per_s = players * each_per_s
    async with (
        run_installation(plan.cores, settings=plan.settings()) as wayhold,
        run_load(wayhold, players=players, run="rates") as load,
    ):
        await bring_in(load)
        await load.do("open", per_s=per_s, seconds=min(WARM_S, plan.seconds(WARM_S)))
        await settle(load)
        cell = await measure(wayhold, load, "open", per_s=per_s, seconds=plan.seconds(30))
        return {"players": players, "each_per_s": each_per_s, **cell}, await wayhold.describe()
