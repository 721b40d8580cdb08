"""
Event retention: events of an experience that are older than its definition allows are removed, in slices.

Promise: nothing younger than the horizon is ever removed, and the horizon is written down before the first event goes,
so that whoever computes from events knows from when on they are whole. Totals and rollups keep what was removed. Of
several sweepers one works on an experience, by a lease in its row; dying between any two slices costs that slice.
Players do not notice: a slice is small, and after each there is a pause of several times its length.

Not here: what goes (the functions of the schema decide it, also for roles that may not delete), and for how long an
experience keeps its events (protocol.experience).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from persistence.cold.connect import POSTGRES_ERRORS, open_connection
from persistence.cold.queries import queries
from persistence.errors import StoreUnavailable

log = logging.getLogger("wayhold.retention")

ROUND_EVERY_S = 3600.0
"""How often it is looked whether the horizon moved. It does so once a day."""

SLICE_EVENTS_MAX = 2_000
LEASE_S = 60.0
PAUSE_MIN_S = 0.05
PAUSE_TIMES = 4.0
"""A slice is followed by a pause of so many times its length: a fifth of one connection at most."""

WINDOW_FIRST = timedelta(hours=1)
WINDOW_MIN = timedelta(seconds=1)
WINDOW_MAX = timedelta(days=7)
"""
The stretch of time that a slice looks at. It shrinks where events are dense, because each slice looks through the
whole of it, and grows where they are rare.
"""

# A sweeper must not lose its lease in the longest pause: a statement ends after 5 s at the latest.
assert LEASE_S > 5.0 * (1 + PAUSE_TIMES)


@dataclass(slots=True)
class RoundReport:
    """What one look at all experiences did."""

    removed: int = 0
    slices: int = 0
    dropped_partitions: int = 0
    busy: int = 0
    """Experiences that somebody else swept."""


class RetentionSweeper:
    """Sweeps for `days_by_experience`. `holder` tells sweepers apart: unique for each life of each process."""

    def __init__(
        self,
        database_url: str,
        days_by_experience: Mapping[str, int],
        *,
        holder: str,
        on_removed: Callable[[int], None] = lambda _count: None,
        slice_events_max: int = SLICE_EVENTS_MAX,
        pause_min_s: float = PAUSE_MIN_S,
    ) -> None:
        self._database_url = database_url
        self._days = dict(days_by_experience)
        self._holder = holder
        self._on_removed = on_removed
        self._slice_events_max = slice_events_max
        self._pause_min_s = pause_min_s
        self._sql = queries("retention")

    async def run(self, stop: asyncio.Event, *, first_after_s: float = 30.0) -> None:
        """A round every hour until `stop`. A round that fails is logged and goes on in the next."""
        await _wait(stop, random.uniform(0.5, 1.0) * first_after_s)
        while not stop.is_set():
            try:
                report = await self.sweep(stop)
                if report.removed or report.dropped_partitions:
                    log.info(
                        "old events removed",
                        extra={"events": report.removed, "partitions": report.dropped_partitions},
                    )
            except StoreUnavailable as error:
                log.warning("old events were not removed, next try in an hour", extra={"error": str(error)})
            except Exception:
                log.exception("old events were not removed for a reason that nobody foresaw, next try in an hour")
            await _wait(stop, random.uniform(0.8, 1.2) * ROUND_EVERY_S)

    async def sweep(self, stop: asyncio.Event | None = None) -> RoundReport:
        """
        One round over all experiences: everything that is too old by now, unless `stop` comes first.

        Raises:
            StoreUnavailable: Postgres did not answer or refused; the slices before stand.
        """
        stop = stop or asyncio.Event()
        report = RoundReport()
        if not self._days:
            return report
        try:
            connection = await open_connection(self._database_url, application_name="wayhold-retention")
            try:
                await connection.execute("SET lock_timeout = '2s'")
                for experience, days in sorted(self._days.items()):
                    await connection.fetchval(self._sql["move_event_horizon"], experience, days)
                # What goes as a whole need not go one by one.
                dropped = await connection.fetchval(self._sql["drop_old_event_partitions"])
                report.dropped_partitions = len(dropped)
                for experience in sorted(self._days):
                    await self._sweep_one(connection, experience, report, stop)
            finally:
                connection.terminate()
        except POSTGRES_ERRORS as error:
            raise StoreUnavailable("postgres", "remove_old_events", error or type(error).__name__) from error
        return report

    async def _sweep_one(self, connection: Any, experience: str, report: RoundReport, stop: asyncio.Event) -> None:
        row = await connection.fetchrow(self._sql["find_event_retention"], experience)
        swept_until, horizon, is_done = row["swept_until"], row["horizon"], row["is_done"]
        window = WINDOW_FIRST
        while not is_done and not stop.is_set():
            until = await self._window_end(connection, swept_until, horizon, window)
            began = time.monotonic()
            slice_ = await connection.fetchrow(
                self._sql["remove_old_events"], experience, until, self._slice_events_max, self._holder, LEASE_S
            )
            if slice_ is None:
                report.busy += 1
                return
            report.slices += 1
            report.removed += slice_["removed"]
            self._on_removed(slice_["removed"])
            swept_until, is_done = slice_["until"], slice_["is_done"]
            if slice_["removed"] >= self._slice_events_max:
                window = max(window / 2, WINDOW_MIN)
            elif slice_["removed"] < self._slice_events_max / 4:
                window = min(window * 2, WINDOW_MAX)
            if not is_done:
                await _wait(stop, max(self._pause_min_s, PAUSE_TIMES * (time.monotonic() - began)))

    async def _window_end(
        self, connection: Any, swept_until: datetime | None, horizon: datetime, window: timedelta
    ) -> datetime:
        if swept_until is None:
            # What lies before all months goes first; nothing should.
            oldest: datetime | None = await connection.fetchval(self._sql["oldest_event_month"])
            return horizon if oldest is None else min(oldest, horizon)
        return min(swept_until + window, horizon)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
