"""
What an invented player did: sessions over days and weeks, and the updates in each of them.

Owns the mix: how long people play, when they come back, how often they visit, collect, finish. A story is told from the
midnight before its first session on, so that many players can live the same one on different days. The same random
numbers tell the same story.

Not here: what the updates make of a state (journey.py).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from protocol.experience import ExperienceDefinition

DAY_MS = 86_400_000
HOUR_MS = 3_600_000

ITEMS = ("compass", "map", "brass_key", "library_card", "lamp", "tinder_box", "glass_bead", "moon_charm")
COLLECTIBLES = ("artist_tools", "mystical_flowers", "brass_tokens", "river.stones")
QUESTS = (
    "discover_woander",
    "explore_el_paseo",
    "find_the_library",
    "collect_artist_tools",
    "follow_the_creek",
    "light_the_lanterns",
)
FLAGS = ("mailbox_opened", "door_unlocked", "gravity_car_activated", "owl_seen", "bell_rung")
ACHIEVEMENTS = ("first_waypoint", "halfway_round", "quest_master", "marathon_walker", "night_walker")
METHODS = ("tap", "wheel_rotation", "scan", "voice")

# The hours at which people go out to play; UTC is as good as any other zone.
HOUR_WEIGHTS = (1, 1, 1, 1, 1, 1, 2, 4, 6, 8, 9, 10, 12, 11, 11, 12, 14, 16, 17, 14, 10, 7, 4, 2)

SESSION_UPDATES = 18
"""Updates in a middling session."""

OFFLINE_PART = 0.08
"""Sessions without a network: the journal is sent after the walk."""

SECOND_DEVICE_PART = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """A waypoint: what is visited, and where it is."""

    content_id: str
    lat: float
    lng: float


@dataclass(frozen=True, slots=True)
class World:
    """What there is to play with in an experience. Without a definition its waypoints are invented."""

    experience_id: str
    places: Sequence[Place]
    items: Sequence[str] = ITEMS
    collectibles: Sequence[str] = COLLECTIBLES
    quests: Sequence[str] = QUESTS
    achievements: Sequence[str] = ACHIEVEMENTS
    definition: ExperienceDefinition | None = None

    @classmethod
    def of(cls, definition: ExperienceDefinition) -> World:
        """A definition may leave anything out; what it says nothing about is not played with."""
        counted = {key for waypoint in definition.waypoints for key, _ in waypoint.collectibles}
        places = tuple(Place(waypoint.id, waypoint.lat, waypoint.lng) for waypoint in definition.waypoints)
        return cls(
            definition.experience_id,
            places or cls.invent(definition.experience_id).places,
            items=tuple(item.id for item in definition.items if item.id not in counted),
            collectibles=tuple(sorted(counted)),
            quests=tuple(quest.id for quest in definition.quests),
            achievements=tuple(achievement.id for achievement in definition.achievements),
            definition=definition,
        )

    @classmethod
    def invent(cls, experience_id: str, places: int = 37) -> World:
        """Nothing but the name is known: waypoints in a loop through Mill Valley."""
        angles = [2 * math.pi * number / places for number in range(places)]
        return cls(
            experience_id,
            tuple(
                Place(
                    f"waypoint_{number:02}",
                    round(37.9075 + 0.0035 * math.sin(angle), 6),
                    round(-122.5505 + 0.0045 * math.cos(angle), 6),
                )
                for number, angle in enumerate(angles, 1)
            ),
        )


@dataclass(frozen=True, slots=True)
class StoryUpdate:
    """One update, `at_ms` after the story's first midnight."""

    at_ms: int
    event: dict[str, Any] | None
    effects: list[dict[str, Any]] | None


@dataclass(slots=True)
class StorySession:
    """
    A session as the gateway sees it: a walk without a network happens before the session in which its journal is sent
    (`is_offline`). `device` is 0 or 1.
    """

    device: int
    started_ms: int = 0
    ended_ms: int = 0
    end_reason: Literal["left", "expired", "replaced"] = "left"
    is_offline: bool = False
    updates: list[StoryUpdate] = field(default_factory=list)


def tell_story(world: World, rng: random.Random, updates: int, days: int) -> list[StorySession]:
    """
    A player with exactly so many updates, whose last session begins within `days` of the first midnight. Sessions do
    not overlap, updates are in the order in which they happened.
    """
    sizes: list[int] = []
    while sum(sizes) < updates:
        size = max(1, round(rng.lognormvariate(math.log(SESSION_UPDATES), 0.6)))
        sizes.append(min(size, updates - sum(sizes)))
    devices = 2 if len(sizes) > 1 and rng.random() < SECOND_DEVICE_PART else 1
    adventure = _Adventure(world, rng)
    sessions: list[StorySession] = []
    free_ms, day = 0, 0
    for number, size in enumerate(sizes):
        if number and rng.random() < 0.8:
            # Most come back within days, a few after weeks; nobody past the last day.
            day = min(days - 1, day + max(1, round(rng.lognormvariate(0.9, 0.9))))
        hour = rng.choices(range(24), HOUR_WEIGHTS)[0]
        at_ms = max(free_ms, day * DAY_MS + hour * HOUR_MS + rng.randrange(HOUR_MS))
        session = StorySession(number % devices, at_ms)
        for _ in range(size):
            at_ms += round(1000 * min(600.0, 2 + rng.lognormvariate(3.4, 0.8)))
            event, effects = adventure.go_on()
            session.updates.append(StoryUpdate(at_ms, event, effects))
        session.end_reason = rng.choices(("left", "expired", "replaced"), (60, 37, 3))[0]
        if rng.random() < OFFLINE_PART:
            session.is_offline = True
            session.started_ms = at_ms = at_ms + rng.randrange(60_000, 3_600_000)
        session.ended_ms = at_ms + (rng.randrange(1000, 90_000) if session.end_reason == "left" else 0)
        free_ms = session.ended_ms + 5 * 60_000
        sessions.append(session)
    return sessions


class _Adventure:
    """One player's way through a world: round after round, with what lies beside it."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._at = world.places[0]
        self._next = 0
        self._visited: set[str] = set()
        self._open: list[str] = []
        self._quests = list(world.quests)
        self._achievements = list(world.achievements)
        self._is_completed = False

    def go_on(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]] | None]:
        """(event, effects) of the next update."""
        rng = self._rng
        if not self._visited:
            return self._visit()
        if len(self._visited) == len(self._world.places) and not self._is_completed:
            self._is_completed = True
            return {"type": "experience_completed", "data": {"waypoints": len(self._visited)}}, None
        roll = rng.random()
        if roll < 0.55:
            return self._visit()
        if roll < 0.67 and self._world.items:
            return {"type": "item_collected", "content_id": rng.choice(self._world.items)}, None
        if roll < 0.76 and self._world.collectibles:
            thing = rng.choice(self._world.collectibles)
            return {"type": "item_collected", "content_id": thing, "data": {"count": rng.randrange(1, 4)}}, None
        if roll < 0.86 and (self._quests or self._open):
            return self._quest()
        if roll < 0.90:
            at = self._at
            return {"type": "location_reached", "content_id": at.content_id, "lat": at.lat, "lng": at.lng}, None
        if roll < 0.91 and self._achievements:
            return {"type": "achievement_unlocked", "content_id": self._achievements.pop(0)}, None
        if roll < 0.96:
            return None, [{"op": "set", "path": f"flags.{rng.choice(FLAGS)}", "value": rng.random() < 0.7}]
        return None, [{"op": "incr", "path": "records.score", "value": rng.randrange(1, 50)}]

    def _visit(self) -> tuple[dict[str, Any], None]:
        rng, before = self._rng, self._at
        self._at = place = self._world.places[self._next % len(self._world.places)]
        # Most walk in order; now and then somebody leaves one out, or turns up at any of them.
        self._next += rng.choices((1, 2, rng.randrange(len(self._world.places))), (90, 8, 2))[0]
        self._visited.add(place.content_id)
        walked_m = round(_distance_m(before, place) * rng.uniform(1.0, 1.5), 1)
        data: dict[str, Any] = {"distance_traveled": walked_m, "time_spent": rng.randrange(5, 240)}
        if rng.random() < 0.5:
            data["interaction_method"] = rng.choice(METHODS)
        return {
            "type": "waypoint_visited",
            "content_id": place.content_id,
            "data": data,
            # Where the phone thought it was, some metres off.
            "lat": round(place.lat + rng.gauss(0, 0.00005), 6),
            "lng": round(place.lng + rng.gauss(0, 0.00005), 6),
        }, None

    def _quest(self) -> tuple[dict[str, Any], list[dict[str, Any]] | None]:
        rng = self._rng
        if self._open and (not self._quests or rng.random() < 0.5):
            quest = self._open.pop(rng.randrange(len(self._open)))
            data = {"completion_time_seconds": rng.randrange(60, 3600), "steps_completed": rng.randrange(2, 8)}
            area = [{"op": "add", "path": "unlocked_areas", "value": f"{quest}_area"}]
            return {"type": "quest_completed", "content_id": quest, "data": data}, area
        self._open.append(self._quests.pop(0))
        return {"type": "quest_started", "content_id": self._open[-1]}, None


def _distance_m(a: Place, b: Place) -> float:
    """Flat: waypoints are hundreds of metres apart."""
    north = (b.lat - a.lat) * 111_195
    east = (b.lng - a.lng) * 111_195 * math.cos(math.radians(a.lat))
    return math.hypot(north, east)
