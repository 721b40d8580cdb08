"""
The flusher: takes what players did from Redis to Postgres, in batches, behind the players' backs.

Promise: whatever was accepted gets one row, in its place, no matter after which line this process is killed. Redis lets
go of an entry when the transaction that holds it has been committed, never before, and a flush that is done twice
writes once. No hot copy is given up without proof that its history is another one, be Postgres ever so slow and the
flushers ever so many.

Not here: what one flush does (lane.py), what a snapshot means (plan.py), the transaction (write.py). When progress
falls due is decided where it becomes dirty (persistence.hot).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from persistence.cold.connect import is_broken
from persistence.flusher.lane import CLAIM_LEASE_S, TRANSACTION_TIMEOUT_S, FlushBounds, FlushReport, Lane, LaneShare
from persistence.flusher.levels import LevelRule
from persistence.flusher.write import pass_by
from persistence.hot.store import HotStore
from protocol.experience import ExperienceDefinition

__all__ = ["POLL_S", "STEPS", "TRANSACTION_TIMEOUT_S", "FlushBounds", "FlushReport", "Flusher"]

log = logging.getLogger("wayhold.flusher")

POLL_S = 0.1
"""How often due progress is looked for. Higher delays `durable`; lower costs a round trip to Redis each."""

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.2, 5.0

TAKE_OVER_S = 2.0
"""
How long a flusher that has just started looks past leases: what its predecessor had claimed should not wait for them.
"""

STEPS = (
    "claimed",
    "snapshot_taken",
    "locked",
    "progress_written",
    "events_written",
    "rollups_written",
    "written",
    "committed",
    "settled",
    "published",
)
"""What a flush does, in order. Dying after any of these loses nothing and doubles nothing."""


class Flusher:
    """
    One flusher; any number may run at once, against the same stores. `on_flush` is called after each commit, `at_step`
    between any two steps with the name of the one that was done: tests die there. The names are `STEPS`.

    `lanes`: how many transactions it works on at once when there is much to do; the first lane does the rest alone.
    """

    def __init__(
        self,
        hot: HotStore,
        database_url: str,
        *,
        bounds: FlushBounds | None = None,
        claim_lease_s: float = CLAIM_LEASE_S,
        on_flush: Callable[[FlushReport], None] | None = None,
        at_step: Callable[[str], None] = pass_by,
        levels: LevelRule | None = None,
        experiences: Mapping[str, ExperienceDefinition] | None = None,
        lanes: int = 1,
    ) -> None:
        self._hot = hot
        self._share = LaneShare(
            hot=hot,
            database_url=database_url,
            bounds=bounds or FlushBounds(),
            lease_s=claim_lease_s,
            on_flush=on_flush,
            at_step=at_step,
            levels=levels or LevelRule(),
            experiences=experiences or {},
        )
        self._lanes = [Lane(self._share) for _ in range(lanes)]
        self._is_busy = asyncio.Event()
        self.is_healthy = False
        """True while the last attempt worked."""
        self.failures = 0
        self.last_flush_at = 0.0
        """time.monotonic() of the last attempt that worked, with or without something to do."""

    async def run(self, stop: asyncio.Event, *, final_flush_s: float = 10.0) -> bool:
        """
        Flush what falls due until `stop`, then everything that is left, for at most `final_flush_s`.

        Returns whether nothing was left behind. What was left is safe in Redis and flushed by the next flusher.
        """
        helpers = [asyncio.create_task(self._help(lane, stop), name="flush, a lane more") for lane in self._lanes[1:]]
        try:
            await self._flush_until(stop)
            self._is_busy.set()
            await asyncio.gather(*helpers)
            return await self._flush_everything(final_flush_s)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self.close()

    async def flush_due(self, ahead_s: float = 0.0) -> int:
        """
        Claim what is due, write it, settle it, once on every lane. Returns how many progress were claimed.

        Whatever is raised, the claims are given back or lapse, and doing it again is harmless.
        """
        return await _add_up([lane.flush_due(ahead_s) for lane in self._lanes])

    async def close(self) -> None:
        """Bounded: a connection that does not close is dropped."""
        await asyncio.gather(*[lane.close() for lane in self._lanes])

    async def _flush_until(self, stop: asyncio.Event) -> None:
        first = self._lanes[0]
        backoff_s = BACKOFF_FIRST_S
        take_over_until = time.monotonic() + TAKE_OVER_S
        while not stop.is_set():
            try:
                # Harmless to others that run: what they hold locked is skipped, what they wrote is not written again.
                is_taking_over = time.monotonic() < take_over_until
                claim_max = self._share.claim_max
                claimed = await first.flush_due(self._share.lease_s - POLL_S if is_taking_over else 0.0)
            except Exception as error:
                self._note_failure(error, backoff_s)
                await _wait(stop, backoff_s * random.uniform(0.5, 1.0))
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                continue
            if not self.is_healthy:
                log.info("flush works", extra={"failures": self.failures})
            self.is_healthy = True
            self.last_flush_at = time.monotonic()
            backoff_s = BACKOFF_FIRST_S
            # Whoever looks past leases would take from the other lanes what they are at.
            if claimed >= claim_max and not is_taking_over:
                self._is_busy.set()
            elif not claimed:
                await _wait(stop, POLL_S)

    async def _help(self, lane: Lane, stop: asyncio.Event) -> None:
        """Flush beside the first lane while that one finds more than it can take at once."""
        while True:
            await self._is_busy.wait()
            if stop.is_set():
                return
            try:
                if await lane.flush_due():
                    continue
            except Exception as error:
                # The first lane will meet the same and back off.
                self._note_failure(error, 0.0)
            self._is_busy.clear()

    async def _flush_everything(self, deadline_s: float) -> bool:
        """The final flush: nothing waits for its interval any more. Bounded; False when the time ran out."""
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while True:
                    try:
                        # All lanes at first, none looking as far as the claims of the others reach; then one that
                        # looks past leases too: what a dead flusher had claimed is due for us.
                        if len(self._lanes) > 1 and await self.flush_due(self._share.lease_s / 2):
                            continue
                        claimed = await self._lanes[0].flush_due(self._share.lease_s + 3600.0)
                        if not claimed or not (await self._hot.count_pending()).updates:
                            return True
                    except Exception as error:
                        self._note_failure(error, BACKOFF_FIRST_S)
                        await asyncio.sleep(BACKOFF_FIRST_S)
        log.warning("the final flush ran out of time; what is left is kept in redis", extra={"deadline_s": deadline_s})
        return False

    def _note_failure(self, error: BaseException, backoff_s: float) -> None:
        """One line when it breaks, and then only about every tenth: an outage is not a flood of log lines."""
        self.failures += 1
        if self.is_healthy or self.failures % 10 == 1:
            level = logging.ERROR if is_broken(error) else logging.WARNING
            log.log(
                level,
                "flush failed, it is repeated",
                extra={"error": str(error) or type(error).__name__, "backoff_s": backoff_s},
            )
        self.is_healthy = False


async def _add_up(flushes: Sequence[Awaitable[int]]) -> int:
    """All of them come to their end, then the first failure is raised."""
    if len(flushes) == 1:
        return await flushes[0]
    outcomes = await asyncio.gather(*flushes, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return sum(outcome for outcome in outcomes if isinstance(outcome, int))


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
