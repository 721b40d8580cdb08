"""
Figures of everything that runs: counters of processes turned into rates and percentiles, and the last 15 minutes.

Promise: pure. A process that starts again begins at 0 and never makes a rate negative; one that is gone keeps out.
Percentiles are those of the samples that fell between two looks, between the bounds of their buckets by rule of three.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.telemetry.metrics import WAITS

SERIES_S = 900.0
SAMPLE_S = 5.0
WINDOW_S = 10.0
"""What "now" means for rates and percentiles: long enough for a few samples."""

_COUNTERS = ("accepted", "void", "repeated", "resumes", "resyncs", "errors", "saved", "discards")
SERIES = (
    *("players_now", "connections", "sessions", "updates_per_s", "saved_per_s", "resumes_per_s"),
    *("ack_p50_ms", "ack_p99_ms", "saved_p50_ms", "saved_p99_ms", "flush_lag_s", "pending_updates"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What every process said at one time, by its name and process id."""

    at_s: float
    processes: Mapping[tuple[str, int], Mapping[str, Any]]


class Figures:
    """Keeps samples; `read` compares the newest with the one `WINDOW_S` before."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=64)
        self._series: deque[dict[str, Any]] = deque(maxlen=int(SERIES_S / SAMPLE_S))
        self._series_due = 0.0

    def add(self, sample: Sample) -> None:
        if self._samples and sample.at_s - self._samples[-1].at_s < 0.5:
            return
        self._samples.append(sample)
        if sample.at_s >= self._series_due and len(self._samples) > 1:
            self._series_due = sample.at_s + SAMPLE_S - 0.5
            self._series.append({"at": round(sample.at_s, 1), **self.read()})

    def read(self) -> dict[str, Any]:
        """The figures of now; what nobody knows is None."""
        if not self._samples:
            return dict.fromkeys(SERIES)
        newest = self._samples[-1]
        older = newest
        for sample in reversed(self._samples):
            older = sample
            if newest.at_s - sample.at_s >= WINDOW_S:
                break
        return compare(older, newest)

    def series(self) -> dict[str, list[Any]]:
        names = ("at", *SERIES)
        return {name: [point.get(name) for point in self._series] for name in names}


def compare(older: Sample, newest: Sample) -> dict[str, Any]:
    seconds = newest.at_s - older.at_s
    added = dict.fromkeys(_COUNTERS, 0)
    ack, saved = [0] * (len(WAITS) + 1), [0] * (len(WAITS) + 1)
    for key, now in newest.processes.items():
        before = older.processes.get(key, {})
        for name in _COUNTERS:
            added[name] += max(0, int(now.get(name) or 0) - int(before.get(name) or 0))
        _add_counts(ack, now.get("ack_waits"), before.get("ack_waits"))
        _add_counts(saved, now.get("saved_waits"), before.get("saved_waits"))
    everything = newest.processes.values()
    rate = {name: round(count / seconds, 2) if seconds > 0 else None for name, count in added.items()}
    return {
        "players_now": _sum(everything, "sessions"),
        "connections": _sum(everything, "connections"),
        "sessions": _sum(everything, "sessions"),
        "active_players_30m": _greatest(everything, "active_players"),
        "updates_per_s": rate["accepted"],
        "saved_per_s": rate["saved"],
        "void_per_s": rate["void"],
        "errors_per_s": rate["errors"],
        "resumes_per_s": rate["resumes"],
        "resyncs_per_s": rate["resyncs"],
        "ack_p50_ms": percentile_ms(ack, 0.5),
        "ack_p99_ms": percentile_ms(ack, 0.99),
        "saved_p50_ms": percentile_ms(saved, 0.5),
        "saved_p99_ms": percentile_ms(saved, 0.99),
        "flush_lag_s": _greatest(everything, "oldest_pending_s"),
        "pending_updates": _greatest(everything, "pending_updates"),
        "pending_bytes": _greatest(everything, "pending_bytes"),
        "dead_letters": _greatest(everything, "dead_letters"),
    }


def percentile_ms(counts: Sequence[int], share: float) -> float | None:
    """Of a distribution over `WAITS`; None without samples. Beyond the last bound it is the last bound."""
    total = sum(counts)
    if not total:
        return None
    wanted, seen = share * total, 0
    for index, count in enumerate(counts):
        if count and seen + count >= wanted:
            if index >= len(WAITS):
                break
            low = WAITS[index - 1] if index else 0.0
            return round(1000 * (low + (WAITS[index] - low) * (wanted - seen) / count), 2)
        seen += count
    return round(1000 * WAITS[-1], 2)


def _add_counts(into: list[int], now: Any, before: Any) -> None:
    if not isinstance(now, (list, tuple)) or len(now) != len(into):
        return
    earlier = before if isinstance(before, (list, tuple)) and len(before) == len(now) else [0] * len(now)
    for index, (new, old) in enumerate(zip(now, earlier, strict=True)):
        into[index] += max(0, int(new) - int(old))


def _sum(processes: Any, name: str) -> int | None:
    values = [found[name] for found in processes if found.get(name) is not None]
    return sum(values) if values else None


def _greatest(processes: Any, name: str) -> Any:
    """Of what every process sees whole."""
    values = [found[name] for found in processes if found.get(name) is not None]
    return max(values) if values else None
