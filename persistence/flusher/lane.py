"""
One lane of a flusher: a connection to Postgres and the work that goes over it, one transaction at a time.

While Postgres works for one lane, another one of the same process reads and parses: two lanes keep both busy. Lanes
share nothing but what they remember (`LaneShare`); to each other they are what two flushers are.

Not here: when to flush, what to do after a failure (flusher.py); what a snapshot means (plan.py); the statements
(write.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from persistence.cold.connect import POSTGRES_ERRORS, UNAVAILABLE_ERRORS, is_broken, is_refused, open_connection
from persistence.cold.migrate import ensure_event_partitions
from persistence.cold.queries import queries
from persistence.errors import PersistenceError, StoreUnavailable
from persistence.flusher.contents import ContentIds
from persistence.flusher.levels import LevelRule
from persistence.flusher.plan import Copy, parse_snapshot
from persistence.flusher.rollups import SHARDS
from persistence.flusher.scores import note_scores
from persistence.flusher.write import Bookkeeping, WriteReport, pass_by, write_copies
from persistence.hot.keys import PARTITIONS
from persistence.hot.shapes import SavedNotice, Snapshot
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey
from protocol.experience import ExperienceDefinition

log = logging.getLogger("wayhold.flusher")

TRANSACTION_TIMEOUT_S = 12.0
"""The longest a flush may take, all statements together; then its connection is thrown away."""

SNAPSHOT_STEP = 32
"""Progress read per round trip, so that the bounds of a batch are looked at between them."""

PARTITIONS_EVERY_S = 3600.0

ALONE_S = 10.0
"""How long progress go one by one after a failure that nobody foresaw: long enough to find the one that causes it."""

ALONE_FAILURES_MAX = 3
"""How often a progress may fail alone, for a reason that nobody foresaw, before it is put aside."""

FLUSH_FAILURES: tuple[type[BaseException], ...] = (PersistenceError, *POSTGRES_ERRORS)
"""What may happen to a flush without being our fault: it is repeated."""

# A lapsed claim means two flushers on the same progress: harmless, but wasted work. So a claim outlives any flush.
CLAIM_LEASE_S = 15.0
assert CLAIM_LEASE_S > TRANSACTION_TIMEOUT_S


@dataclass(slots=True)
class FlushReport:
    """
    One committed flush, for metrics and logs. `duration_s`: from the first snapshot to the commit; `write_s`: the part
    of it that Postgres had, from the first lock to the commit.
    """

    duration_s: float
    write_s: float
    progress: int
    updates: int
    dead_letters: int
    quarantined: int
    discards: int
    discarded_entries: int
    skipped: int


@dataclass(slots=True)
class FlushBounds:
    """How much goes into one transaction: the first bound that is reached closes the batch."""

    progress_max: int = 250
    entries_max: int = 5_000
    bytes_max: int = 8 << 20


@dataclass(slots=True)
class LaneShare:
    """What the lanes of one flusher have in common. `alone_until`: until then each progress goes by itself."""

    hot: HotStore
    database_url: str
    bounds: FlushBounds
    lease_s: float
    on_flush: Callable[[FlushReport], None] | None
    at_step: Callable[[str], None] = pass_by
    levels: LevelRule = field(default_factory=LevelRule)
    experiences: Mapping[str, ExperienceDefinition] = field(default_factory=dict)
    contents: ContentIds = field(default_factory=ContentIds)
    partitions_checked: float = 0.0
    alone_until: float = 0.0
    alone_failures: dict[ProgressKey, int] = field(default_factory=dict)

    @property
    def claim_max(self) -> int:
        return 1 if time.monotonic() < self.alone_until else self.bounds.progress_max


class Lane:
    """`flush_due` is for one task at a time."""

    def __init__(self, share: LaneShare) -> None:
        self._share = share
        self._hot = share.hot
        self._bounds = share.bounds
        self._at_step = share.at_step
        self._books = Bookkeeping(contents=share.contents, levels=share.levels, experiences=share.experiences)
        self._connection: Any = None

    async def flush_due(self, ahead_s: float = 0.0) -> int:
        """
        Claim what is due, write it, settle it. Returns how many progress were claimed.

        Whatever is raised, the claims are given back or lapse, and doing it again is harmless.
        """
        # The connection comes first: without Postgres nothing is claimed, and nothing waits for a lease afterwards.
        connection = await self._connect()
        try:
            await self._ensure_partitions(connection)
        except BaseException:
            self._disconnect()
            raise
        share = self._share
        if time.monotonic() >= share.alone_until:
            share.alone_failures.clear()
        claimed = await self._hot.claim_due(share.claim_max, share.lease_s, random.randrange(PARTITIONS), ahead_s)
        left = claimed
        self._at_step("claimed")
        try:
            while left:
                left = await self._flush_batch(connection, left)
        except BaseException as error:
            # Whatever was under way there is rolled back; its outcome is found out by the next snapshot.
            self._disconnect()
            is_ours = isinstance(error, Exception) and not isinstance(error, FLUSH_FAILURES)
            with suppress(PersistenceError):
                if is_ours and len(left) == 1 and self._failed_alone(left[0]):
                    await self._set_aside(left[0], error)
                    return 1
                await self._hot.release_claims(left)
            if is_ours:
                # A fault of ours with one progress must not stop the others: from now on each goes alone.
                log.exception("flush failed for a reason that nobody foresaw; progress go one by one for a while")
                share.alone_until = time.monotonic() + ALONE_S
            raise
        return len(claimed)

    async def _flush_batch(self, connection: Any, claimed: list[ProgressKey]) -> list[ProgressKey]:
        """One transaction with as many of the claimed progress as its bounds take; returns those that are left."""
        started = time.monotonic()
        copies: list[Copy] = []
        entries = size = taken = 0
        absent: list[ProgressKey] = []
        unreadable: list[tuple[Snapshot, Exception]] = []
        async with asyncio.timeout(TRANSACTION_TIMEOUT_S):
            async with connection.transaction():
                await connection.execute("SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '5s'")
                # Snapshots are taken inside the transaction and die with it: an old one must never be written later.
                while taken < len(claimed) and entries < self._bounds.entries_max and size < self._bounds.bytes_max:
                    step = await self._next_step(claimed[taken : taken + SNAPSHOT_STEP], entries, size)
                    if not step:
                        break
                    taken += len(step)
                    found = {snapshot.key: snapshot for snapshot in await self._hot.snapshot(step)}
                    for key in step:
                        if key not in found:
                            absent.append(key)
                            continue
                        try:
                            copy = parse_snapshot(found[key])
                        except (ValueError, KeyError) as error:
                            unreadable.append((found[key], error))
                            continue
                        copies.append(copy)
                        entries += len(copy.entries)
                        size += copy.entries_bytes
                self._at_step("snapshot_taken")
                read = time.monotonic()
                report = await write_copies(connection, copies, self._at_step, self._books)
                self._at_step("written")
            committed = time.monotonic()
            self._books.contents.remember(report.contents)
            self._at_step("committed")
            await self._settle(report, absent, started, (committed - started, committed - read), len(copies))
            for snapshot, fault in unreadable:
                base_version = snapshot.head.base_version
                copy_name = snapshot.hash[b"copy"].decode()
                await self._quarantine(snapshot.key, copy_name, base_version + 1, "", f"unreadable: {fault!r}")
        return claimed[taken:]

    async def _next_step(self, progress: list[ProgressKey], entries: int, size: int) -> list[ProgressKey]:
        """Those among the next that still fit beside what was taken; a first one is always taken, however large."""
        fitting = 0
        for more_entries, more_bytes in await self._hot.list_pending_sizes(progress):
            is_first = not entries and not fitting
            entries += more_entries
            size += more_bytes
            if (entries > self._bounds.entries_max or size > self._bounds.bytes_max) and not is_first:
                break
            fitting += 1
        return progress[:fitting]

    async def _settle(
        self, report: WriteReport, absent: list[ProgressKey], began: float, took_s: tuple[float, float], copies: int
    ) -> None:
        """
        Postgres has it: tell Redis, then the gateways. Everything here may be lost and is done again by the next
        flush.
        """
        outcomes = await self._hot.settle([write.settlement() for write in report.written])
        self._at_step("settled")
        notices: dict[str, list[SavedNotice]] = {}
        for write, outcome in zip(report.written, outcomes, strict=True):
            if outcome.is_settled and outcome.node:
                notices.setdefault(outcome.node, []).append(SavedNotice(write.key, write.version, write.streams))
        await self._hot.publish_saved(notices)
        self._at_step("published")
        await note_scores(self._hot, report.written, began)

        discards = discarded = 0
        for copy, row in report.unmatched:
            # This snapshot is of no use, which proves nothing about the copy: Redis repeats the match on what is
            # there now.
            is_thrown, thrown = await self._hot.discard_if_diverged(copy.key, row.version, row.last_entry)
            if is_thrown:
                discards, discarded = discards + 1, discarded + thrown
                log.warning(
                    "a diverged hot copy was thrown away", extra={"progress": copy.key.member, "entries": thrown}
                )
        for copy, row in report.beyond:
            is_thrown, thrown = await self._hot.discard_if_base(copy.key, copy.base_version, copy.base_id)
            if is_thrown:
                discards, discarded = discards + 1, discarded + thrown
                log.error(
                    "postgres lost commits: a hot copy was thrown away",
                    extra={
                        "progress": copy.key.member,
                        "base": copy.base_version,
                        "postgres": row.version,
                        "entries": thrown,
                    },
                )
        for copy in report.gone:
            # Erased: its row is gone, so nothing of it may be written ever again.
            await self._hot.discard_if_base(copy.key, copy.base_version, copy.base_id)
            await self._hot.forget(copy.key)
            # Whose it was is not said: an erased player's id must not come back in a log.
            log.warning("a hot copy without a row was dropped", extra={"experience": copy.key.experience})
        for key in absent:
            await self._hot.forget(key)
        for refused in report.refused:
            write = refused.write
            await self._quarantine(write.key, write.copy, write.version, write.last_entry, refused.reason)
        if report.dead_letters:
            log.error("events in dead_letters", extra={"count": report.dead_letters})
        if self._share.on_flush is not None:
            done = (
                len(report.written)
                + len(report.refused)
                + len(report.unmatched)
                + len(report.beyond)
                + len(report.gone)
            )
            self._share.on_flush(
                FlushReport(
                    duration_s=took_s[0],
                    write_s=took_s[1],
                    progress=len(report.written),
                    updates=report.updates,
                    dead_letters=report.dead_letters,
                    quarantined=len(report.refused),
                    discards=discards,
                    discarded_entries=discarded,
                    skipped=copies - done,
                )
            )

    def _failed_alone(self, key: ProgressKey) -> bool:
        """Whether this progress, alone in its flush, has now failed often enough that chance is no explanation."""
        failures = self._share.alone_failures[key] = self._share.alone_failures.get(key, 0) + 1
        return failures >= ALONE_FAILURES_MAX

    async def _set_aside(self, key: ProgressKey, error: BaseException) -> None:
        """One progress alone makes us fail: quarantine it, so that an operator sees it and everybody else plays on."""
        log.error("a progress cannot be flushed", extra={"progress": key.member}, exc_info=error)
        progress = await self._hot.find_progress(key)
        if progress is not None:
            reason = f"not flushable: {error!r}"
            await self._quarantine(key, progress.copy, progress.base_version + 1, "", reason)

    async def _quarantine(self, key: ProgressKey, copy: str, version: int, entry_id: str, reason: str) -> None:
        """What was refused must still be pending: somebody else may have been allowed to write it meanwhile."""
        if await self._hot.quarantine(key, copy, version, entry_id, reason[:500]):
            log.error("progress in quarantine", extra={"progress": key.member, "reason": reason[:500]})

    async def _connect(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await open_connection(self._share.database_url, application_name="wayhold-flusher")
            # With more flushers than shards two share one, and wait for each other now and then.
            shard = await self._connection.fetchval(queries("flush")["find_shard"])
            self._books.shard = random.randrange(SHARDS) if shard is None else shard
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Bounded: a connection that does not close is dropped."""
        if self._connection is not None:
            with suppress(*UNAVAILABLE_ERRORS):
                await self._connection.close(timeout=2.0)
            self._disconnect()

    async def _ensure_partitions(self, connection: Any) -> None:
        if time.monotonic() - self._share.partitions_checked < PARTITIONS_EVERY_S and self._share.partitions_checked:
            return
        try:
            await ensure_event_partitions(connection)
        except asyncpg.PostgresError as error:
            if is_broken(error):
                raise StoreUnavailable("postgres", "ensure_event_partitions", error) from error
            if not is_refused(error):
                raise
            # Events of a month lie in the default partition already (somebody's clock was wrong): so will the others.
            log.error("a partition of events cannot be made", extra={"error": str(error)})
        self._share.partitions_checked = time.monotonic()
