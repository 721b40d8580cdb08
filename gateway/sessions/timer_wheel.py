"""
One timer for all connections: deadlines of seconds, kept in buckets, looked at a few times a second.

A connection has many deadlines that move all the time (every frame moves the heartbeat). Moving a real timer on every
frame costs more than the frame, so a connection is only looked at when the earliest instant it once named comes; it
then says when to look again. So a deadline is noticed up to one tick late, never early.

Not here: what the deadlines are. Whoever is timed knows.
"""

from __future__ import annotations

from typing import Protocol

from gateway.telemetry.logs import get_logger

TICK_S = 0.25
"""Fine enough for a pong within a second, coarse enough that 20,000 idle connections cost nothing."""


log = get_logger("timers")


class Timed(Protocol):
    """Something with deadlines. One that fails at its own deadline is aborted: it would never be looked at again."""

    def on_timer(self, now: float) -> float | None:
        """Do what is due at `now`; returns when to look again, None for never."""
        ...

    def abort(self) -> None: ...


class TimerWheel:
    """Buckets of `Timed` by tick. Instants are the loop's clock, in seconds."""

    __slots__ = ("_buckets", "_next_tick")

    def __init__(self, now: float) -> None:
        self._buckets: dict[int, list[Timed]] = {}
        self._next_tick = int(now / TICK_S)

    def schedule(self, timed: Timed, due: float) -> None:
        """Look at `timed` at `due` or a little later. An entry from before stays: one look more is harmless."""
        tick = max(int(due / TICK_S) + 1, self._next_tick)
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [timed]
        else:
            bucket.append(timed)

    def turn(self, now: float) -> None:
        """Look at everybody whose instant has come. Called by one owner, a few times a second."""
        last_tick = int(now / TICK_S)
        while self._next_tick <= last_tick:
            tick = self._next_tick
            # First on, then the work: whoever schedules itself for the past comes with the next turn, not in this one.
            self._next_tick = tick + 1
            for timed in self._buckets.pop(tick, ()):
                try:
                    due = timed.on_timer(now)
                except Exception:
                    log.error("timer_fault", exc_info=True)
                    timed.abort()
                    continue
                if due is not None:
                    self.schedule(timed, due)
