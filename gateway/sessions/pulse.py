"""
The pulse of a node: once a second who was heard, whether Redis is there, and whether it has forgotten something.

Promise: a connection that says nothing because its client was suspended does not lose its session to a Redis that
forgot. All others notice by their next heartbeat; a suspended client sends none, and the other nodes close what is
missing for as long as two heartbeats take. So the node looks on its behalf, as soon as its count of looks has gone
back.

Not here: what is done about it (recovery.py).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from gateway.telemetry.logs import get_logger
from persistence.errors import PersistenceError, StoreFull

if TYPE_CHECKING:
    from gateway.sessions.node import Node

BEAT_S = 1.0
MEMORY_LOOK_S = 5.0
"""How often Redis is asked how full it is: between two looks nobody fills what the high-water mark leaves free."""

log = get_logger("sessions")


class Pulse:
    """One per node. `run` never raises."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._beats = 0
        self._heard_since = node.clock()
        self._memory_due = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        # The first look comes at once: from then on a loss shows.
        while not stop.is_set():
            started = self._node.clock()
            try:
                await self.beat()
            except Exception as error:
                if not isinstance(error, PersistenceError):
                    log.error("pulse_failed", exc_info=True)
                self._node.health.note_redis(str(error), started)
            else:
                self._node.health.note_redis(None)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), BEAT_S)

    async def beat(self) -> None:
        """
        One look.

        Raises:
            PersistenceError: Redis did not answer. A Redis that is full does.
        """
        node, now = self._node, self._node.clock()
        with suppress(StoreFull):
            beats, known = await node.hot.beat(node.name), self._beats
            self._beats = beats
            if beats <= known:
                log.warning("redis_forgot", beats=beats, known=known)
                self._look_for_suspended()
                self._node.watch.bring_bans_back()
        heard: dict[str, list[tuple[str, int]]] = {}
        for connection in node.players.values():
            if connection.heard_at >= self._heard_since:
                heard.setdefault(connection.key.experience, []).append((connection.key.user_id, connection.number))
        self._heard_since = now
        await node.hot.note_active_players(heard)
        if now >= self._memory_due:
            self._memory_due = now + MEMORY_LOOK_S
            node.health.redis_share = await node.hot.find_memory_share()

    def _look_for_suspended(self) -> None:
        for connection in self._node.players.values():
            if connection.suspended_until:
                self._node.committer.enqueue(connection)
