"""
How often a read finds a player in Redis, by kind of player, with time running faster: `hour_s` seconds stand for the
hour after which an idle copy leaves Redis, and settings are scaled alike.

    active           in a session at that moment
    recently active  left within the last hour
    inactive         last played before the benchmark; nobody asked about them before
    inactive, again  asked about a second time within the hour: a read has warmed Redis

Reads go through the Python API, which counts whether Redis had the answer. Hellos of the players who come and go in the
meantime are counted by the gateway, and its metric `player_progress_cache_hit_rate` is told beside it.
"""

from __future__ import annotations

import asyncio
import random
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.data_model.load import run_players
from benchmarks.data_model.players import Pace
from benchmarks.installation import Installation
from persistence.fill.plan import FillPlan
from persistence.player_progress import PlayerProgress

UPDATES_PER_S_EACH = 0.5
KINDS = ("active", "recently active", "inactive", "inactive, again")


@dataclass
class Whereabouts:
    """Who is in, who has left when, and who was never there."""

    strangers: list[str]
    hour_s: float
    inside: list[str] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)
    asked: list[tuple[float, str]] = field(default_factory=list)

    def note(self, news: Mapping[str, Any]) -> None:
        if "came" in news:
            self.inside.append(news["came"])
        elif "gone" in news:
            self.inside.remove(news["gone"])
            self.left[news["gone"]] = news["at"]

    def choose(self, kind: str, rng: random.Random) -> str | None:
        now = time.time()
        if kind == "active":
            return rng.choice(self.inside) if self.inside else None
        if kind == "recently active":
            recent = [user for user, at in self.left.items() if 1.0 < now - at < self.hour_s]
            return rng.choice(recent) if recent else None
        if kind == "inactive":
            if not self.strangers:
                return None
            self.asked.append((now, self.strangers.pop()))
            return self.asked[-1][1]
        again = [user for at, user in self.asked[-500:] if 0.5 < now - at < self.hour_s / 2]
        return rng.choice(again) if again else None


async def measure_cache(
    wayhold: Installation, plan: FillPlan, workload: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    seconds, visit_s, at_once = workload["minutes"] * 60, workload["visit_s"], workload["active_players"]
    comers = round(at_once * (seconds / visit_s + 1))
    reads = round(workload["reads_per_s"] * seconds)
    numbers = random.Random(time.time_ns()).sample(range(plan.players), min(plan.players, comers + reads // 3))
    comers = min(comers, len(numbers) // 2)
    users = [str(plan.make_id(number, "user")) for number in numbers]
    people = Whereabouts(users[comers:], workload["hour_s"])
    hits, lookups = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    rng = random.Random(4)
    say(f"cache: {seconds:.0f} s, an hour is {workload['hour_s']} s")
    before = await asyncio.to_thread(_read_hellos, wayhold)
    async with (
        run_players(wayhold, users[:comers], plan.world) as load,
        await PlayerProgress.open(
            wayhold.ready["redis_url"],
            wayhold.ready["database_url"],
            caller="bench-data-model",
            session_expiry_s=workload["hour_s"],
            progress_idle_s=workload["hour_s"],
        ) as progress,
    ):
        visits = asyncio.create_task(
            load.do(
                "visit",
                people.note,
                seconds=seconds,
                updates_per_s=UPDATES_PER_S_EACH * at_once,
                visit_s=visit_s,
                at_once=at_once,
            )
        )
        began = time.monotonic()
        pace = Pace(began, workload["reads_per_s"], seconds)
        while not visits.done():
            for number, _ in pace.due():
                kind = KINDS[number % len(KINDS)]
                # First a whole visit, so that there is somebody who has left.
                user_id = people.choose(kind, rng) if time.monotonic() - began > visit_s else None
                if user_id is not None:
                    hot = progress.hot_reads
                    await progress.get_player_state(user_id, plan.world.experience_id)
                    hits[kind] += progress.hot_reads - hot
                    lookups[kind] += 1
            await asyncio.sleep(0.002)
        visited = await visits
    after = await asyncio.to_thread(_read_hellos, wayhold)
    return {
        "seconds": seconds,
        "hour_s": workload["hour_s"],
        "kinds": {kind: {"reads": lookups[kind], "hits": hits[kind]} for kind in KINDS},
        "hellos": {name: after[name] - before[name] for name in ("hits", "lookups")},
        "metric": after["rate"],
        "visits": {"times": visited["times"], "errors": visited["errors"]},
    }


def _read_hellos(wayhold: Installation) -> dict[str, float]:
    """What the gateway counts. It is the only one with a metric: this process's reads are not in it."""
    with urllib.request.urlopen(f"{wayhold.ready['ops_url']}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    wanted = {
        'wayhold_hot_hits_total{by="hello"}': "hits",
        'wayhold_hot_lookups_total{by="hello"}': "lookups",
        "player_progress_cache_hit_rate": "rate",
    }
    found = dict.fromkeys(wanted.values(), 0.0)
    for line in lines:
        name, _, value = line.rpartition(" ")
        if name in wanted:
            found[wanted[name]] = float(value)
    return found
