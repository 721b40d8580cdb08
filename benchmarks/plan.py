"""
How long, how many, on which cores, and where progress is told: what every part is given.

A part is `async def run(plan: Plan) -> dict`: its `figures` are what bars are held against (bars.py), everything else
in it is for whoever wants to know how they came about. It raises when it cannot measure; the others go on.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.installation import Cores

MINUTES = 30.0
"""What all parts together take with windows as long as they should be."""


@dataclass
class Plan:
    cores: Cores = field(default_factory=Cores)
    minutes: float = MINUTES
    is_quick: bool = False
    """Everything once and tiny: shows that it works, measures nothing."""
    against: Path | None = None
    """Another tree of Wayhold, to be measured in turns with this one."""
    began: float = field(default_factory=time.monotonic)

    def seconds(self, usual: float) -> float:
        """The length of a window that is `usual` seconds long in a run of `MINUTES`."""
        return 1.0 if self.is_quick else max(2.0, usual * self.minutes / MINUTES)

    def settings(self, **values: Any) -> dict[str, Any]:
        """What a part changes of production's settings. A quick run saves soon, or it would only wait."""
        return {"flush_interval_s": 0.5, **values} if self.is_quick else values

    def rounds(self, usual: int) -> int:
        return 1 if self.is_quick else usual

    def players(self, usual: int) -> int:
        return max(10, usual // 50) if self.is_quick else usual

    def say(self, text: str) -> None:
        """One line of progress, on stderr: stdout is for the results."""
        print(f"[{time.monotonic() - self.began:6.0f} s] {text}", file=sys.stderr, flush=True)
