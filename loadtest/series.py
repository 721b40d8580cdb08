"""
A run over time: what happened in each second of it, and what was done to the servers when.

Owns the lines that player processes write once a second (`samples-<i>.jsonl`), the marks (`marks.jsonl`), and the
series made of these and of the histories. Rates and latencies come from the histories, by the second in which an update
was due: an update that waited shows where it began to wait. Who was connected, errors, closes and the tool's own
lateness come from the samples; a run without them has a series without these.

Promise: however long a run, a series has at most `POINTS_MAX` points; then each point stands for several seconds.
Pure but for the reading of files; a torn last line is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.history import PlayerHistory
from loadtest.percentiles import Histogram, HistogramRefused

POINTS_MAX = 600
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)

STATES = ("playing", "suspended", "connecting", "offline", "stopped")
"""Players by state, as samples count them; `connected` is the sum of those with a socket."""

COUNTED = ("made", "accepted", "saved", "resumes", "errors", "closes")
"""What grows: a point holds how much was added in it."""

LATENCIES = ("ack", "saved", "late")
"""`late`: how long after an update was due the tool itself made it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was done from outside: a kill, a freeze (with an end)."""

    at_ms: float
    what: str
    until_ms: float | None = None


@dataclass(slots=True)
class Point:
    """`seconds` of the run from `at_s` on (0 is the start of play)."""

    at_s: int
    counts: dict[str, int] = field(default_factory=dict)
    states: dict[str, int] | None = None  # at its end
    latencies: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in LATENCIES})


@dataclass(slots=True)
class Series:
    """The points in order; `start_ms` is the wall clock at second 0."""

    start_ms: float
    step_s: int = 1
    points: list[Point] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    @property
    def has_states(self) -> bool:
        return any(point.states is not None for point in self.points)

    def sum_latency(self, name: str) -> Histogram:
        total = Histogram()
        for point in self.points:
            total.add(point.latencies[name])
        return total

    def thinned(self, points_max: int = POINTS_MAX) -> Series:
        """The same run in at most so many points, each of several seconds if need be."""
        step_s = self.step_s
        while self.points and (self.points[-1].at_s - self.points[0].at_s) // step_s + 1 > points_max:
            step_s = next((wider for wider in STEPS_S if wider > step_s), step_s * 2)
        return self.in_steps_of(step_s)

    def in_steps_of(self, step_s: int) -> Series:
        """Points of `step_s` seconds: what was counted is added up, players by state are those at its end."""
        made: dict[int, Point] = {}
        for point in self.points:
            at_s = point.at_s // step_s * step_s
            into = made.setdefault(at_s, Point(at_s))
            for name, count in point.counts.items():
                into.counts[name] = into.counts.get(name, 0) + count
            if point.states is not None:
                into.states = point.states
            for name, histogram in point.latencies.items():
                into.latencies[name].add(histogram)
        return Series(self.start_ms, step_s, [made[at_s] for at_s in sorted(made)], self.marks)

    def as_dict(self) -> dict[str, Any]:
        return {
            "start_ms": round(self.start_ms),
            "step_s": self.step_s,
            "points": [
                {
                    "at_s": point.at_s,
                    **point.counts,
                    **({"states": point.states} if point.states is not None else {}),
                    **{f"{name}_hdr": histogram.encode() for name, histogram in point.latencies.items() if histogram},
                }
                for point in self.points
            ],
            "marks": [
                {"at_s": round((mark.at_ms - self.start_ms) / 1000, 3), "what": mark.what}
                | ({"until_s": round((mark.until_ms - self.start_ms) / 1000, 3)} if mark.until_ms is not None else {})
                for mark in self.marks
            ],
        }


def read_series(document: dict[str, Any]) -> Series:
    """What `as_dict` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    series = Series(float(document["start_ms"]), int(document["step_s"]))
    if series.step_s < 1 or len(document["points"]) > 10 * POINTS_MAX:
        raise ValueError("not a series of a report")
    for said in document["points"]:
        point = Point(
            int(said["at_s"]), {name: int(said[name]) for name in COUNTED if name in said}, said.get("states")
        )
        for name in LATENCIES:
            if f"{name}_hdr" in said:
                point.latencies[name] = Histogram.decode(said[f"{name}_hdr"])
        series.points.append(point)
    for said in document["marks"]:
        until_s = said.get("until_s")
        until_ms = series.start_ms + float(until_s) * 1000 if until_s is not None else None
        series.marks.append(Mark(series.start_ms + float(said["at_s"]) * 1000, str(said["what"]), until_ms))
    return series


def make_series(
    histories: Sequence[PlayerHistory], folder: Path | None, start_ms: float, marks: Iterable[Mark] = ()
) -> Series:
    """Of what players did, and of what is in the folder of the run, if it has samples and marks."""
    found = _Seconds(start_ms)
    for history in histories:
        for step in history.steps:
            found.count(step.due_ms, "made")
            if step.accepted_ms is not None:
                found.count(step.accepted_ms, "accepted")
                if not step.is_away:
                    found.record(step.due_ms, "ack", step.accepted_ms - step.due_ms)
            if step.saved_ms is not None:
                found.count(step.saved_ms, "saved")
                if not step.is_away:
                    found.record(step.due_ms, "saved", step.saved_ms - step.due_ms)
    all_marks = list(marks)
    if folder is not None:
        for path in sorted(folder.glob("samples-*.jsonl")):
            found.add_samples(_read_lines(path), is_alone=not histories)
        all_marks += read_marks(folder)
    return Series(start_ms, 1, found.list_points(), sorted(all_marks, key=lambda mark: mark.at_ms)).thinned()


def read_marks(folder: Path) -> list[Mark]:
    marks = []
    for said in _read_lines(folder / "marks.jsonl"):
        until_ms = said.get("until_ms")
        marks.append(Mark(float(said["at_ms"]), str(said["what"]), None if until_ms is None else float(until_ms)))
    return marks


class _Seconds:
    """Points by their second, made as they are needed."""

    def __init__(self, start_ms: float) -> None:
        self._start_ms = start_ms
        self._points: dict[int, Point] = {}

    def count(self, at_ms: float, name: str, by: int = 1) -> None:
        counts = self._at(at_ms).counts
        counts[name] = counts.get(name, 0) + by

    def record(self, at_ms: float, name: str, latency_ms: float) -> None:
        self._at(at_ms).latencies[name].record(latency_ms * 1000)

    def add_samples(self, samples: Iterable[dict[str, Any]], *, is_alone: bool) -> None:
        """One process. `is_alone`: there are no histories, so rates and latencies come from here, too."""
        before: dict[str, int] = {}
        states_of: dict[int, dict[str, int]] = {}  # the last a process said in a second
        for sample in samples:
            # A sample is taken at the end of the second it tells of.
            point = self._at(float(sample["at_ms"]) - 500)
            for name in COUNTED if is_alone else ("resumes", "errors", "closes"):
                now = _total(sample.get(name, 0))
                point.counts[name] = point.counts.get(name, 0) + max(0, now - before.get(name, 0))
                before[name] = now
            states_of[point.at_s] = {name: int(sample[name]) for name in ("connected", *STATES) if name in sample}
            for name in LATENCIES if is_alone else ("late",):
                text = sample.get(f"{name}_hdr")
                if text:
                    try:
                        point.latencies[name].add(Histogram.decode(text))
                    except HistogramRefused:
                        continue  # a figure less; the run itself is not in doubt
        for at_s, said in states_of.items():
            if said:
                states = self._points[at_s].states or {}
                self._points[at_s].states = {name: states.get(name, 0) + said.get(name, 0) for name in states | said}

    def list_points(self) -> list[Point]:
        if not self._points:
            return []
        first, last = min(self._points), max(self._points)
        for second in range(first, last + 1):
            self._points.setdefault(second, Point(second))
        return [self._points[second] for second in range(first, last + 1)]

    def _at(self, at_ms: float) -> Point:
        second = math.floor((at_ms - self._start_ms) / 1000)
        point = self._points.get(second)
        if point is None:
            point = self._points[second] = Point(second)
        return point


def _total(count: Any) -> int:
    """A count, or counts by code."""
    return sum(int(value) for value in count.values()) if isinstance(count, dict) else int(count)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # torn: the process was killed while writing it
                lines.append(json.loads(line))
    return lines
