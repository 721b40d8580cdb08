"""What the players of one process have in common: the scenario, the clock, the history, and how they come and go."""

from __future__ import annotations

import math
import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from loadtest.distribution import Distribution
from loadtest.experience import Experience
from loadtest.history import HistoryWriter
from loadtest.mud import Mud
from loadtest.scenario import Scenario
from loadtest.schedule import Schedule
from loadtest.tally import Tally
from loadtest.track import Track


@dataclass(slots=True)
class Game:
    """`play_from_ms` is when the ramp is over."""

    scenario: Scenario
    experience: Experience
    tracks: Sequence[Track]
    schedule: Schedule
    writer: HistoryWriter
    tally: Tally
    find_source: Callable[[int, int], tuple[str, int] | None]
    players: int
    seconds: float
    settle_s: float
    rate_per_s: float | None = None
    mud: Mud = field(default_factory=Mud)
    drop_rate: float = 0.0
    offline_rate: float = 0.0
    session_s: Distribution | None = None
    away_s: Distribution | None = None
    think_s: Distribution | None = None
    watch: Callable[[], Awaitable[None]] | None = None
    play_from_ms: float = 0.0
    is_over: bool = False
    failure: str | None = None

    has_disks: bool = field(init=False)
    away_rate: float = field(init=False)  # of both sorts together, for an update
    pace: float = field(init=False)  # how much faster than by itself the scenario is to go

    def __post_init__(self) -> None:
        self.has_disks = self.mud.needs_journals
        self.away_rate = self.drop_rate + self.offline_rate
        natural = self.scenario.updates_per_s
        self.pace = self.rate_per_s / natural if self.rate_per_s and natural else 1.0

    def fail(self, fault: Exception) -> None:
        """The scenario itself is broken: there is nothing to play any more."""
        if self.failure is None:
            lines = traceback.format_exception(fault)
            self.failure = "".join(lines[-3:]).strip()
        self.is_over = True

    @property
    def over_ms(self) -> float:
        return self.play_from_ms + self.seconds * 1000


def draw_until(rng: random.Random, rate: float) -> int:
    """The how-manieth from now on is the next of those that happen at this rate (0 < `rate` ≤ 1): one draw for all."""
    return 1 + int(math.log1p(-rng.random()) / math.log1p(-rate)) if rate < 1 else 1
