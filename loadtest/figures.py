"""
The figures of a run: one number under one name, for reports, thresholds and comparisons.

Owns the vocabulary. `FIGURES` names every figure once, with its unit and which way is better; what was not measured
has the value None. Latencies count from the moment an update was due.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from loadtest.percentiles import Histogram

# A tool that is later than this at 99 % has a part in the latencies that it measures.
TOOL_LATE_MS = 20.0

PERCENTS = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}


@dataclass(frozen=True, slots=True)
class Figure:
    """`better`: -1 less is better, 1 more is better, 0 it depends (more players are not a worse run)."""

    name: str
    what: str
    better: int = -1


def _latency_figures(name: str, what: str) -> tuple[Figure, ...]:
    return (
        *(Figure(f"{name}_{part}_ms", f"{what}: {percent:g} % are not slower") for part, percent in PERCENTS.items()),
        Figure(f"{name}_max_ms", f"{what}: the slowest"),
        Figure(f"{name}_mean_ms", f"{what}: the mean"),
    )


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure("players", "simulated players", 0),
        Figure("offered", "updates that were due", 0),
        Figure("accepted", "updates that took effect", 0),
        Figure("void", "updates that were refused and used up", 0),
        Figure("saved", "accepted updates that are stored", 0),
        Figure("unanswered", "made updates without an answer"),
        Figure("dead_lettered", "accepted updates that Postgres refused"),
        Figure("lost", "accepted updates that are not stored"),
        Figure("duplicated", "rows too many"),
        Figure("reordered", "rows out of order"),
        Figure("state_mismatches", "anything else stored wrongly"),
        Figure("late_acks", "answers that were held back (`--late-ack-ms`)"),
        Figure("accepted_per_s", "answered updates per second of play", 1),
        *_latency_figures("ack", "from due to answered"),
        *_latency_figures("saved", "from due to saved"),
        *_latency_figures("tool_late", "how late the tool itself made updates"),
        Figure("settled_s", "until everything was saved, after the last update was due"),
        Figure("resumes", "sessions resumed after a lost connection", 0),
        Figure("closes", "connections that were closed"),
        Figure("errors", "error frames"),
        Figure("connected_max", "players connected at once, at most", 0),
        Figure("playing_min", "players that played at once while all should, at least", 1),
        Figure("commits", "transactions that Postgres committed"),
        Figure("accepted_per_commit", "answered updates for each of them", 1),
        Figure("tool_cpu_us_per_update", "CPU of the tool for one update"),
        Figure("gateway_cpu_us_per_update", "CPU of the gateways for one update, where they are on this machine"),
        Figure("tool_memory_kib_per_player", "memory of the tool for one player"),
    )
}


def find_near(name: str) -> str | None:
    """The figure that somebody may have meant."""
    near = get_close_matches(name, FIGURES, 1, 0.6)
    return near[0] if near else None


def measure_latency(name: str, histogram: Histogram) -> dict[str, float | None]:
    """The figures of one latency; all None without a value."""
    if not histogram:
        return {
            **{f"{name}_{part}_ms": None for part in PERCENTS},
            f"{name}_max_ms": None,
            f"{name}_mean_ms": None,
        }
    values = histogram.percentiles_us(PERCENTS.values())
    return {
        **{f"{name}_{part}_ms": round(value / 1000, 3) for part, value in zip(PERCENTS, values, strict=True)},
        f"{name}_max_ms": round(histogram.max_us / 1000, 3),
        f"{name}_mean_ms": round(histogram.mean_us / 1000, 3),
    }


def complete(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Every figure in the order of the table. Raises KeyError for a name that is not in it."""
    unknown = figures.keys() - FIGURES.keys()
    if unknown:
        raise KeyError(f"not in the table of figures: {', '.join(sorted(unknown))}")
    return {name: figures.get(name) for name in FIGURES}


def show(name: str, value: float | int | None) -> str:
    """A figure as people read it."""
    if value is None:
        return "–"
    if name.endswith("_ms"):
        return show_ms(float(value))
    if name.endswith("_s"):
        return f"{value:,.1f}" if name.endswith("_per_s") else f"{value:,.1f} s"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def show_ms(value_ms: float) -> str:
    if abs(value_ms) >= 1000:
        return f"{value_ms / 1000:,.1f} s" if abs(value_ms) >= 10_000 else f"{value_ms / 1000:.2f} s"
    return f"{value_ms:,.0f} ms" if abs(value_ms) >= 100 else f"{value_ms:.1f} ms"
