"""
GPX tracks: which places a walk passes, in order.

Owns the reading of GPX 1.0 and 1.1 files and the built-in Wylding Woods track. A track file is bad input until proven
otherwise: its size, depth and number of points are bounded, a DOCTYPE is refused (a GPX file needs none, and entities
are how a few bytes of XML become gigabytes), and so is a location off the globe.

Not here: what a player does at a place (walk_plan.py).
"""

from __future__ import annotations

import importlib.resources
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from loadtest.experience import Experience

TRACK_BYTES_MAX = 10 * 1024 * 1024
TRACK_POINTS_MAX = 100_000
ELEMENT_DEPTH_MAX = 32
NAME_CHARS_MAX = 200

BUILT_IN_TRACK = "wylding_woods.gpx"


class TrackRefused(Exception):
    """A track file that cannot be walked; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """One point of a track; only those that the file names have a name."""

    lat: float
    lng: float
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """A GPX file: its named places (`wpt`, else `rtept`) and its line (`trkpt`)."""

    title: str
    places: tuple[Place, ...]
    line: tuple[Place, ...]


def read_track(path: Path) -> Track:
    """
    Read a GPX file.

    Raises:
        TrackRefused: unreadable, too large, not GPX, or without a single point.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(TRACK_BYTES_MAX + 1)
    except OSError as fault:
        raise TrackRefused(f"cannot read {path}: {fault.strerror or fault}") from fault
    return parse_track(raw, title=path.stem)


def read_built_in_track() -> Track:
    """The Wylding Woods walk that comes with this package."""
    raw = importlib.resources.files("loadtest").joinpath(BUILT_IN_TRACK).read_bytes()
    return parse_track(raw, title="Wylding Woods")


def track_of(experience: Experience) -> Track:
    """From waypoint to waypoint, in the order of the definition."""
    places = tuple(Place(waypoint.lat, waypoint.lng, waypoint.id) for waypoint in experience.waypoints)
    return Track(experience.title, places, ())


def parse_track(raw: bytes, *, title: str) -> Track:
    if len(raw) > TRACK_BYTES_MAX:
        raise TrackRefused(f"a track file may have {TRACK_BYTES_MAX // 1024 // 1024} MiB, this one is larger")
    reader = _GpxReader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    parser.EntityDeclHandler = reader.refuse_doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(raw, True)
    except expat.ExpatError as fault:
        raise TrackRefused(f"not a GPX file: {expat.ErrorString(fault.code)} in line {fault.lineno}") from fault
    except (ValueError, LookupError) as fault:  # an encoding that nobody knows
        raise TrackRefused(f"not a GPX file: {fault}") from fault
    places = reader.points["wpt"] or reader.points["rtept"]
    if not places and not reader.points["trkpt"]:
        raise TrackRefused("the GPX file has neither waypoints, route points nor track points")
    return Track(reader.title or title, tuple(places), tuple(reader.points["trkpt"]))


class _GpxReader:
    """Collects points and their names while expat walks the file."""

    def __init__(self) -> None:
        self.points: dict[str, list[Place]] = {"wpt": [], "rtept": [], "trkpt": []}
        self.title = ""
        self._path: list[str] = []
        self._location: tuple[float, float] | None = None
        self._name = ""

    def refuse_doctype(self, *_: object) -> NoReturn:
        raise TrackRefused("a track file with a DOCTYPE is refused: GPX needs none")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition(" ")[2]
        if not self._path and name != "gpx":
            raise TrackRefused(f"not a GPX file: its root element is <{name[:40]}>")
        if len(self._path) >= ELEMENT_DEPTH_MAX:
            raise TrackRefused(f"elements nested deeper than {ELEMENT_DEPTH_MAX}")
        self._path.append(name)
        if name in self.points:
            self._location = _read_location(attributes)
            self._name = ""

    def text(self, text: str) -> None:
        if not self._path or self._path[-1] != "name":
            return
        if self._path[-2:-1] and self._path[-2] in self.points:
            self._name = (self._name + text)[:NAME_CHARS_MAX]
        elif self._path[-2:-1] and self._path[-2] in ("metadata", "gpx"):
            self.title = (self.title + text)[:NAME_CHARS_MAX].strip()

    def end(self, tag: str) -> None:
        name = self._path.pop()
        if name not in self.points or self._location is None:
            return
        if sum(map(len, self.points.values())) >= TRACK_POINTS_MAX:
            raise TrackRefused(f"more than {TRACK_POINTS_MAX} points")
        self.points[name].append(Place(*self._location, self._name.strip() or None))
        self._location = None


def _read_location(attributes: dict[str, str]) -> tuple[float, float]:
    try:
        lat, lng = float(attributes["lat"]), float(attributes["lon"])
    except (KeyError, ValueError) as fault:
        raise TrackRefused("a point without a readable lat and lon") from fault
    if not (math.isfinite(lat) and math.isfinite(lng) and -90 <= lat <= 90 and -180 <= lng <= 180):
        raise TrackRefused(f"a point off the globe: lat={lat} lon={lng}")
    return lat, lng
