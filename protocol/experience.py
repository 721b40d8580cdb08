"""
Experience definitions: what an experience consists of, when it is completed, and what may be kept about its players.

A definition is one TOML file, `<experience id>.toml` (docs/experiences.md describes every key). Having one is optional:
an experience without a definition is played as it is sent.

Pure. Not here: how a definition is read from its text (experience_file.py), and who counts what a state lacks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from protocol.limits import (
    EXPERIENCE_CHARS_MAX,
    LAT_MAX,
    LNG_MAX,
)

METRES_PER_DEGREE: Final = 111_320.0
_ROUNDED_PLACES: Final = 6

EXPERIENCE_ID: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{EXPERIENCE_CHARS_MAX - 1}}}")

UnknownContent = Literal["report", "refuse", "ignore"]
ContentKind = Literal["waypoints", "quests", "items", "achievements"]

KIND_OF_EVENT: Final[dict[str, ContentKind]] = {
    "waypoint_visited": "waypoints",
    "location_reached": "waypoints",
    "quest_started": "quests",
    "quest_completed": "quests",
    "item_collected": "items",
    "achievement_unlocked": "achievements",
}
"""What the content_id of a known event names. Events of other types are about whatever they like."""


@dataclass(frozen=True, slots=True)
class Thing:
    """A quest, an item or an achievement: an id that events carry, and a name for people."""

    id: str
    name: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Waypoint:
    """
    A place, in WGS 84 degrees, and what a player finds there. `radius_m`: how close counts as being there, for clients
    and maps; None leaves it to them. What is found is a story for simulated players and maps: the gateway does not
    hand it out by itself.
    """

    id: str
    name: str
    lat: float
    lng: float
    radius_m: float | None = None
    note: str = ""
    items: tuple[str, ...] = ()
    """Go into the inventory, once."""
    collectibles: tuple[tuple[str, int], ...] = ()
    """Things that are counted, and how many lie here."""
    starts: tuple[str, ...] = ()
    completes: tuple[str, ...] = ()
    """Quests."""
    opens: tuple[str, ...] = ()
    """Members of `unlocked_areas`."""
    flags: tuple[str, ...] = ()
    """Keys of the group `flags`."""
    achievements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionRule:
    """
    What a state must hold for 100 %; every line counts the same. `required_members` and the counters' names are flat
    fields of a state (state.py), counters in millionths.

    `by_event`: an `experience_completed` event completes the experience whatever the state holds.
    """

    required_members: tuple[str, ...]
    required_counters: tuple[tuple[str, int], ...] = ()
    by_event: bool = True


@dataclass(frozen=True, slots=True)
class Privacy:
    """
    What is kept of where players were, and for how long.

    Locations are rounded before they are stored anywhere: to `location_decimals` places of a degree, or to a grid of
    `precision_m` metres; with neither they are kept as sent, and without `keep_location` not at all. Events older than
    `event_retention_days` are removed; None keeps them for ever.
    """

    keep_location: bool = True
    location_decimals: int | None = None
    precision_m: float | None = None
    event_retention_days: int | None = None

    @property
    def changes_locations(self) -> bool:
        return not self.keep_location or self.location_decimals is not None or self.precision_m is not None


@dataclass(frozen=True, slots=True)
class ExperienceDefinition:
    """One experience. `completion` None: only an `experience_completed` event completes it."""

    experience_id: str
    name: str
    waypoints: tuple[Waypoint, ...] = ()
    quests: tuple[Thing, ...] = ()
    items: tuple[Thing, ...] = ()
    achievements: tuple[Thing, ...] = ()
    completion: CompletionRule | None = None
    privacy: Privacy = Privacy()
    unknown_content: UnknownContent = "report"

    def known_content(self) -> dict[str, frozenset[str]]:
        """
        Event type → the ids that its content_id may have. A kind of which the definition lists nothing is missing:
        what it says nothing about cannot be unknown.
        """
        ids: dict[ContentKind, frozenset[str]] = {
            "waypoints": frozenset(waypoint.id for waypoint in self.waypoints),
            "quests": frozenset(quest.id for quest in self.quests),
            "items": frozenset(item.id for item in self.items),
            "achievements": frozenset(achievement.id for achievement in self.achievements),
        }
        return {event_type: ids[kind] for event_type, kind in KIND_OF_EVENT.items() if ids[kind]}


def completion_percentage(definition: ExperienceDefinition, fields: Mapping[str, bytes]) -> float:
    """
    How much of what the rule asks for a state holds: 0 … 100, in hundredths, rounded down, so that 100 is said only
    when nothing is missing. 0 without a rule.

    `fields` are the flat fields of a state (state.py). Costs one lookup for each line of the rule.
    """
    rule = definition.completion
    if rule is None:
        return 0.0
    done = sum([member in fields for member in rule.required_members])
    for field, wanted in rule.required_counters:
        if int(fields.get(field, b"0")) >= wanted:
            done += 1
    return 10_000 * done // (len(rule.required_members) + len(rule.required_counters)) / 100


def round_location(privacy: Privacy, lat: float | None, lng: float | None) -> tuple[float | None, float | None]:
    """What may be kept of a location. Rounding twice gives the same; the result is on the globe."""
    if not privacy.keep_location:
        return None, None
    if privacy.location_decimals is not None:
        places = privacy.location_decimals
        return (
            None if lat is None else _on_globe(round(lat, places), LAT_MAX),
            None if lng is None else _on_globe(round(lng, places), LNG_MAX),
        )
    if privacy.precision_m is None:
        return lat, lng
    step = privacy.precision_m / METRES_PER_DEGREE
    if lat is not None:
        lat = _on_globe(round(round(lat / step) * step, _ROUNDED_PLACES), LAT_MAX)
    if lng is not None:
        # Degrees of longitude shrink towards the poles; the rounded latitude decides, so that twice is the same.
        step = min(step / max(math.cos(math.radians(lat or 0.0)), 1e-9), 2 * LNG_MAX)
        lng = _on_globe(round(round(lng / step) * step, _ROUNDED_PLACES), LNG_MAX)
    return lat, lng


def _on_globe(degrees: float, degrees_max: float) -> float:
    # -0.0 would be another text for the same place.
    return max(-degrees_max, min(degrees, degrees_max)) + 0.0
