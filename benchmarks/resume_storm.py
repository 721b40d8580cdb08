"""
5,000 players lose their sockets and all come back at once, while 200 others play on: once with everything hot, once
after Redis has lost all its data.

The latencies of those who play on are those of the storm alone: from the drop until the last one is welcome.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.installation import run_installation
from benchmarks.load_processes import LoadFailed, run_load
from benchmarks.measure import bring_in, settle
from benchmarks.plan import Plan

RETURNING = 5000
LIVE, LIVE_EACH_PER_S = 200, 2
STORM_DEADLINE_S = 120.0
CALM_S = 3.0
"""What the players who play on do before and after the storm."""
FIRST_S = 1.0
"""
Of a storm, counted by itself: with Redis wiped, each of those who play on first waits for a copy of its own progress.
"""


async def run(plan: Plan) -> dict[str, Any]:
    returning, live_players = plan.players(RETURNING), plan.players(LIVE)
    storms: dict[str, dict[str, Any]] = {}
    async with (
        run_installation(plan.cores, settings=plan.settings()) as wayhold,
        run_load(wayhold, players=returning, run="resume") as crowd,
        run_load(wayhold, players=live_players, run="resume", first=returning) as live,
    ):
        await bring_in(crowd)
        await bring_in(live)

        async def storm(name: str, *, is_wiped: bool) -> None:
            playing = asyncio.create_task(
                live.do("open", per_s=live_players * LIVE_EACH_PER_S, seconds=STORM_DEADLINE_S)
            )
            await asyncio.sleep(min(CALM_S, plan.seconds(CALM_S)))
            before = wayhold.take_accounts()
            since = time.monotonic()
            await crowd.do("drop")
            if is_wiped:
                await wayhold.redis.flushall()
            begun = time.monotonic()
            back = await crowd.do("connect", timeout_s=STORM_DEADLINE_S)
            until = time.monotonic()
            used = wayhold.take_accounts().since(before)
            await asyncio.sleep(min(CALM_S, plan.seconds(CALM_S)))
            await live.write({"do": "end"})
            played = await playing
            during = await live.do("latency_between", since=since, until=until)
            later = await live.do("latency_between", since=begun + FIRST_S, until=until)
            if back["welcome"] < returning or played["unacked"]:
                raise LoadFailed(f"{name}: {back['welcome']} of {returning} came back, {played}")
            await settle(crowd)
            await settle(live)
            storms[name] = {
                "back": back,
                "live": during,
                "live_later": later,
                "live_all": played,
                "cpu_s": used,
                "seconds": until - since,
            }
            plan.say(f"resume {name}: {back['waits']} live {during} after the first second {later}")

        await storm("hot", is_wiped=False)
        await storm("wiped", is_wiped=True)
        facts = await wayhold.describe()
    return {
        "figures": {
            "resume_hot_s": storms["hot"]["back"]["waits"]["max"] / 1000,
            "resume_hot_live_p99_ms": storms["hot"]["live"]["p99"],
            "resume_hot_live_later_p99_ms": storms["hot"]["live_later"].get("p99", 0.0),
            "resume_wiped_s": storms["wiped"]["back"]["waits"]["max"] / 1000,
            "resume_wiped_live_p99_ms": storms["wiped"]["live"]["p99"],
            "resume_wiped_live_later_p99_ms": storms["wiped"]["live_later"].get("p99", 0.0),
        },
        "returning": returning,
        "live": live_players,
        "storms": storms,
        "installation": facts,
    }
