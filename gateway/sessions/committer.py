"""
Group commit: updates of all connections on their way into the hot store, one call in flight.

Promise: what arrives while a call is under way goes with the next, so nobody awaits alone and a busy store is asked in
bigger helpings, not more often. A connection's updates go in order. An ack is sent after the store has answered, never
before. A call that got no answer is made again with the same updates: the store tells repeats by their number.

Not here: what a verdict means for a connection (verdicts.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from gateway.sessions.connection import Connection, Phase
from gateway.sessions.rules import OUTAGE_DEADLINE_S
from persistence.errors import StoreFull, StoreUnavailable
from persistence.hot.shapes import GroupVerdict, HotUpdate, UpdateGroup
from persistence.hot.store import HotStore

UPDATES_MAX = 128
OPS_MAX = 1_000
BYTES_MAX = 64 * 1024
GROUPS_MAX = 128
"""
Bounds of one call, so that Redis is never held for long. Groups count too: a heartbeat is a group without updates.
"""

SHARE_MAX = 32
"""Updates of one connection in one call while others wait: a long journal must not hold up a single step."""

_BACKOFF_S = (0.05, 1.0)


class Taken(NamedTuple):
    connection: Connection
    group: UpdateGroup


class Committer:
    """One per process; `run` is its only task."""

    def __init__(
        self,
        hot: HotStore,
        *,
        clock: Callable[[], float],
        on_verdict: Callable[[Connection, UpdateGroup, GroupVerdict], None],
        on_full: Callable[[Connection, UpdateGroup], None],
        on_outage: Callable[[Connection], None],
        on_fault: Callable[[Connection, BaseException], None],
    ) -> None:
        self._hot = hot
        self._clock = clock
        self._on_verdict = on_verdict
        self._on_full = on_full
        self._on_outage = on_outage
        self._on_fault = on_fault
        self._ready: deque[Connection] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._is_stopping = False
        self.failing_since: float | None = None
        self.calls = 0

    def enqueue(self, connection: Connection) -> None:
        """`connection` has updates, or wants a heartbeat."""
        if connection.is_ready:
            return
        connection.is_ready = True
        self._ready.append(connection)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def stop(self) -> None:
        """Return from `run` as soon as nothing waits."""
        self._is_stopping = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._ready:
                if self._is_stopping:
                    return
                self._wake = loop.create_future()
                await self._wake
                self._wake = None
            taken = self._take()
            if taken:
                await self._commit(taken)

    def _take(self) -> list[Taken]:
        """The next call: connections in the order they came, each with what fits."""
        ready = self._ready
        taken: list[Taken] = []
        updates_left, ops_left, bytes_left = UPDATES_MAX, OPS_MAX, BYTES_MAX
        share = UPDATES_MAX if len(ready) == 1 else SHARE_MAX
        for _ in range(min(len(ready), GROUPS_MAX)):
            if updates_left <= 0:
                break
            connection = ready.popleft()
            if connection.phase is not Phase.PLAYING:
                connection.is_ready = False
                continue
            queue = connection.queue
            count = 0
            for update in queue[: min(share, updates_left)]:
                ops = len(update.ops)
                # An operation repeats what the body holds; an update too big for any call goes alone.
                size = 2 * len(update.body)
                if (ops > ops_left or size > bytes_left) and (count or taken):
                    break
                ops_left -= ops
                bytes_left -= size
                count += 1
            if queue and not count:
                ready.appendleft(connection)
                break
            updates_left -= count
            taken.append(Taken(connection, _group(connection, count)))
            if connection.queue:
                ready.append(connection)
            else:
                connection.is_ready = False
        return taken

    async def _commit(self, taken: list[Taken]) -> None:
        backoff_s, backoff_max_s = _BACKOFF_S
        while taken:
            try:
                self.calls += 1
                verdicts = await self._hot.apply_updates([one.group for one in taken])
            except StoreUnavailable:
                taken = await self._outlast(taken, backoff_s)
                backoff_s = min(backoff_s * 2, backoff_max_s)
                continue
            except StoreFull:
                self.failing_since = None
                for connection, group in taken:
                    connection.in_flight = 0
                    self._guard(connection, self._on_full, connection, group)
                return
            except Exception as error:
                await self._isolate(taken, error)
                return
            self.failing_since = None
            for (connection, group), verdict in zip(taken, verdicts, strict=True):
                connection.in_flight = 0
                self._guard(connection, self._on_verdict, connection, group, verdict)
            return

    async def _outlast(self, taken: list[Taken], backoff_s: float) -> list[Taken]:
        """Wait a little before the same call is made again; returns those whose connection is still there."""
        now = self._clock()
        if self.failing_since is None:
            self.failing_since = now
        if now - self.failing_since > OUTAGE_DEADLINE_S or self._is_stopping:
            for connection, _ in taken:
                self._guard(connection, self._on_outage, connection)
            return []
        await asyncio.sleep(backoff_s)
        return [one for one in taken if one.connection.is_open]

    async def _isolate(self, taken: list[Taken], error: BaseException) -> None:
        """A fault of ours with one group must not cost the others anything: ask for each alone."""
        if len(taken) == 1:
            connection = taken[0].connection
            connection.in_flight = 0
            self._on_fault(connection, error)
            return
        for one in taken:
            await self._commit([one])

    def _guard(self, connection: Connection, call: Callable[..., None], *args: object) -> None:
        try:
            call(*args)
        except Exception as error:
            self._on_fault(connection, error)


def _group(connection: Connection, count: int) -> UpdateGroup:
    """The first `count` updates of a connection's queue, out of it and into a group."""
    updates: list[HotUpdate] = connection.queue[:count]
    durable = connection.is_durable
    if count == len(connection.queue):
        connection.queue = []
        connection.queue_bytes = 0
        connection.is_durable = False
    else:
        del connection.queue[:count]
        connection.queue_bytes -= sum(len(update.body) for update in updates)
    connection.in_flight = count
    connection.looked_at = connection.heard_at
    return UpdateGroup(
        connection.key,
        connection.session_id,
        connection.number,
        connection.copy,
        connection.device,
        connection.told,
        updates,
        durable,
    )
