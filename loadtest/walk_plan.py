"""
What a player does on a walk: the updates of a track, in order, decided before the first step.

Promise: the same track, experience and seed give the same plan, so that a killed walk goes on where it was with
nothing but a number. Pure.

Not here: sending it (walk.py).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from loadtest.experience import Experience, distance_m
from loadtest.track import Place, Track
from protocol.experience import Waypoint
from protocol.limits import EFFECTS_MAX

# A track without named places is cut into steps: a place every so many metres, named after the waypoint it passes.
STEP_DISTANCE_M = 25.0
WAYPOINT_REACH_M = 30.0
PLAN_STEPS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One update of the walk, the place where it happens, and how far the player walked to get there."""

    place: str
    event: dict[str, Any]
    effects: tuple[dict[str, Any], ...] = ()
    walked_m: float = 0.0


@dataclass(frozen=True, slots=True)
class WalkPlan:
    """All steps of a walk; `digest` tells plans apart, so that a journal is not continued with another walk."""

    title: str
    steps: tuple[PlannedStep, ...]
    digest: str = field(default="")

    @property
    def distance_m(self) -> float:
        return sum(step.walked_m for step in self.steps)


def plan_walk(track: Track, experience: Experience, random_seed: int) -> WalkPlan:
    """
    The updates of one walk along a track.

    Raises:
        ValueError: the track is longer than a walk may be.
    """
    rng = random.Random(random_seed)
    steps: list[PlannedStep] = []
    before: Place | None = None
    for place in _list_stops(track):
        walked_m = distance_m(before.lat, before.lng, place.lat, place.lng) if before is not None else 0.0
        before = place
        steps += _visit(place, experience, round(walked_m, 1), rng)
        if len(steps) > PLAN_STEPS_MAX:
            raise ValueError(f"a walk may have {PLAN_STEPS_MAX} steps, this track has more")
    last = steps[-1]
    steps.append(PlannedStep(last.place, {"type": "experience_completed", "data": {"waypoints": _count_visits(steps)}}))
    digest = hashlib.sha256(repr((experience.experience_id, steps)).encode()).hexdigest()[:16]
    return WalkPlan(track.title, tuple(steps), digest)


def _list_stops(track: Track) -> Iterator[Place]:
    """The named places; without any, points of the line at least `STEP_DISTANCE_M` apart, and its end."""
    if track.places:
        yield from track.places
        return
    last: Place | None = None
    for point in track.line:
        if last is None or distance_m(last.lat, last.lng, point.lat, point.lng) >= STEP_DISTANCE_M:
            last = point
            yield point
    if last is not track.line[-1]:
        yield track.line[-1]


def _visit(place: Place, experience: Experience, walked_m: float, rng: random.Random) -> Iterator[PlannedStep]:
    """Arriving at a place, and everything that a player does there."""
    waypoint = experience.find_waypoint(place.name) if place.name is not None else None
    if waypoint is None and place.name is None and experience.waypoints:
        nearest, away_m = experience.nearest_waypoint(place.lat, place.lng)
        waypoint = nearest if away_m <= WAYPOINT_REACH_M else None
    name = waypoint.id if waypoint is not None else _name_place(place)
    data = {
        "distance_traveled": walked_m,
        "time_spent": rng.randrange(15, 180),
        "interaction_method": rng.choice(("tap", "wheel_rotation", "scan_marker", "look_around")),
    }
    visit = {"type": "waypoint_visited", "content_id": name, "data": data, "lat": place.lat, "lng": place.lng}
    yield PlannedStep(name, visit, _flag_effects(waypoint), walked_m)
    if waypoint is not None:
        for event, effects in _list_finds(waypoint, rng):
            yield PlannedStep(name, {**event, "lat": place.lat, "lng": place.lng}, effects)


def _flag_effects(waypoint: Waypoint | None) -> tuple[dict[str, Any], ...]:
    flags = waypoint.flags if waypoint is not None else ()
    return tuple({"op": "set", "path": f"flags.{flag}", "value": True} for flag in flags[:EFFECTS_MAX])


def _list_finds(waypoint: Waypoint, rng: random.Random) -> Iterator[tuple[dict[str, Any], tuple[dict[str, Any], ...]]]:
    for item in waypoint.items:
        yield {"type": "item_collected", "content_id": item}, ()
    for kind, count in waypoint.collectibles:
        yield {"type": "item_collected", "content_id": kind, "data": {"count": count}}, ()
    opened = tuple({"op": "add", "path": "unlocked_areas", "value": area} for area in waypoint.opens[:EFFECTS_MAX])
    for quest in waypoint.completes:
        data = {"completion_time_seconds": rng.randrange(120, 1800), "steps_completed": rng.randrange(2, 7)}
        yield {"type": "quest_completed", "content_id": quest, "data": data}, opened
        opened = ()
    for quest in waypoint.starts:
        yield {"type": "quest_started", "content_id": quest}, ()
    for achievement in waypoint.achievements:
        yield {"type": "achievement_unlocked", "content_id": achievement}, ()


def _name_place(place: Place) -> str:
    """A place that the experience does not know is named by what the file says, or by where it is."""
    if place.name is not None:
        return place.name[:128]
    return f"point_{place.lat:.5f}_{place.lng:.5f}"


def _count_visits(steps: list[PlannedStep]) -> int:
    return len({step.place for step in steps})
