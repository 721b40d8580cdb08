"""
The Python API under load: what a service and a designer wait for while players play.

Calls are made one after the other at a fixed rate, each timed on its own. Half of the players that are asked about are
in, half are anybody: a service does not know who is there. `event` writes through `log_event`, until it is accepted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from benchmarks.data_model.players import Pace, Times
from persistence.analytics import Analytics, Content, Window
from persistence.errors import PersistenceError
from persistence.fill.plan import FillPlan
from persistence.player_progress import PlayerProgress

FUNNEL_STEPS = 5


async def run_api(
    ready: Mapping[str, Any], plan: FillPlan, workload: Mapping[str, Any], active: Sequence[str], stop: asyncio.Event
) -> dict[str, Any]:
    """Calls of PlayerProgress until `stop`: times by call, for players who are in and for anybody."""
    times, errors = Times(), dict[str, int]()
    rng = random.Random(2)
    experience, places = plan.world.experience_id, plan.world.places
    names, weights = list(workload["calls"]), list(workload["calls"].values())
    async with await PlayerProgress.open(
        ready["redis_url"], ready["database_url"], caller="bench-data-model"
    ) as progress:

        async def full_history(user_id: str) -> None:
            cursor = None
            while True:
                page = await progress.list_history(user_id, experience, limit=100, cursor=cursor)
                cursor = page.cursor
                if cursor is None:
                    return

        calls: dict[str, Callable[[str], Awaitable[Any]]] = {
            "state": lambda user: progress.get_player_state(user, experience),
            "inventory": lambda user: progress.get_inventory(user, experience),
            "visited": lambda user: progress.has_visited_waypoint(user, experience, rng.choice(places).content_id),
            "event": lambda user: progress.log_event(
                user, experience, "waypoint_visited", rng.choice(places).content_id, {"time_spent": 45}
            ),
            "full_history": full_history,
        }
        pace = Pace(time.monotonic(), workload["calls_per_s"], 86_400)
        while not stop.is_set():
            for _ in pace.due():
                is_active = rng.random() < 0.5
                user_id = rng.choice(active) if is_active else str(plan.make_id(rng.randrange(plan.players), "user"))
                name = rng.choices(names, weights)[0]
                began = time.perf_counter()
                try:
                    await calls[name](user_id)
                except PersistenceError as error:
                    errors[f"{name}: {error}"] = errors.get(f"{name}: {error}", 0) + 1
                    continue
                times.add(f"{name} {'active' if is_active else 'anybody'}", time.perf_counter() - began)
                if stop.is_set():
                    break
            await asyncio.sleep(0.001)
        hit_rate = progress.hot_reads / max(1, progress.reads)
    return {"times": times.describe(), "errors": errors, "hit_rate": round(hit_rate, 4)}


async def run_analytics(
    ready: Mapping[str, Any], plan: FillPlan, workload: Mapping[str, Any], stop: asyncio.Event
) -> dict[str, Any]:
    """Questions of a designer until `stop`, round and round; times by question."""
    times, errors = Times(), dict[str, int]()
    experience = plan.world.experience_id
    contents = [Content(place.content_id) for place in plan.world.places]
    rng = random.Random(3)
    analytics = await Analytics.open(ready["database_url"])

    def last(days: int) -> Window:
        now = datetime.now(UTC)
        return Window(now - timedelta(days=days), now)

    def ask_engagement(days: int) -> Awaitable[Any]:
        return analytics.find_engagement(experience, rng.choice(contents), last(days))

    questions: dict[str, Callable[[], Awaitable[Any]]] = {}
    for days in workload["windows_days"]:
        questions[f"engagement of a waypoint, {days} d"] = partial(ask_engagement, days)
    longest = max(workload["windows_days"])
    first_day = datetime.now(UTC).date() - timedelta(days=longest)
    questions |= {
        f"ranking of all waypoints, {longest} d": lambda: analytics.list_ranking(experience, window=last(longest)),
        f"funnel of {FUNNEL_STEPS} waypoints, {longest} d": lambda: analytics.list_funnel(
            experience, contents[:FUNNEL_STEPS], last(longest)
        ),
        f"retention, {longest} d of cohorts": lambda: analytics.find_retention(experience, first_day),
        f"active players by day, {longest} d": lambda: analytics.list_active_players(experience, first_day),
        "completion, ever": lambda: analytics.find_completion(experience),
        "playtime distribution, ever": lambda: analytics.find_playtime(experience),
        "session lengths, ever": lambda: analytics.find_session_lengths(experience),
        "drop-off, ever": lambda: analytics.list_drop_off(experience),
    }
    try:
        while not stop.is_set():
            for name, ask in questions.items():
                began = time.perf_counter()
                try:
                    await ask()
                    times.add(name, time.perf_counter() - began)
                except PersistenceError as error:
                    errors[f"{name}: {error}"] = errors.get(f"{name}: {error}", 0) + 1
                if stop.is_set():
                    break
                await asyncio.sleep(max(0.0, 1 / workload["questions_per_s"] - (time.perf_counter() - began)))
    finally:
        await analytics.close()
    return {"times": times.describe(), "errors": errors}
