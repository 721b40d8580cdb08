"""
Where people walk: legs between waypoints, or along GPX tracks.

A track is walked from a place of its own for each player, so that a thousand players do not march in step. Pure; the
reading of files is track.py.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.experience import Experience, distance_m
from loadtest.track import Place, Track
from protocol.experience import Waypoint

METRES_PER_DEGREE = 111_195.0
LEG_M_MIN = 40.0
REACH_M = 30.0


@dataclass(frozen=True, slots=True)
class Leg:
    """From one place to the next; `name` is what is there, None where nothing is."""

    from_lat: float
    from_lng: float
    to_lat: float
    to_lng: float
    length_m: float
    name: str | None = None
    waypoint: Waypoint | None = None

    def find_place(self, part: float) -> tuple[float, float]:
        """Where somebody is who has walked this part of it."""
        return (
            round(self.from_lat + (self.to_lat - self.from_lat) * part, 7),
            round(self.from_lng + (self.to_lng - self.from_lng) * part, 7),
        )


def move(lat: float, lng: float, north_m: float, east_m: float) -> tuple[float, float]:
    """A location so many metres away; a few, because it takes the earth for flat."""
    wide = max(0.01, math.cos(math.radians(lat)))
    lat = max(-90.0, min(90.0, lat + north_m / METRES_PER_DEGREE))
    lng = (lng + east_m / (METRES_PER_DEGREE * wide) + 180.0) % 360.0 - 180.0
    return round(lat, 7), round(lng, 7)


def list_legs(tracks: Sequence[Track], experience: Experience, rng: random.Random) -> tuple[Leg, ...]:
    """A round of one player: along one of the tracks, or from waypoint to waypoint, begun anywhere."""
    legs = list_track_legs(rng.choice(tracks), experience) if tracks else _list_waypoint_legs(experience)
    first = rng.randrange(len(legs))
    return legs[first:] + legs[:first]


_KNOWN: dict[tuple[int, str], tuple[tuple[Leg, ...], Track | Experience]] = {}


def _list_waypoint_legs(experience: Experience) -> tuple[Leg, ...]:
    key = (id(experience), "waypoints")
    if key not in _KNOWN:
        places = [(waypoint.lat, waypoint.lng, waypoint.id, waypoint) for waypoint in experience.waypoints]
        _KNOWN[key] = (_connect(places), experience)
    return _KNOWN[key][0]


def list_track_legs(track: Track, experience: Experience) -> tuple[Leg, ...]:
    """
    The legs of a track: to each of its named places, or every `LEG_M_MIN` along its line, with the experience's
    waypoint where one is in reach.
    """
    key = (id(track), experience.experience_id)
    if key in _KNOWN:
        return _KNOWN[key][0]
    stops: list[Place] = list(track.places) if len(track.places) > 1 else []
    if not stops:
        for place in track.line or track.places:
            if not stops or distance_m(stops[-1].lat, stops[-1].lng, place.lat, place.lng) >= LEG_M_MIN:
                stops.append(place)
    places = []
    for place in stops:
        waypoint = experience.find_waypoint(place.name) if place.name else None
        if waypoint is None and experience.waypoints:
            nearest, away_m = experience.nearest_waypoint(place.lat, place.lng)
            waypoint = nearest if away_m <= REACH_M else None
        places.append((place.lat, place.lng, waypoint.id if waypoint else place.name, waypoint))
    _KNOWN[key] = (_connect(places), track)
    return _KNOWN[key][0]


def _connect(places: Sequence[tuple[float, float, str | None, Waypoint | None]]) -> tuple[Leg, ...]:
    """Each place from the one before it; the first from the last."""
    legs = []
    for number, (lat, lng, name, waypoint) in enumerate(places):
        from_lat, from_lng, *_ = places[number - 1]
        legs.append(Leg(from_lat, from_lng, lat, lng, distance_m(from_lat, from_lng, lat, lng), name, waypoint))
    return tuple(legs)
