"""
One report of several: of the shards of a test that ran on several machines, each with its part of the players.

Promise: counts add up, histograms add up (a percentile of the whole is not a mean of percentiles), seconds are matched
by the wall clock, which the machines must agree on. The whole is ok only if every part is. The same shard twice is
refused; a shard that is missing makes the verdict bad and is named.

Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.figures import FIGURES, complete, measure_latency
from loadtest.percentiles import Histogram
from loadtest.report_document import FORMAT, LATENCY_NAMES, SLOWEST_MAX, read_latencies
from loadtest.series import Point, Series, read_series
from loadtest.target import TargetRefused

SUMMED = (
    *("players", "offered", "accepted", "void", "saved", "unanswered", "dead_lettered", "lost", "duplicated"),
    *("reordered", "state_mismatches", "late_acks", "resumes", "closes", "errors"),
)
FINDINGS_MAX = 5000
AUDITED = (
    "offered",
    "accepted",
    "void",
    "saved",
    "dead_lettered",
    "lost",
    "duplicated",
    "reordered",
    "state_mismatches",
)


def merge(documents: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """
    `names`: what each document is called when it is complained about.

    Raises:
        TargetRefused: the same shard twice, shards of different tests, or a document that was damaged.
    """
    missing = _check_shards(documents, names)
    try:
        return _merge(documents, names, missing)
    except (KeyError, TypeError, ValueError) as fault:
        raise TargetRefused(f"a report is damaged: {type(fault).__name__}: {fault}") from fault


def _merge(documents: Sequence[Mapping[str, Any]], names: Sequence[str], missing: Sequence[str]) -> dict[str, Any]:
    latencies = {name: Histogram() for name in LATENCY_NAMES}
    for document in documents:
        for name, histogram in read_latencies(document).items():
            latencies[name].add(histogram)
    figures: dict[str, Any] = {name: _sum(document["figures"].get(name) for document in documents) for name in SUMMED}
    play_s = max(float(document.get("play_s", 0)) for document in documents)
    answered = (figures["accepted"] or 0) + (figures["void"] or 0)
    settled = [document["figures"].get("settled_s") for document in documents]
    series = _merge_series([read_series(document["series"]) for document in documents])
    connected = [point.states["connected"] for point in series.points if point.states and "connected" in point.states]
    figures |= {
        "accepted_per_s": round(answered / play_s, 3) if play_s else None,
        # One that never settled means that the whole never did.
        "settled_s": None if None in settled else max(settled),
        "connected_max": max(connected) if connected else None,
        **_weigh_costs(documents),
        **measure_latency("ack", latencies["ack"]),
        **measure_latency("saved", latencies["saved"]),
        **measure_latency("tool_late", latencies["tool_late"]),
    }
    reasons = [
        f"{name}: {reason}"
        for document, name in zip(documents, names, strict=True)
        for reason in document["verdict"]["reasons"]
    ]
    reasons += [f"shard {shard} is missing" for shard in missing]
    is_ok = not missing and all(document["verdict"]["ok"] for document in documents)
    first = documents[0]
    slowest = [one for document in documents for one in document["slowest"]]
    return {
        "format": FORMAT,
        "options": dict(first.get("options", {})),
        "play_s": play_s,
        "accepted_per_s": figures["accepted_per_s"],
        "welcomes": _add_counts(document.get("welcomes", {}) for document in documents),
        "resumes": figures["resumes"],
        "closes": _add_counts(document.get("closes", {}) for document in documents),
        "errors": _add_counts(document.get("errors", {}) for document in documents),
        "settled_s": figures["settled_s"],
        "audit": {"ok": is_ok, **{name: figures[name] for name in AUDITED}},
        "figures": complete({name: value for name, value in figures.items() if name in FIGURES}),
        "latencies": {name: histogram.encode() for name, histogram in latencies.items() if histogram},
        "series": series.as_dict(),
        "findings": [finding for document in documents for finding in document["findings"]][:FINDINGS_MAX],
        "slowest": sorted(slowest, key=lambda one: -float(one["ack_ms"]))[:SLOWEST_MAX],
        "run": {
            **{name: value for name, value in first.get("run", {}).items() if name not in ("shard", "cost")},
            "merged_of": list(names),
        },
        "verdict": {"ok": is_ok, "line": _last_line(figures, is_ok), "reasons": reasons, "thresholds": []},
    }


def _check_shards(documents: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Which shards are missing. Reports without a shard are taken as they are."""
    seen: dict[str, str] = {}
    of: set[int] = set()
    for document, name in zip(documents, names, strict=True):
        shard = document.get("run", {}).get("shard")
        if shard in (None, "", "1/1"):
            continue
        number, _, count = str(shard).partition("/")
        if not (number.isdigit() and count.isdigit()):
            raise TargetRefused(f"{name}: {shard!r} is no shard")
        if str(shard) in seen:
            raise TargetRefused(f"shard {shard} is there twice: {seen[str(shard)]} and {name}")
        seen[str(shard)] = name
        of.add(int(count))
    if len(of) > 1:
        raise TargetRefused(f"these are shards of different tests: of {' and of '.join(map(str, sorted(of)))}")
    return [f"{number}/{count}" for count in of for number in range(1, count + 1) if f"{number}/{count}" not in seen]


def _merge_series(parts: Sequence[Series]) -> Series:
    """By the wall clock. Players by state add up where several said so for the same second."""
    step_s = max(part.step_s for part in parts)
    start_ms = min(part.start_ms for part in parts)
    whole = Series(start_ms, step_s)
    points: dict[int, Point] = {}
    for part in parts:
        shift_s = round((part.start_ms - start_ms) / 1000)
        moved = Series(start_ms, part.step_s, [], part.marks)
        moved.points = [
            Point(point.at_s + shift_s, point.counts, point.states, point.latencies) for point in part.points
        ]
        for point in moved.in_steps_of(step_s).points:
            into = points.setdefault(point.at_s, Point(point.at_s))
            into.counts = dict(Counter(into.counts) + Counter(point.counts))
            if point.states is not None:
                states = into.states or {}
                into.states = {name: states.get(name, 0) + point.states.get(name, 0) for name in states | point.states}
            for name, histogram in point.latencies.items():
                into.latencies[name].add(histogram)
        whole.marks += part.marks
    whole.points = [points[at_s] for at_s in sorted(points)]
    whole.marks.sort(key=lambda mark: mark.at_ms)
    return whole.thinned()


def _weigh_costs(documents: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Costs for one update or player, by how many each part had."""
    found: dict[str, float | None] = {}
    for name, by in (("tool_cpu_us_per_update", "accepted"), ("tool_memory_kib_per_player", "players")):
        parts = [(document["figures"].get(name), document["figures"].get(by) or 0) for document in documents]
        weight = sum(count for value, count in parts if value is not None)
        found[name] = (
            round(sum(value * count for value, count in parts if value is not None) / weight, 3) if weight else None
        )
    return found


def _sum(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _add_counts(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update({str(key): int(value) for key, value in one.items()})
    return dict(sorted(total.items()))


def _last_line(figures: Mapping[str, Any], is_ok: bool) -> str:
    return f"audit: {'ok' if is_ok else 'FAILED'} " + " ".join(f"{name}={figures[name] or 0}" for name in AUDITED)
