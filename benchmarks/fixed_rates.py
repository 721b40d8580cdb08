"""
Fixed rates in an open loop: 2,000 players × 2 updates per second, 2,000 × 10, 10,000 × 2.

A latency counts from the moment at which its update was due. `sent_late` is how late the process of players itself
was: that much of a latency is ours and not the gateway's.

The first rate is then taken apart: windows with the flusher at work and windows in which it stands still, in turns, and
how long Redis waited for its core in each.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any

from benchmarks.accounts import read_core_wait_s
from benchmarks.installation import Installation, run_installation
from benchmarks.load_processes import LoadProcess, run_load
from benchmarks.measure import WARM_S, bring_in, measure, settle
from benchmarks.plan import Plan

RATES = ((2000, 2), (2000, 10), (10_000, 2))
"""Players, and updates of each per second."""
APART_ROUNDS, APART_S = 3, 12


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
        figures |= {f"apart_{what}": value for what, value in cell.get("apart", {}).items()}
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
        facts = await wayhold.describe()
        if (players, each_per_s) == (plan.players(RATES[0][0]), RATES[0][1]):
            cell["apart"] = await _take_apart(plan, wayhold, load, per_s)
            plan.say(f"taken apart: {cell['apart']}")
        return {"players": players, "each_per_s": each_per_s, **cell}, facts


async def _take_apart(plan: Plan, wayhold: Installation, load: LoadProcess, per_s: int) -> dict[str, float]:
    """The middle of the windows of each kind: latencies, and how long Redis waited for its core."""
    found: dict[str, list[float]] = {}
    for _ in range(plan.rounds(APART_ROUNDS)):
        for kind in ("flushed", "unflushed"):
            pids = wayhold.pids()
            flushers = [pid for name, pid in pids.items() if name.startswith("flusher") and kind == "unflushed"]
            before_s = read_core_wait_s(pids["valkey"])
            with _standing_still(flushers):
                loop = await load.do("open", per_s=per_s, seconds=plan.seconds(APART_S))
            waited_s = read_core_wait_s(pids["valkey"]) - before_s
            await settle(load)
            found.setdefault(f"{kind}_redis_waited_ms_per_s", []).append(waited_s / loop["seconds"] * 1000)
            for which in ("p50", "p90", "p99"):
                found.setdefault(f"{kind}_{which}_ms", []).append(loop["latency"][which])
    return {what: round(median(values), 3) for what, values in found.items()}


@contextmanager
def _standing_still(pids: list[int]) -> Iterator[None]:
    """What they should do waits, as in an outage, and is done afterwards."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
