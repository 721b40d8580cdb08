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


class LoginLimits:
    """
    How often somebody may try to sign in.

    Guesses count for the address, and for the name at that address, so that nobody can lock an operator out from
    elsewhere. Guesses of one name from many addresses share a third limit; who has signed in from an address before is
    not held up by it there.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._by_address = Attempts(30, 4.0, clock)
        self._by_both = Attempts(8, 15.0, clock)
        self._by_name = Attempts(40, 15.0, clock)
        self._at_home: OrderedDict[tuple[str, str], None] = OrderedDict()

    def find_wait_s(self, address: str, name: str = "") -> float:
        """Take one attempt and return 0, or how long until there is one again."""
        wait_s = self._by_address.find_wait_s(address)
        # What is refused already is no guess, or a flood from one address would use up the limit of all.
        if name and not wait_s:
            wait_s = self._by_both.find_wait_s(f"{address} {name}")
            if not wait_s and (address, name) not in self._at_home:
                wait_s = self._by_name.find_wait_s(name)
        return wait_s

    def forgive(self, address: str, name: str) -> None:
        """Whoever got in has not been guessing, and is known there."""
        self._by_both.forgive(f"{address} {name}")
        self._at_home[address, name] = None
        self._at_home.move_to_end((address, name))
        while len(self._at_home) > NAMES_MAX:
            self._at_home.popitem(last=False)
