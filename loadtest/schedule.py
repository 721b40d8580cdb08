"""
The clock of one process of players: everything that is due, in order, when it is due, and nothing waits for a gateway.

Promise: what is due is done at its time or, when this process cannot keep up, as soon as it can, in order; how late
that was is told. A task for each player would cost ten times as much as this heap.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable

# So many at a stretch; then sockets are read again.
AT_ONCE_MAX = 200
# Things are done up to so much after they are due, never before. What the gateway is asked counts from when it was due.
TICK_MS = 1.0


def now_ms() -> float:
    return time.time() * 1000


class Schedule:
    """`clock_ms` is the wall clock, or a test's."""

    def __init__(self, clock_ms: Callable[[], float] = now_ms, tell_late_ms: Callable[[float], None] | None = None):
        self._clock_ms = clock_ms
        self._tell_late_ms = tell_late_ms
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_ms = 0.0
        self.turn_ms = 0.0  # the time when the turn began in which things are done now

    def now_ms(self) -> float:
        return self._clock_ms()

    def at(self, due_ms: float, what: Callable[[float], None]) -> None:
        """Call `what(due_ms)` when it is due; what has the same time is done in the order it was asked for."""
        self._count += 1
        heapq.heappush(self._heap, (due_ms, self._count, what))
        if self._loop is not None and (self._timer is None or due_ms < self._timer_ms):
            self._arm()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """From here on it runs by itself."""
        self._loop = loop
        self._arm()

    def stop(self) -> None:
        """Nothing is done any more."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop = None

    def run_due(self) -> int:
        """Do what is due, at most `AT_ONCE_MAX`; answers how many that were."""
        heap, tell, take = self._heap, self._tell_late_ms, heapq.heappop
        done = 0
        now = self.turn_ms = self._clock_ms()
        while heap and heap[0][0] <= now and done < AT_ONCE_MAX:
            due_ms, _, what = take(heap)
            if tell is not None:
                tell(now - due_ms)
            what(due_ms)
            done += 1
        return done

    def find_next_ms(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop is None or not self._heap:
            return
        self._timer_ms = self._heap[0][0]
        wait_ms = self._timer_ms - self._clock_ms()
        if wait_ms <= 0:
            self._timer = self._loop.call_soon(self._run)
        else:
            # Rounded up to what timers can tell. To be on time to the tenth of a millisecond, the loop would have to
            # turn and turn: with some thousand updates a second that was half of all the CPU of this tool.
            self._timer = self._loop.call_later(math.ceil(wait_ms / TICK_MS) * TICK_MS / 1000, self._run)

    def _run(self) -> None:
        self._timer = None
        loop, self._loop = self._loop, None  # what is done now must not arm the timer each time
        try:
            self.run_due()
        finally:
            if loop is not None:
                self._loop = loop
                self._arm()
