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

from gateway.sessions.connection import Connection, Phase
from gateway.sessions.latency import Latency
from gateway.sessions.rules import OUTAGE_DEADLINE_S
from persistence.errors import StoreFull, StoreUnavailable
from persistence.hot.known_fields import KnownFields
from persistence.hot.shapes import GroupVerdict, UpdateGroup
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
_PLAYING = Phase.PLAYING
_new_group = tuple.__new__


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
        latency: Latency | None = None,
        gather_s: float = 0.0,
    ) -> None:
        self._hot = hot
        self._clock = clock
        self._on_verdict = on_verdict
        self._on_full = on_full
        self._on_outage = on_outage
        self._on_fault = on_fault
        self._latency = latency
        self._gather_s = gather_s
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
            if self._gather_s and len(self._ready) < GROUPS_MAX and not self._is_stopping:
                await asyncio.sleep(self._gather_s)
            connections, groups = self._take()
            if groups:
                await self._commit(connections, groups)

    def _take(self) -> tuple[list[Connection], list[UpdateGroup]]:
        """The next call: connections in the order they came, each with what fits."""
        ready = self._ready
        connections: list[Connection] = []
        groups: list[UpdateGroup] = []
        updates_left, ops_left, bytes_left = UPDATES_MAX, OPS_MAX, BYTES_MAX
        share = UPDATES_MAX if len(ready) == 1 else SHARE_MAX
        for _ in range(min(len(ready), GROUPS_MAX)):
            if updates_left <= 0:
                break
            connection = ready.popleft()
            if connection.phase is not _PLAYING:
                connection.is_ready = False
                continue
            queue = connection.queue
            count = 0
            count_max = share if share < updates_left else updates_left
            for _, _, body, done, _ in queue:
                if count == count_max:
                    break
                ops = len(done)
                # An operation repeats what the body holds; an update too big for any call goes alone.
                size = 2 * len(body)
                if (ops > ops_left or size > bytes_left) and (count or groups):
                    break
                ops_left -= ops
                bytes_left -= size
                count += 1
            if queue and not count:
                ready.appendleft(connection)
                break
            updates_left -= count
            durable = connection.is_durable
            if count == len(queue):
                updates = queue
                connection.queue = []
                connection.queue_bytes = 0
                connection.is_durable = connection.is_ready = False
            else:
                updates = queue[:count]
                del queue[:count]
                connection.queue_bytes -= sum([len(update.body) for update in updates])
                ready.append(connection)
            connection.in_flight = count
            connection.looked_at = connection.heard_at
            connections.append(connection)
            known = connection.known
            if known is None and updates:
                known = connection.known = KnownFields()
            groups.append(_new_group(UpdateGroup, (connection.header, connection.told, updates, durable, known)))
        return connections, groups

    async def _commit(self, connections: list[Connection], groups: list[UpdateGroup]) -> None:
        backoff_s, backoff_max_s = _BACKOFF_S
        while groups:
            try:
                self.calls += 1
                verdicts = await self._hot.apply_updates(groups)
            except StoreUnavailable:
                connections, groups = await self._outlast(connections, groups, backoff_s)
                backoff_s = min(backoff_s * 2, backoff_max_s)
                continue
            except StoreFull:
                self.failing_since = None
                for connection, group in zip(connections, groups, strict=True):
                    connection.in_flight = 0
                    self._guard(connection, self._on_full, connection, group)
                return
            except Exception as error:
                await self._isolate(connections, groups, error)
                return
            self.failing_since = None
            if self._latency is not None and groups[0].updates:
                # The first in the call has waited longest. Without updates it was looked at, some time after its last
                # frame, and nobody waits for that.
                self._latency.note_answer(connections[0], verdicts[0].accepted, self._clock())
            on_verdict = self._on_verdict
            for connection, group, verdict in zip(connections, groups, verdicts, strict=True):
                connection.in_flight = 0
                try:
                    on_verdict(connection, group, verdict)
                except Exception as error:
                    self._on_fault(connection, error)
            return

    async def _outlast(
        self, connections: list[Connection], groups: list[UpdateGroup], backoff_s: float
    ) -> tuple[list[Connection], list[UpdateGroup]]:
        """Wait a little before the same call is made again; returns those whose connection is still there."""
        now = self._clock()
        if self.failing_since is None:
            self.failing_since = now
        if now - self.failing_since > OUTAGE_DEADLINE_S or self._is_stopping:
            for connection in connections:
                self._guard(connection, self._on_outage, connection)
            return [], []
        await asyncio.sleep(backoff_s)
        left = [pair for pair in zip(connections, groups, strict=True) if pair[0].is_open]
        return [connection for connection, _ in left], [group for _, group in left]

    async def _isolate(self, connections: list[Connection], groups: list[UpdateGroup], error: BaseException) -> None:
        """A fault of ours with one group must not cost the others anything: ask for each alone."""
        if len(groups) == 1:
            connections[0].in_flight = 0
            self._on_fault(connections[0], error)
            return
        for connection, group in zip(connections, groups, strict=True):
            await self._commit([connection], [group])

    def _guard(self, connection: Connection, call: Callable[..., None], *args: object) -> None:
        try:
            call(*args)
        except Exception as error:
            self._on_fault(connection, error)
