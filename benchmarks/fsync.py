"""
What it costs when an ack means "on disk": the closed loop with `appendfsync always` against `everysec`, in turns on the
same servers.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.installation import run_installation
from benchmarks.load_processes import run_load
from benchmarks.measure import WARM_S, bring_in, measure, middle, settle
from benchmarks.plan import Plan
from benchmarks.saturation import PLAYERS

POLICIES = ("everysec", "always")


async def run(plan: Plan) -> dict[str, Any]:
    windows: dict[str, list[dict[str, Any]]] = {policy: [] for policy in POLICIES}
    players = plan.players(PLAYERS)
    async with (
        run_installation(plan.cores, settings=plan.settings()) as wayhold,
        run_load(wayhold, players=players, run="fsync") as load,
    ):
        await bring_in(load)
        await load.do("closed", seconds=min(WARM_S, plan.seconds(WARM_S)))
        await settle(load)
        for _ in range(plan.rounds(3)):
            for policy in POLICIES:
                await wayhold.redis.config_set("appendfsync", policy)
                windows[policy].append(await measure(wayhold, load, "closed", seconds=plan.seconds(10)))
                plan.say(f"appendfsync {policy}: {windows[policy][-1]['rate_per_s']:,.0f}/s")
        facts = await wayhold.describe()
    rates = {policy: middle(windows[policy], "rate_per_s") for policy in POLICIES}
    # Of neighbours: what else goes on on the machine changes from window to window.
    pairs = zip(windows["always"], windows["everysec"], strict=True)
    shares = [always["rate_per_s"] / everysec["rate_per_s"] for always, everysec in pairs]
    return {
        "figures": {
            "everysec_rate_per_s": rates["everysec"],
            "always_rate_per_s": rates["always"],
            "always_share_percent": round(100 * median(shares), 1),
            "always_p99_ms": middle(windows["always"], "loop", "latency", "p99"),
        },
        "players": players,
        "windows": windows,
        "installation": facts,
    }
