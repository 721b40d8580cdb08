"""
Fixed rates in an open loop: 2,000 players × 2 updates per second, 2,000 × 10, 10,000 × 2.

A latency counts from the moment at which its update was due. `sent_late` is how late the process of players itself
was: that much of a latency is ours and not the gateway's.
"""

from __future__ import annotations

from typing import Any

from benchmarks.installation import run_installation
from benchmarks.load_processes import run_load
from benchmarks.measure import bring_in, measure, settle
from benchmarks.plan import Plan

RATES = ((2000, 2), (2000, 10), (10_000, 2))
"""Players, and updates of each per second."""


async def run(plan: Plan) -> dict[str, Any]:
    figures: dict[str, float] = {}
    cells = []
    facts: dict[str, Any] = {}
    for players_usual, each_per_s in RATES:
        players = plan.players(players_usual)
        async with (
            run_installation(plan.cores, settings=plan.settings()) as wayhold,
            run_load(wayhold, players=players, run="rates") as load,
        ):
            await bring_in(load)
            await load.do("open", per_s=players * each_per_s, seconds=min(3.0, plan.seconds(3)))
            await settle(load)
            cell = await measure(wayhold, load, "open", per_s=players * each_per_s, seconds=plan.seconds(30))
            facts = await wayhold.describe()
        latency = cell["loop"]["latency"]
        plan.say(f"{players} × {each_per_s}/s: {latency} {cell['cpu_us_per_update']}")
        name = f"rate_{players_usual}x{each_per_s}"
        cells.append({"name": name, "players": players, "each_per_s": each_per_s, **cell})
        figures |= {f"{name}_{which}_ms": latency[which] for which in ("p50", "p99", "p999")}
        figures |= {f"{name}_{kind}_us": us for kind, us in cell["cpu_us_per_update"].items()}
    return {"figures": figures, "cells": cells, "installation": facts}
