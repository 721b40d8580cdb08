"""
Players of a fill: who they are, which story they live and when, and their rows but for the events.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from persistence.fill.copy_rows import BakedEvent, bake_events
from persistence.fill.journey import Journey, make_journey
from persistence.fill.plan import FillPlan, Sizes
from persistence.fill.story import DAY_MS, HOUR_MS, tell_story

Table = tuple[str, tuple[str, ...], list[tuple[Any, ...]]]
"""A table, its columns, and rows."""


@dataclass(slots=True)
class Lived:
    """A story that was lived through, for any number of players."""

    journey: Journey
    events: list[BakedEvent]
    level: int = 0
    """The account level; 0 until Postgres was asked what the totals come to."""

    @property
    def days(self) -> int:
        """How many days it spans, the first included."""
        return self.journey.last_ms // DAY_MS + 1


@dataclass(slots=True)
class Player:
    """One player: the ids, the story, and the midnight (give or take an hour) from which its times count."""

    user_id: uuid.UUID
    profile_id: uuid.UUID
    progress_id: uuid.UUID
    last_entry: uuid.UUID
    devices: list[str]
    sessions: list[uuid.UUID]
    base_ms: int
    lived: Lived

    def instant(self, ms: int) -> datetime:
        return datetime.fromtimestamp((self.base_ms + ms) / 1000, UTC)

    def moved(self, at: datetime | None) -> datetime | None:
        """A time of the journey, as it was for this player."""
        return None if at is None else self.instant(round(at.timestamp() * 1000))


class Players:
    """Makes the players of a plan, any of them in any order. `now_ms`: nothing has happened after it."""

    def __init__(self, plan: FillPlan, sizes: Sizes, now_ms: int) -> None:
        self._plan = plan
        self._sizes = sizes
        self._now_ms = now_ms
        self._stories = [self._live(size, "story", number) for number, size in enumerate(sizes.stories)]

    @property
    def days(self) -> int:
        """The first event of any of them lies at most this many days back."""
        return max(self._plan.days, *(lived.days for lived in self._stories)) + 2

    def make(self, number: int) -> Player:
        plan = self._plan
        own_size = self._sizes.own.get(number)
        lived = self._stories[self._sizes.story_of(number)] if own_size is None else self._live(own_size, "own", number)
        rng = plan.rng("player", number)
        back_days = lived.days - 1 + rng.randrange(max(1, plan.days - lived.days + 1))
        base_ms = self._now_ms - self._now_ms % DAY_MS - back_days * DAY_MS + rng.randrange(-HOUR_MS, HOUR_MS)
        if base_ms + lived.journey.last_ms > self._now_ms:
            base_ms -= DAY_MS
        return Player(
            user_id=plan.make_id(number, "user"),
            profile_id=plan.make_id(number, "profile"),
            progress_id=plan.make_id(number, "progress"),
            last_entry=plan.make_id(number, "last_entry"),
            devices=[str(plan.make_id(number, f"device_{device}")) for device in range(2)],
            sessions=[plan.make_id(number, f"session_{n}") for n in range(len(lived.journey.sessions))],
            base_ms=base_ms,
            lived=lived,
        )

    def _live(self, updates: int, *name: object) -> Lived:
        plan = self._plan
        story = tell_story(plan.world, plan.rng(*name), updates, plan.days)
        journey = make_journey(plan.world, story)
        return Lived(journey, bake_events(journey))


def list_rows(experience_id: str, players: Sequence[Player]) -> list[Table]:
    """The rows of some players, table by table in the order in which they refer to each other."""
    return [
        ("users", ("id", "created_at"), [(p.user_id, p.instant(_first_ms(p))) for p in players]),
        _profiles(players),
        _progress(experience_id, players),
        _streams(players),
        _sessions(experience_id, players),
    ]


def _profiles(players: Sequence[Player]) -> Table:
    columns = (
        "id",
        "user_id",
        "total_experiences_played",
        "total_playtime_ms",
        "total_distance_micrometers",
        "account_level",
        "stats",
        "created_at",
        "updated_at",
    )
    return (
        "player_profiles",
        columns,
        [
            (
                p.profile_id,
                p.user_id,
                1,
                p.lived.journey.write.playtime_ms,
                p.lived.journey.write.distance_micrometers,
                p.lived.level,
                _stats(p.lived.journey.write.achievements),
                p.instant(_first_ms(p)),
                p.instant(p.lived.journey.last_ms),
            )
            for p in players
        ],
    )


def _progress(experience_id: str, players: Sequence[Player]) -> Table:
    columns = (
        "id",
        "player_id",
        "experience_id",
        "started_at",
        "completed_at",
        "last_played_at",
        "playtime_ms",
        "completion_percentage",
        "current_location",
        "state",
        "kinds",
        "distance_micrometers",
        "last_update_at",
        "version",
        "last_entry",
        "created_at",
        "updated_at",
    )
    rows = []
    for p in players:
        write = p.lived.journey.write
        rows.append(
            (
                p.progress_id,
                p.profile_id,
                experience_id,
                p.moved(write.first_at),
                p.moved(write.completed_at),
                p.moved(write.last_at),
                write.playtime_ms,
                (write.completion or 0.0) if write.completed_at is None else 100.0,
                write.current_location,
                write.state_json,
                write.kinds_json,
                write.distance_micrometers,
                p.moved(write.last_update_at),
                write.version,
                p.last_entry,
                p.instant(_first_ms(p)),
                p.instant(p.lived.journey.last_ms),
            )
        )
    return "experience_progress", columns, rows


def _streams(players: Sequence[Player]) -> Table:
    rows = []
    for p in players:
        journey = p.lived.journey
        for device, last_seq in enumerate(journey.last_seqs):
            if last_seq:
                rows.append((p.progress_id, p.devices[device], last_seq, p.instant(journey.last_ms)))
    return "device_streams", ("experience_progress_id", "device_id", "last_seq", "updated_at"), rows


def _sessions(experience_id: str, players: Sequence[Player]) -> Table:
    columns = (
        "id",
        "user_id",
        "experience_id",
        "device_id",
        "started_at",
        "ended_at",
        "end_reason",
        "playtime_ms",
    )
    rows = []
    for p in players:
        for session_id, session in zip(p.sessions, p.lived.journey.sessions, strict=True):
            rows.append(
                (
                    session_id,
                    p.user_id,
                    experience_id,
                    p.devices[session.device],
                    p.instant(session.started_ms),
                    p.instant(session.ended_ms),
                    session.end_reason,
                    session.playtime_ms,
                )
            )
    return "player_sessions", columns, rows


def _first_ms(player: Player) -> int:
    """When the first hello came."""
    return player.lived.journey.sessions[0].started_ms


def _stats(achievements: list[str]) -> str:
    return json.dumps({"achievements": sorted(set(achievements))}) if achievements else "{}"
