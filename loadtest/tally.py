"""
What the players of one process did so far, and how long things took this second: the samples that a report is drawn
from, one JSON line a second.

Counts are since the start, histograms of the second that ended. `late` is how late this tool itself was: from when
something was due to when it was done. Not here: adding processes up (series.py), drawing (report.py).
"""

from __future__ import annotations

import json
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.percentiles import Histogram

STATES = ("playing", "suspended", "connecting", "offline", "stopped")
COUNTED = (
    "made",
    "refused",
    "accepted",
    "saved",
    "voids",
    "resumes",
    "welcomes",
    "connects_failed",
    "unmade",
    "mishaps",
    "watched",
    "watch_failures",
)


@dataclass(slots=True)
class Tally:
    """Of one process."""

    made: int = 0
    refused: int = 0
    accepted: int = 0
    saved: int = 0
    voids: int = 0
    resumes: int = 0
    welcomes: int = 0
    connects_failed: int = 0  # no WebSocket came of it: refused, no network, no answer in time
    unmade: int = 0  # lost with a phone's power before they were ever sent
    mishaps: int = 0
    watched: int = 0  # looks of operators at the live figures
    watch_failures: int = 0
    errors: dict[int, int] = field(default_factory=dict)
    closes: dict[int, int] = field(default_factory=dict)
    ack: Histogram = field(default_factory=Histogram)
    save: Histogram = field(default_factory=Histogram)
    late: Histogram = field(default_factory=Histogram)
    # Noting a latency must cost next to nothing; `fold` counts what was noted, many at a time.
    note_ack_ms: Callable[[float], None] = field(init=False)
    note_save_ms: Callable[[float], None] = field(init=False)
    note_late_ms: Callable[[float], None] = field(init=False)
    _noted: list[tuple[Histogram, array[float]]] = field(init=False)

    def __post_init__(self) -> None:
        self._noted = [(histogram, array("d")) for histogram in (self.ack, self.save, self.late)]
        self.note_ack_ms, self.note_save_ms, self.note_late_ms = [noted.append for _, noted in self._noted]

    def fold(self) -> None:
        """Put what was noted into the histograms. Called often, so that no call takes long."""
        for histogram, noted in self._noted:
            if noted:
                histogram.record_ms(noted)
                del noted[:]

    def note_error(self, code: int) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1

    def note_close(self, code: int) -> None:
        self.closes[code] = self.closes.get(code, 0) + 1

    def take_sample(self, at_ms: float, states: Iterable[str]) -> dict[str, Any]:
        """One line of a samples file; begins the next second."""
        self.fold()
        players = dict.fromkeys(STATES, 0)
        for state in states:
            players[state] += 1
        sample: dict[str, Any] = {"at_ms": round(at_ms, 1)}
        sample |= {name: getattr(self, name) for name in COUNTED}
        sample |= players
        sample["connected"] = players["playing"] + players["suspended"]
        sample["errors"] = dict(sorted(self.errors.items()))
        sample["closes"] = dict(sorted(self.closes.items()))
        for name, histogram in (("ack_hdr", self.ack), ("saved_hdr", self.save), ("late_hdr", self.late)):
            sample[name] = histogram.encode()
            histogram.clear()
        sample["cpu_s"] = round(time.process_time(), 4)
        sample["rss_bytes"] = find_memory_bytes()
        return sample


class SamplesWriter:
    """Appends samples to `samples-<i>.jsonl`; a line is whole or absent."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, sample: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(sample, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def find_memory_bytes() -> int:
    """
    Memory that this process takes from the machine: what it shares with others (libraries) counts by its part only,
    where the system says so.
    """
    try:
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return find_rss_bytes()


def find_rss_bytes(pid: int | str = "self") -> int:
    """Memory of a process that is in RAM now; of this one where others cannot be asked. 0 where nobody says."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        if pid != "self":
            return 0
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
