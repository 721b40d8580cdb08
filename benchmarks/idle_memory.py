"""
What an idle session costs in memory: the gateway's at 5,000 and 10,000 sessions, and Redis's per player.

The gateway is looked at when it has just started, with sessions that have done nothing but say hello and ping, and
again after each of them has played. Redis is looked at when everything is saved, each player with a live session and
the state of the workload (18 waypoints, 8 items, 5 quests).
"""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.accounts import Memory, read_memory
from benchmarks.installation import Installation, run_installation
from benchmarks.load_processes import run_load
from benchmarks.measure import SETTLE_DEADLINE_S, bring_in, settle
from benchmarks.plan import Plan

STEPS = (5000, 10_000)


async def run(plan: Plan) -> dict[str, Any]:
    counts = [plan.players(count) for count in STEPS]
    looks: list[dict[str, Any]] = []
    async with run_installation(plan.cores, settings=plan.settings()) as wayhold:
        start, redis_start = read_memory(wayhold.pids()["gateway-1"]), await _read_redis(wayhold)

        def look(what: str, sessions: int) -> dict[str, Any]:
            now = read_memory(wayhold.pids()["gateway-1"])
            looks.append({"what": what, "sessions": sessions, **_per_session(start, now, sessions)})
            plan.say(f"idle memory: {looks[-1]}")
            return looks[-1]

        async with (
            run_load(wayhold, players=counts[0], run="idle") as first,
            run_load(wayhold, players=counts[1] - counts[0], run="idle", first=counts[0]) as second,
        ):
            await bring_in(first, is_seeded=False)
            await asyncio.sleep(plan.seconds(25))  # longer than a heartbeat: everybody has pinged
            at_first = look("idle", counts[0])
            await bring_in(second, is_seeded=False)
            await asyncio.sleep(plan.seconds(25))
            at_second = look("idle", counts[1])
            for load in (first, second):
                await load.do("seed", timeout_s=SETTLE_DEADLINE_S)
                await settle(load)
            await asyncio.sleep(plan.seconds(10))
            played = look("after traffic", counts[1])
            redis = await _read_redis(wayhold)
        facts = await wayhold.describe()
    redis_bytes = (redis["used"] - redis["buffers"] - redis_start["used"] + redis_start["buffers"]) / counts[1]
    return {
        "figures": {
            "idle_rss_bytes_5000": at_first["rss_bytes"],
            "idle_rss_bytes_10000": at_second["rss_bytes"],
            "idle_pss_bytes_10000": at_second["pss_bytes"],
            "played_rss_bytes_10000": played["rss_bytes"],
            "redis_bytes_per_player": round(redis_bytes),
        },
        "looks": looks,
        "gateway_start_bytes": start.rss_bytes,
        "redis": {"start": redis_start, "settled": redis, "players": counts[1]},
        "installation": facts,
    }


def _per_session(start: Memory, now: Memory, sessions: int) -> dict[str, int]:
    return {
        "rss_bytes": round((now.rss_bytes - start.rss_bytes) / sessions),
        "pss_bytes": round((now.pss_bytes - start.pss_bytes) / sessions),
    }


async def _read_redis(wayhold: Installation) -> dict[str, int]:
    """Bytes in use, and those of them that are buffers of connections and of the append-only file."""
    info = await wayhold.redis.info("memory")
    buffers = sum(int(info.get(name, 0)) for name in ("mem_clients_normal", "mem_aof_buffer"))
    return {"used": int(info["used_memory"]), "buffers": buffers, "rss": int(info["used_memory_rss"])}
