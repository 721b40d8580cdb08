"""
What simulated players play: an experience with its places and things, from the definitions of the installation.

A definition is read from `WAYHOLD_EXPERIENCES_DIR` where that is set, else from those that are shipped; Wylding Woods
is always there. An experience without a definition has no places of its own.

Not here: what a player does at a waypoint (walk_plan.py, storyline.py), and what a definition may say
(protocol.experience).
"""

from __future__ import annotations

import importlib.resources
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from protocol.experience import ExperienceDefinition, Privacy, Waypoint
from protocol.experience_file import ExperienceRefused, parse_experience

EXPERIENCES_DIR = "WAYHOLD_EXPERIENCES_DIR"
DEFINITION_BYTES_MAX = 4 << 20
EARTH_RADIUS_M = 6_371_008.8


@dataclass(frozen=True)
class Experience:
    """What a player can play."""

    definition: ExperienceDefinition

    @property
    def experience_id(self) -> str:
        return self.definition.experience_id

    @property
    def title(self) -> str:
        return self.definition.name

    @property
    def waypoints(self) -> tuple[Waypoint, ...]:
        """In walking order."""
        return self.definition.waypoints

    @cached_property
    def collectibles(self) -> tuple[str, ...]:
        """Things that are counted rather than carried."""
        return tuple(sorted({key for waypoint in self.waypoints for key, _ in waypoint.collectibles}))

    @cached_property
    def items(self) -> tuple[str, ...]:
        """Things that are carried."""
        return tuple(item.id for item in self.definition.items if item.id not in self.collectibles)

    @property
    def quests(self) -> tuple[str, ...]:
        return tuple(quest.id for quest in self.definition.quests)

    @property
    def achievements(self) -> tuple[str, ...]:
        return tuple(achievement.id for achievement in self.definition.achievements)

    def find_waypoint(self, waypoint_id: str) -> Waypoint | None:
        return next((waypoint for waypoint in self.waypoints if waypoint.id == waypoint_id), None)

    def nearest_waypoint(self, lat: float, lng: float) -> tuple[Waypoint, float]:
        """The waypoint closest to a location, and how many metres away it is."""
        nearest = min(self.waypoints, key=lambda waypoint: distance_m(lat, lng, waypoint.lat, waypoint.lng))
        return nearest, distance_m(lat, lng, nearest.lat, nearest.lng)


def distance_m(lat_a: float, lng_a: float, lat_b: float, lng_b: float) -> float:
    """Great-circle distance between two WGS 84 locations."""
    phi_a, phi_b = math.radians(lat_a), math.radians(lat_b)
    half_phi, half_lambda = (phi_b - phi_a) / 2, math.radians(lng_b - lng_a) / 2
    chord = math.sin(half_phi) ** 2 + math.cos(phi_a) * math.cos(phi_b) * math.sin(half_lambda) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(1.0, chord)))


def find_experience(experience_id: str, environment: Mapping[str, str] = os.environ) -> Experience | None:
    """
    The experience of that name, None when nothing is known of it.

    Raises:
        ExperienceRefused: its definition cannot be used.
    """
    folder = environment.get(EXPERIENCES_DIR, "").strip()
    shipped = importlib.resources.files("protocol.experiences")
    file = (Path(folder).expanduser() if folder else shipped) / f"{experience_id}.toml"
    if not file.is_file():
        return WYLDING_WOODS if experience_id == WYLDING_WOODS.experience_id else None
    try:
        with file.open("rb") as source:
            raw = source.read(DEFINITION_BYTES_MAX + 1)
        text = raw.decode("utf-8-sig")
    except OSError as fault:
        raise ExperienceRefused(str(file), "", f"cannot be read ({fault.strerror})", "check its owner") from None
    except UnicodeDecodeError:
        raise ExperienceRefused(str(file), "", "not UTF-8", "save it as UTF-8") from None
    if len(raw) > DEFINITION_BYTES_MAX:
        raise ExperienceRefused(str(file), "", "too large", "split the experience")
    return Experience(parse_experience(text, str(file), experience_id=experience_id))


@cache
def find_privacy(experience_id: str) -> Privacy:
    """What may be kept of locations there; everything where nothing else is said."""
    found = find_experience(experience_id)
    return found.definition.privacy if found is not None else Privacy()


def make_unknown_experience(experience_id: str) -> Experience:
    """One of which nothing is known but its name."""
    return Experience(ExperienceDefinition(experience_id, experience_id))


def _read_shipped(experience_id: str) -> Experience:
    file = importlib.resources.files("protocol.experiences") / f"{experience_id}.toml"
    return Experience(parse_experience(file.read_text(encoding="utf-8"), file.name, experience_id=experience_id))


WYLDING_WOODS = _read_shipped("wylding-woods")
