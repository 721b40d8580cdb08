"""
How much somebody may do: a bucket of tokens that fills at a steady rate. Pure: the clock is an argument.
"""

from __future__ import annotations


class TokenBucket:
    """
    `burst` at once, `rate_per_s` in the long run. A single big helping may overdraw it; the debt is then waited for.
    """

    __slots__ = ("_at", "_burst", "_rate_per_s", "_tokens")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, cost: float, now: float) -> bool:
        """Take `cost` if anything is left (a batch may cost more than is left, or it could never be sent at all)."""
        tokens = self._tokens + (now - self._at) * self._rate_per_s
        self._at = now
        if tokens > self._burst:
            tokens = self._burst
        if tokens < 1:
            self._tokens = tokens
            return False
        self._tokens = tokens - cost
        return True

    def wait_s(self) -> float:
        """How long until something can be taken again, as of the last `take`."""
        return max(0.0, (1 - self._tokens) / self._rate_per_s)
