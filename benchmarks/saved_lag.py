"""
How long an update waits until its player is told that it is saved, at 15,000 updates per second over 2,000 players.

Counted from the moment at which the update was due to the moment at which the player knows: flush interval, flush,
notice and all. The system chooses the cores, as it does where Wayhold is at work: with the gateway on one and all
others on the second, that one alone would be full.
"""

from __future__ import annotations

from typing import Any

from benchmarks.installation import Cores, run_installation
from benchmarks.load_processes import run_load
from benchmarks.measure import bring_in, measure
from benchmarks.plan import Plan

PLAYERS, RATE_PER_S = 2000, 15_000


async def run(plan: Plan) -> dict[str, Any]:
    players = plan.players(PLAYERS)
    per_s = RATE_PER_S * players / PLAYERS
    async with (
        run_installation(Cores(), settings=plan.settings()) as wayhold,
        run_load(wayhold, players=players, run="lag") as load,
    ):
        await bring_in(load)
        window = await measure(wayhold, load, "open", per_s=per_s, seconds=plan.seconds(45), reads_saved=True)
        facts = await wayhold.describe()
    lag = window["loop"]["lag"]
    plan.say(f"saved lag: {lag}")
    return {
        "figures": {
            "saved_lag_p50_s": lag["p50"] / 1000,
            "saved_lag_p99_s": lag["p99"] / 1000,
            "saved_lag_rate_per_s": window["rate_per_s"],
        },
        "players": players,
        "per_s": per_s,
        "window": window,
        "installation": facts,
    }
