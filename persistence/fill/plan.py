"""
What a fill makes: how many players, which ids they get, how many events each has. Pure.

Promise: everything follows from the random seed, so that a fill that was cut off can go on, and a benchmark knows whom
it can ask for. The events add up to the number that was asked for.
"""

from __future__ import annotations

import hashlib
import math
import random
import uuid
from dataclasses import dataclass, field

from persistence.fill.story import World
from persistence.flusher.levels import LevelRule

EVENTS_PER_PLAYER_MAX = 20_000
DAYS_MAX = 3650


@dataclass(frozen=True, slots=True)
class FillPlan:
    """
    `days`: how far back the first events lie. `adds`: there may be players already. `wave_events`: about how many
    events go into one transaction; more are lost when it is cut off, with fewer the pages of one day lie further apart.
    `stories_max`: how many different stories there are; more players than that live the same ones, on other days.
    `levels`: the rule that the flushers of this installation have.
    """

    world: World
    players: int
    events: int
    days: int = 90
    random_seed: int = 0
    adds: bool = False
    wave_events: int = 1_000_000
    stories_max: int = 1_000
    levels: LevelRule = field(default_factory=LevelRule)

    def __post_init__(self) -> None:
        if not 1 <= self.players <= self.events <= self.players * EVENTS_PER_PLAYER_MAX:
            raise ValueError(f"every player has 1 to {EVENTS_PER_PLAYER_MAX:,} events")
        if not 1 <= self.days <= DAYS_MAX:
            raise ValueError(f"days must be 1 to {DAYS_MAX:,}")

    def make_id(self, number: int, what: str) -> uuid.UUID:
        """An id of the player with this number, as random to look at as any."""
        named = f"{self.random_seed}:{self.world.experience_id}:{number}:{what}"
        return uuid.UUID(bytes=hashlib.blake2b(named.encode(), digest_size=16).digest(), version=4)

    def rng(self, *name: object) -> random.Random:
        return random.Random(":".join(map(str, (self.random_seed, self.world.experience_id, *name))))


@dataclass(slots=True)
class Sizes:
    """How many events each story has. A few players (`own`) have a story of their own, so that the sum is exact."""

    stories: list[int]
    own: dict[int, int]

    def story_of(self, number: int) -> int:
        return number % len(self.stories)


def plan_sizes(plan: FillPlan) -> Sizes:
    """Most players stop early, some go on and on: the sizes are spread like a log-normal around their mean."""
    count = min(plan.players, plan.stories_max)
    rng = plan.rng("sizes")
    shares = [rng.lognormvariate(0.0, 0.8) for _ in range(count)]
    mean = plan.events / plan.players
    scale = mean * count / sum(shares)
    stories = [min(EVENTS_PER_PLAYER_MAX, max(1, round(share * scale))) for share in shares]
    cycles, rest = divmod(plan.players, count)
    missing = plan.events - cycles * sum(stories) - sum(stories[:rest])
    own: dict[int, int] = {}
    for number in reversed(range(plan.players)):
        if not missing:
            break
        size = stories[number % count]
        most = min(EVENTS_PER_PLAYER_MAX, max(math.ceil(4 * mean), size))
        own[number] = max(1, min(size + missing, most))
        missing -= own[number] - size
    if missing:
        # Everybody has as many as the mean allows: nearly all players are full.
        for number in range(plan.players):
            size = own.get(number, stories[number % count])
            own[number] = min(size + missing, EVENTS_PER_PLAYER_MAX)
            missing -= own[number] - size
    return Sizes(stories, own)
