"""
How often somebody may try something: token buckets by name, in memory and bounded.

A restart forgets them, which gives a guesser one more burst; a shared store would make signing in depend on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

NAMES_MAX = 10_000


class Attempts:
    """`burst` at once, then one every `every_s`, for each name."""

    def __init__(self, burst: int, every_s: float, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._every_s = every_s
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def find_wait_s(self, name: str) -> float:
        """Take one attempt and return 0, or how long until there is one again."""
        now = self._clock()
        left, at = self._left.pop(name, (float(self._burst), now))
        left = min(float(self._burst), left + (now - at) / self._every_s)
        wait_s = 0.0
        if left >= 1:
            left -= 1
        else:
            wait_s = (1 - left) * self._every_s
        self._left[name] = (left, now)
        while len(self._left) > NAMES_MAX:
            self._left.popitem(last=False)
        return wait_s

    def forgive(self, name: str) -> None:
        """Whoever got in has not been guessing."""
        self._left.pop(name, None)
