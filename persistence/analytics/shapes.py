"""
What analytics are asked with and what they answer. Seconds are floats, days are UTC, shares are left to whoever shows
them: they are quotients of counts that are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from persistence.errors import PersistenceError

VISIT = "waypoint_visited"
"""The type of event that a content is met with when nobody says another."""

BOUNDS_S = (0, 60, 300, 900, 1_800, 3_600, 7_200, 14_400, 36_000)
"""Where the buckets of a distribution begin, in seconds; the last one is open."""

RETENTION_DAYS = (1, 7, 30)


@dataclass(frozen=True, slots=True)
class Window:
    """Instants (aware): `since` belongs to it, `before` does not; None is open."""

    since: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What events are about: `waypoint_visited` of `8_inter_gravity_car`."""

    content_id: str
    event_type: str = VISIT

    def __str__(self) -> str:
        return self.content_id if self.event_type == VISIT else f"{self.event_type}:{self.content_id}"


@dataclass(frozen=True, slots=True)
class Engagement:
    """`average_time_spent_s`: over the events that say how long; None when none does."""

    total_visits: int
    unique_players: int
    average_time_spent_s: float | None


@dataclass(frozen=True, slots=True)
class RankedContent:
    """`unique_players` is None when it was not asked for."""

    content_id: str
    total_visits: int
    unique_players: int | None
    average_time_spent_s: float | None


@dataclass(frozen=True, slots=True)
class FunnelStep:
    content: Content
    players: int


@dataclass(frozen=True, slots=True)
class Cohort:
    """Players whose first day this was. `retained[N]`: those who played on the Nth day after it; None: not over yet."""

    day: date
    players: int
    retained: dict[int, int | None]


@dataclass(frozen=True, slots=True)
class Retention:
    """`totals[N]`: (players, retained) over the cohorts whose day N is over."""

    cohorts: list[Cohort]
    totals: dict[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class QuestCompletion:
    """`players` started or completed the quest in the window, `completed` of them completed it in the window."""

    quest: str
    players: int
    completed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """
    `players` started in the window, `completed` of them have completed the experience by now; `average_percentage` is
    how far all of them are now (None without players). `quests` counts what happened in the window, whoever did it.
    """

    players: int
    completed: int
    average_percentage: float | None
    quests: list[QuestCompletion]


@dataclass(frozen=True, slots=True)
class Bucket:
    """From `from_s` up to, not including, `to_s` (None: open)."""

    from_s: int
    to_s: int | None
    count: int
    total_s: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """How `count` players or sessions spread; `average_s` is None when there are none."""

    buckets: list[Bucket]

    @property
    def count(self) -> int:
        return sum(bucket.count for bucket in self.buckets)

    @property
    def average_s(self) -> float | None:
        return sum(bucket.total_s for bucket in self.buckets) / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class DropOff:
    """`location` is None for players who never came to any."""

    location: str | None
    players: int


@dataclass(frozen=True, slots=True)
class ActiveDay:
    """`new_players` had their first day of all on this one."""

    day: date
    players: int
    new_players: int
    updates: int
    playtime_s: float


class UnknownName(PersistenceError):
    """No player ever opened the experience, or no event ever named the content. `names` are those that there are."""

    def __init__(self, kind: str, name: str, names: Sequence[str]) -> None:
        super().__init__(f"there is no {kind} {name!r}")
        self.kind = kind
        self.name = name
        self.names = list(names)
