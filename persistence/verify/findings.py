"""
What a verification looks at, and what it found: a table of checks, counts, and the first rows that differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

REPAIRS_MAX = 1_000_000
"""Players remembered for a repair at once, about 300 MB."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that follows from the events. `is_repairable`: `repair` can set it right."""

    name: str
    about: str
    is_repairable: bool = False


CHECKS: tuple[Check, ...] = (
    Check("numbering", "stream numbers and versions of the events against device_streams and the progress"),
    Check("state", "the state, and what is a column of it, against all effects replayed"),
    Check("times", "started_at, last_played_at and last_update_at of a progress"),
    Check("completion", "completion_percentage and completed_at, by the definitions of now", True),
    Check("gaps", "the playtime that each event carries against the gap before it"),
    Check("playtime", "the playtime of a progress against what its events carry", True),
    Check("sessions", "the playtime of sessions against what their events carry"),
    Check("profiles", "total experiences, playtime and distance of a profile against its progress", True),
    Check("achievements", "achievements of a profile against the events that unlocked them"),
    Check("levels", "account_level against the totals, by the settings of now", True),
    Check("content_hours", "visits and time spent by the hour", True),
    Check("content_player_days", "who met what on which day", True),
    Check("experience_hours", "updates and playtime by the hour", True),
    Check("player_days", "who played on which day", True),
)
"""In the order in which they are told."""

ROLLUPS = ("content_hours", "content_player_days", "experience_hours", "player_days")


@dataclass(slots=True)
class Difference:
    """One thing that is not as the events say. `where`: names of columns → what they hold there."""

    check: str
    where: dict[str, Any]
    what: str
    found: Any
    expected: Any


@dataclass(slots=True)
class Findings:
    """`first`: the first differences of each check. `unknowable`: progress of which old events were removed."""

    rows_max: int
    counts: dict[str, int] = field(default_factory=lambda: {check.name: 0 for check in CHECKS})
    first: dict[str, list[Difference]] = field(default_factory=lambda: {check.name: [] for check in CHECKS})
    events: int = 0
    progress: int = 0
    players: int = 0
    unknowable: int = 0
    experiences_to_repair: set[str] = field(default_factory=set)
    """Whose rollups differ."""
    players_to_repair: dict[UUID, set[UUID]] = field(default_factory=dict)
    """Profile id → ids of its progress whose playtime or completion differs too; none when only the totals do."""

    def note_player(self, profile_id: UUID, progress_id: UUID | None = None) -> None:
        """To be repaired. What does not fit is left to another run."""
        if profile_id in self.players_to_repair or len(self.players_to_repair) < REPAIRS_MAX:
            progress = self.players_to_repair.setdefault(profile_id, set())
            if progress_id is not None:
                progress.add(progress_id)

    def add(self, difference: Difference) -> None:
        self.counts[difference.check] += 1
        if len(self.first[difference.check]) < self.rows_max:
            self.first[difference.check].append(difference)

    @property
    def drift(self) -> int:
        return sum(self.counts.values())
