"""
Whether this node can be sent players: facts in, a status and its reasons out. Pure but for the clock it is given.

Promise: Postgres away is a reason but no refusal: warm players play on, and taking every node out of the balancer for
it
would drop them all. Redis away, draining, a stalled event loop and a full house are refusals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

REDIS_PATIENCE_S = 2.0
LAG_MAX_S = 0.25
LAG_REMEMBERED_S = 5.0
"""A loop that was stalled a moment ago will be again: one quiet tick proves nothing."""


@dataclass(frozen=True, slots=True)
class Readiness:
    is_ready: bool
    reasons: list[str]


class Health:
    """What is known about this process and its stores. Written by the services, read by the ops port."""

    def __init__(self, clock: Callable[[], float], redis_high_water_share: float = 0.8) -> None:
        self._clock = clock
        self._redis_high_water_share = redis_high_water_share
        self.redis_share = 0.0
        self.is_started = False
        self.is_draining = False
        self.is_full = False
        self.is_broken = False
        self.warnings: list[str] = []
        self.redis_error: str | None = None
        self.postgres_error: str | None = None
        self.lag_s = 0.0
        self._redis_failing_since: float | None = None
        self._lag_at = 0.0

    @property
    def is_redis_high(self) -> bool:
        """Redis has less free than the players that are in may need: no new sessions."""
        return self.redis_share >= self._redis_high_water_share

    def note_redis(self, error: str | None, asked_at: float | None = None) -> None:
        """The outcome of a call, made at `asked_at`, that any healthy Redis answers."""
        self.redis_error = error
        if error is None:
            self._redis_failing_since = None
        elif self._redis_failing_since is None:
            self._redis_failing_since = self._clock() if asked_at is None else asked_at

    def note_postgres(self, error: str | None) -> None:
        self.postgres_error = error

    def note_lag(self, lag_s: float) -> None:
        """How late the event loop came to something that was due."""
        now = self._clock()
        if lag_s >= self.lag_s or now - self._lag_at > LAG_REMEMBERED_S:
            self.lag_s = max(0.0, lag_s)
            self._lag_at = now

    def judge(self) -> Readiness:
        refusals = []
        if not self.is_started:
            refusals.append("starting")
        if self.is_draining:
            refusals.append("draining")
        if self.is_broken:
            refusals.append("a service of this process has ended")
        if self._redis_failing_since is not None and self._clock() - self._redis_failing_since > REDIS_PATIENCE_S:
            refusals.append(f"redis: {self.redis_error}")
        if self.is_redis_high:
            refusals.append(f"redis is {self.redis_share:.0%} full")
        if self.lag_s > LAG_MAX_S:
            refusals.append(f"event loop {self.lag_s * 1000:.0f} ms late")
        if self.is_full:
            refusals.append("connections at 95 % of connections_max")
        reasons = list(refusals)
        if self.postgres_error is not None:
            reasons.append(f"degraded: postgres: {self.postgres_error}")
        reasons.extend(f"warning: {warning}" for warning in self.warnings)
        return Readiness(not refusals, reasons)
