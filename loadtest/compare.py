"""
Two runs side by side: every figure of both, the difference, and whether the second is worse.

Owns what counts as worse. A figure is worse when it moved the wrong way by more than `worse_percent` of the first run's
value, and by more than what is noise for its kind (`NOISE`). The verdict is bad when a figure of `JUDGED` is worse or
when the second run is not ok; the others are shown.

Seconds of play are paired, too: the n-th second of one run with the n-th of the other, so that a ramp or a fault that
both have cancels out. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.figures import FIGURES, TOOL_LATE_MS, show, show_ms
from loadtest.report_page import make_page, make_table
from loadtest.series import Series, read_series

WORSE_PERCENT = 20.0

# What a run may differ by without meaning anything: milliseconds of latency, a share of a count.
NOISE = {"ms": 1.0, "s": 0.5, "count": 0.0, "us": 5.0, "kib": 1.0}

# Means and slowest ones hang on single updates; closes and resumes on what was done to the run.
JUDGED = (
    *("lost", "duplicated", "reordered", "state_mismatches", "dead_lettered", "unanswered", "late_acks", "errors"),
    *("ack_p50_ms", "ack_p90_ms", "ack_p95_ms", "ack_p99_ms", "saved_p50_ms", "saved_p99_ms", "accepted_per_s"),
    *("gateway_cpu_us_per_update", "settled_s"),
)
assert set(JUDGED) <= FIGURES.keys()


@dataclass(frozen=True, slots=True)
class Difference:
    """`percent` None: the first run's value is 0 or missing. `is_worse`, `is_better`: beyond what is noise."""

    name: str
    first: float | int | None
    second: float | int | None
    percent: float | None
    is_worse: bool
    is_better: bool

    @property
    def mark(self) -> str:
        """In a word. A figure that is not judged has moved, for better or worse."""
        if not (self.is_worse or self.is_better):
            return ""
        return "moved" if self.name not in JUDGED else "worse" if self.is_worse else "better"

    @property
    def by(self) -> float | None:
        return None if self.first is None or self.second is None else self.second - self.first


@dataclass(frozen=True, slots=True)
class PairedSeconds:
    """The same seconds of play of both runs: how the second run differs in the middle, in how many it was higher."""

    what: str
    seconds: int
    median_by: float
    higher_in: int


@dataclass(slots=True)
class Comparison:
    """What differs between two runs."""

    differences: list[Difference]
    paired: list[PairedSeconds]
    worse_percent: float
    is_second_ok: bool
    notes: list[str] = field(default_factory=list)

    @property
    def worse(self) -> list[Difference]:
        return [one for one in self.differences if one.is_worse and one.name in JUDGED]

    @property
    def is_ok(self) -> bool:
        return self.is_second_ok and not self.worse

    def last_line(self) -> str:
        better = sum(one.is_better and one.name in JUDGED for one in self.differences)
        return f"compare: {'ok' if self.is_ok else 'FAILED'} worse={len(self.worse)} better={better}"

    def lines(self) -> list[str]:
        """A table for a terminal; the verdict is the last line."""
        rows = [("", "first", "second", "difference", "")]
        for one in self.differences:
            if one.first is None and one.second is None:
                continue
            shown = (show(one.name, one.first), show(one.name, one.second))
            rows.append((one.name, *shown, show_difference(one), one.mark))
        widths = [max(len(row[at]) for row in rows) for at in range(5)]
        lines = []
        for name, *cells, mark in rows:
            aligned = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:4], strict=True))
            lines.append(f"  {name:<{widths[0]}}  {aligned}  {mark}".rstrip())
        lines += [f"  {line}" for line in self._paired_lines()]
        lines += [f"  note: {note}" for note in self.notes]
        if not self.is_second_ok:
            lines.append("  the second run is not ok by itself")
        return [*lines, self.last_line()]

    def _paired_lines(self) -> list[str]:
        return [
            f"{one.what}, second by second: {one.median_by:+.1f} in the middle, "
            f"higher in {one.higher_in} of {one.seconds}"
            for one in self.paired
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": self.is_ok,
            "worse_percent": self.worse_percent,
            "figures": {
                one.name: {
                    "first": one.first,
                    "second": one.second,
                    "by": one.by,
                    "percent": one.percent,
                    "worse": one.is_worse,
                    "better": one.is_better,
                }
                for one in self.differences
            },
            "paired": [
                {"what": one.what, "seconds": one.seconds, "median_by": one.median_by, "higher_in": one.higher_in}
                for one in self.paired
            ],
            "notes": self.notes,
        }

    def as_page(self, first: str, second: str) -> str:
        """`first`, `second`: what the runs are called."""
        # What moved comes first.
        shown = sorted(
            (one for one in self.differences if one.first is not None or one.second is not None),
            key=lambda one: ("worse", "better", "moved", "").index(one.mark),
        )
        marks = [one.mark for one in shown]
        rows = [
            [one.name, show(one.name, one.first), show(one.name, one.second), show_difference(one), one.mark]
            for one in shown
        ]
        paired = [[one.what, f"{one.median_by:+.1f}", f"{one.higher_in} of {one.seconds}"] for one in self.paired]
        table = make_table(["figure", first, second, "difference", ""], rows, numbers=(1, 2, 3), ids=(0,), marks=marks)
        head = ["the same seconds of both", "second run, in the middle", "higher in"]
        notes = make_table(["what makes them hard to compare"], [[note] for note in self.notes]) if self.notes else ""
        verdict = "✓ The second run is not worse" if self.is_ok else "✗ The second run is worse"
        return make_page(
            "Two load tests compared",
            f'<h1>Two load tests compared</h1><div class="verdict {"ok" if self.is_ok else "bad"}"><b>{verdict}</b>'
            f'<p class="line">{self.last_line()}</p></div>{notes}'
            + (make_table(head, paired, numbers=(1, 2)) if paired else "")
            + table,
        )


def compare(first: Mapping[str, Any], second: Mapping[str, Any], *, worse_percent: float = WORSE_PERCENT) -> Comparison:
    """Two documents. Raises ValueError, KeyError or TypeError for one that was damaged."""
    differences = [
        _differ(name, first["figures"].get(name), second["figures"].get(name), worse_percent) for name in FIGURES
    ]
    paired = _pair_seconds(read_series(first["series"]), read_series(second["series"]))
    return Comparison(differences, paired, worse_percent, bool(second["verdict"]["ok"]), _list_notes(first, second))


def show_difference(one: Difference) -> str:
    if one.by is None:
        return "–"
    if one.by == 0:
        return "same"
    sign = "+" if one.by > 0 else "−"
    percent = f" ({one.percent:+.0f} %)" if one.percent is not None else ""
    return f"{sign}{show(one.name, abs(one.by))}{percent}"


def _differ(name: str, first: float | int | None, second: float | int | None, worse_percent: float) -> Difference:
    if first is None or second is None:
        # Nothing was answered any more, or it never settled: worse. The others were not measured.
        is_worse = first is not None and name.startswith(("ack_", "saved_", "settled_"))
        return Difference(name, first, second, None, is_worse, False)
    by = second - first
    percent = by / first * 100 if first else None
    better = FIGURES[name].better
    is_beyond = abs(by) > _find_noise(name) and (percent is None or abs(percent) > worse_percent)
    moved = is_beyond and better != 0 and by != 0
    is_worse = moved and (by > 0) == (better < 0)
    return Difference(name, first, second, percent, is_worse, moved and not is_worse)


def _find_noise(name: str) -> float:
    if name.endswith("_ms"):
        return NOISE["ms"]
    if name.endswith("_per_s"):
        return NOISE["count"]
    if name.endswith("_s"):
        return NOISE["s"]
    if "_us_" in name:
        return NOISE["us"]
    return NOISE["kib"] if "_kib_" in name else NOISE["count"]


def _pair_seconds(first: Series, second: Series) -> list[PairedSeconds]:
    step_s = max(first.step_s, second.step_s)
    one = {point.at_s: point for point in first.in_steps_of(step_s).points}
    other = {point.at_s: point for point in second.in_steps_of(step_s).points}
    both = [at_s for at_s in sorted(one.keys() & other.keys()) if at_s >= 0]
    found = []
    for what, percent in (("ack p50 ms", 50.0), ("ack p99 ms", 99.0)):
        differences = [
            other[at_s].latencies["ack"].percentile_ms(percent) - one[at_s].latencies["ack"].percentile_ms(percent)
            for at_s in both
            if one[at_s].latencies["ack"] and other[at_s].latencies["ack"]
        ]
        if len(differences) >= 3:
            higher = sum(difference > 0 for difference in differences)
            found.append(PairedSeconds(what, len(differences), round(statistics.median(differences), 3), higher))
    return found


def _list_notes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What makes the two hard to compare."""
    notes = []
    for name in ("players", "seconds", "rate", "experience", "scenario", "mud"):
        before, after = first.get("options", {}).get(name), second.get("options", {}).get(name)
        if before != after:
            notes.append(f"{name} differs: {before} and {after}")
    machines = [document.get("run", {}).get("machine", {}) for document in (first, second)]
    if machines[0].get("cpu") != machines[1].get("cpu") or machines[0].get("cores") != machines[1].get("cores"):
        notes.append("the tool ran on different machines")
    for which, document in (("first", first), ("second", second)):
        late_ms = document["figures"].get("tool_late_p99_ms") or 0.0
        if late_ms > TOOL_LATE_MS:
            notes.append(
                f"the tool of the {which} run was late itself ({show_ms(late_ms)} at 99 %): its machine was busy"
            )
    return notes
