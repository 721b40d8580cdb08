"""
The log of connections that have ended: gathered here, written every few seconds, in one statement for all.

Promise: nobody waits for it. While Postgres is away the newest `KEPT_MAX` are kept, older ones are let go.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from gateway.telemetry.logs import get_logger
from persistence.connections import Connections, EndedConnection
from persistence.errors import PersistenceError
from protocol.closes import CloseCode

if TYPE_CHECKING:
    from gateway.sessions.connection import Connection
    from gateway.sessions.node import Node

WRITE_S = 5.0
WRITTEN_AT_ONCE = 100
"""In one statement: about 4 ms of this loop. After a crowd has gone a thousand kept those who played on for 45."""

KEPT_MAX = 20_000
TIDY_S = 3_600.0

log = get_logger("sessions")


class ConnectionLog:
    """One per node. `run` never raises."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._connections = Connections(node.cold)
        self._ended: deque[EndedConnection] = deque(maxlen=KEPT_MAX)
        self._tidy_due = node.clock() + random.uniform(0.01, 1.0) * TIDY_S

    def note(self, connection: Connection) -> None:
        """It was welcomed once, and has ended."""
        opened_ms, first = connection.welcomed
        if not opened_ms or connection.close_code == CloseCode.PLAYER_DELETED:
            return
        rtt_ms = connection.wire.find_rtt_ms()
        self._ended.append(
            EndedConnection(
                *(connection.key.user_id, connection.number, connection.key.experience, connection.session_id),
                *(connection.device, self._node.name[:120], opened_ms, max(opened_ms, self._node.now_ms())),
                *(connection.close_code or None, connection.welcome_as[0], max(0, connection.told - first)),
                rtt_ms if rtt_ms >= 0 else None,
            )
        )
        connection.welcomed = (0, 0)

    def forget_player(self, user_id: str) -> None:
        """Who was erased may start anew before the next write, and nothing from before may be written then."""
        kept = [ended for ended in self._ended if ended.user_id != user_id]
        if len(kept) < len(self._ended):
            self._ended.clear()
            self._ended.extend(kept)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), WRITE_S)
            try:
                await self.write()
                if self._node.clock() >= self._tidy_due:
                    self._tidy_due = self._node.clock() + TIDY_S
                    await self._connections.remove_old()
            except PersistenceError as error:
                log.debug("connections_not_logged", error=str(error))
            except Exception:
                log.error("connections_not_logged", exc_info=True)

    async def write(self) -> None:
        """Raises StoreUnavailable; what was not written is written the next time."""
        while self._ended:
            some = list(itertools.islice(self._ended, WRITTEN_AT_ONCE))
            await self._connections.add(some)
            # Meanwhile others may have pushed the oldest out.
            written = set(map(id, some))
            while self._ended and id(self._ended[0]) in written:
                self._ended.popleft()
