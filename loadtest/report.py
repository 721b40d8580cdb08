"""
What a load test has to say: latencies, rates, errors, as numbers and as lines.

Promise: latency counts from the moment an update was due, so that updates which waited for a slow gateway are slow
updates. Percentiles are of all updates, not of samples. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.history import PlayerHistory, Step


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took, over all who were asked."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "max_ms": round(self.max_ms, 3),
        }

    def __str__(self) -> str:
        if not self.count:
            return "none"
        return f"p50 {_ms(self.p50_ms)}  p99 {_ms(self.p99_ms)}  max {_ms(self.max_ms)}"


def measure(values_ms: Iterable[float]) -> Latency:
    ordered = sorted(values_ms)
    if not ordered:
        return Latency(0, 0.0, 0.0, 0.0)
    return Latency(len(ordered), percentile(ordered, 0.50), percentile(ordered, 0.99), ordered[-1])


def percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of all values does not exceed."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def _is_here(step: Step) -> bool:
    return not step.is_away


def ack_latency(histories: Iterable[PlayerHistory], when: Callable[[Step], bool] = _is_here) -> Latency:
    """From due to accepted (or answered as void). What a player made offline, by its own doing, is not counted."""
    return measure(
        step.accepted_ms - (step.scheduled_ms if step.scheduled_ms is not None else step.made_ms)
        for history in histories
        for step in history.steps
        if step.accepted_ms is not None and when(step)
    )


def ack_meanwhile(histories: Iterable[PlayerHistory], from_ms: float, until_ms: float | None) -> Latency:
    """Of updates that were due in between; `until_ms` None: from then on to the end."""
    end_ms = math.inf if until_ms is None else until_ms
    return ack_latency(histories, lambda step: from_ms <= step.due_ms < end_ms and not step.is_away)


def saved_latency(histories: Iterable[PlayerHistory], when: Callable[[Step], bool] = _is_here) -> Latency:
    """From due to saved."""
    return measure(
        step.saved_ms - (step.scheduled_ms if step.scheduled_ms is not None else step.made_ms)
        for history in histories
        for step in history.steps
        if step.saved_ms is not None and when(step)
    )


@dataclass(frozen=True, slots=True)
class FreezeReport:
    """What players felt while Postgres stood still, and how long the backlog took afterwards."""

    frozen_s: float
    ack: Latency
    saved_during: int
    accepted_caught_up_s: float | None  # None: never within the run
    saved_caught_up_s: float | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "frozen_s": self.frozen_s,
            "ack": self.ack.as_dict(),
            "saved_during": self.saved_during,
            "accepted_caught_up_s": self.accepted_caught_up_s,
            "saved_caught_up_s": self.saved_caught_up_s,
        }


def report_freeze(histories: Sequence[PlayerHistory], frozen_ms: float, thawed_ms: float) -> FreezeReport:
    """Look at the updates that were due between the two instants."""

    def was_due(step: Step) -> bool:
        due_ms = step.scheduled_ms if step.scheduled_ms is not None else step.made_ms
        return frozen_ms <= due_ms < thawed_ms and not step.is_away

    due = [step for history in histories for step in history.steps if was_due(step)]
    # Only of what was due meanwhile: of what was saved before, a player who was away may hear at any time.
    saved_during = sum(step.saved_ms is not None and step.saved_ms < thawed_ms for step in due)
    return FreezeReport(
        frozen_s=round((thawed_ms - frozen_ms) / 1000, 3),
        ack=ack_latency(histories, was_due),
        saved_during=saved_during,
        accepted_caught_up_s=_caught_up_s([step.accepted_ms for step in due], thawed_ms),
        saved_caught_up_s=_caught_up_s([step.saved_ms for step in due], thawed_ms),
    )


def _caught_up_s(answered_ms: Sequence[float | None], thawed_ms: float) -> float | None:
    last_ms = 0.0
    for at_ms in answered_ms:
        if at_ms is None:
            return None
        last_ms = max(last_ms, at_ms)
    return round(max(0.0, last_ms - thawed_ms) / 1000, 3)


def sum_counts(counts: Iterable[dict[Any, int]]) -> dict[Any, int]:
    """Counts by code or reason, of all players."""
    total: Counter[Any] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))


def show_counts(counts: dict[Any, int]) -> str:
    return "  ".join(f"{key}×{count}" for key, count in counts.items()) or "none"


def _ms(value_ms: float) -> str:
    if value_ms >= 10_000:
        return f"{value_ms / 1000:.1f} s"
    return f"{value_ms:.1f} ms" if value_ms < 100 else f"{value_ms:.0f} ms"
