"""
How long a client waits before it knocks again.

Full jitter: each wait is drawn evenly from nothing up to a bound that doubles with every failure. Thousands of
players lose the same node in the same second; anything less random brings them all back in the same second, too.

Promise: no wait is longer than `WAIT_MAX_MS` plus what the server itself asked for. Not here: when a connection
counts as healthy again, which is for the session machine to say.
"""

from __future__ import annotations

from random import Random

FIRST_WAIT_MS = 250
WAIT_MAX_MS = 30_000
# Past this many doublings the bound is `WAIT_MAX_MS` anyway; the count must not grow for as long as a phone lies in
# a drawer.
DOUBLINGS_MAX = 7

assert FIRST_WAIT_MS << DOUBLINGS_MAX >= WAIT_MAX_MS


class Backoff:
    """Draws the next wait; remembers only how often it was asked since the last reset."""

    __slots__ = ("_doublings", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._doublings = 0

    @property
    def bound_ms(self) -> int:
        """The longest wait that `next_wait_ms` can answer now."""
        return min(WAIT_MAX_MS, FIRST_WAIT_MS << self._doublings)

    def next_wait_ms(self, at_least_ms: int = 0) -> int:
        """
        Draw a wait and double the bound for the one after it.

        A server that named a time is obeyed: the wait is never shorter, and only a tenth longer, so that the clients
        it sent away do not come back as one wave.
        """
        bound_ms = self.bound_ms
        if self._doublings < DOUBLINGS_MAX:
            self._doublings += 1
        if at_least_ms > 0:
            return at_least_ms + int(self._random.random() * max(FIRST_WAIT_MS, at_least_ms // 10))
        return int(self._random.random() * bound_ms)

    def reset(self) -> None:
        """Forget the failures: the connection was healthy for long enough."""
        self._doublings = 0
