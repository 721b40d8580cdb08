"""
The watch of a node for what operators have decided about everybody: maintenance, and bans that a Redis has forgotten.

Promise: maintenance begins and ends on every node within seconds of its time, also on one that starts while Postgres is
away; players are told before. A ban holds although Redis forgot it: a cold hello reads it from Postgres, and all that
hold are brought back into Redis when the node's pulse notices the loss, at its start, and once in a while.

Not here: who decides (gateway.liveops.actions).
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

from gateway.sessions.connection import Phase
from gateway.sessions.faults import Goodbye
from gateway.telemetry.logs import get_logger
from persistence.actions.bans import Bans
from persistence.actions.maintenance import find_maintenance
from persistence.errors import PersistenceError, StoreUnavailable
from persistence.hot.control import Maintenance
from protocol.closes import CloseCode

if TYPE_CHECKING:
    from gateway.sessions.node import Node

LOOK_S = 2.0
BANS_BACK_S = 120.0
BANS_MAX = 100_000
RETRY_MS = (20_000, 40_000)
"""When somebody who was sent away for maintenance asks again."""

CLOSES_PER_S = 500
"""As a drain: so many at once hurt nobody else on the machine."""

log = get_logger("liveops")


class Watch:
    """One per node. `run` never raises."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._bans = Bans(node.cold)
        self._bans_due = 0.0
        self._maintenance: Maintenance | None = None

    @property
    def is_maintenance(self) -> bool:
        return self._maintenance is not None and self._maintenance.holds_at(self._node.now_ms())

    def refuse_in_maintenance(self) -> None:
        """Raises Goodbye while players are asked to wait."""
        if self.is_maintenance:
            raise self._goodbye()

    def bring_bans_back(self) -> None:
        """Redis has forgotten something: with the next look, all bans are noted there again."""
        self._bans_due = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.look()
                if self._node.clock() >= self._bans_due:
                    await self._note_all_bans()
                    # Jittered: many nodes need not do it in the same moment.
                    self._bans_due = self._node.clock() + BANS_BACK_S * random.uniform(0.7, 1.3)
            except PersistenceError as error:
                log.debug("watch_failed", error=str(error))
            except Exception:
                log.error("watch_failed", exc_info=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S * random.uniform(0.7, 1.3))

    async def look(self) -> None:
        """Ask what holds; send everybody away when maintenance has begun."""
        node = self._node
        try:
            found = await find_maintenance(node.cold)
        except StoreUnavailable:
            told = await node.hot.find_maintenance()
            if told is not None and (self._maintenance is None or told.asked_us > self._maintenance.asked_us):
                self._maintenance = told
        else:
            if found != self._maintenance:
                self._maintenance = found
                log.info("maintenance_changed", is_on=found is not None and found.is_on)
                if found is not None:
                    await node.hot.note_maintenance(found)
        if self.is_maintenance:
            await self._send_away()

    async def _send_away(self) -> None:
        """Between two of its own steps, where it can be had within a moment: what was accepted is in Redis."""
        playing = [c for c in self._node.players.values() if c.phase in (Phase.PLAYING, Phase.RECOVERING)]
        step = max(1, CLOSES_PER_S // 20)
        for first in range(0, len(playing), step):
            for connection in playing[first : first + step]:
                if connection.is_open:
                    self._node.fail(connection, self._goodbye())
            await asyncio.sleep(0.05)
            if not self.is_maintenance:
                return
        if playing:
            log.info("sent_away_for_maintenance", connections=len(playing))

    def _goodbye(self) -> Goodbye:
        message = self._maintenance.message if self._maintenance is not None else ""
        return Goodbye(CloseCode.UNAVAILABLE, random.randint(*RETRY_MS), message)

    async def _note_all_bans(self) -> None:
        noted = 0
        async for page in self._bans.list_all_that_hold():
            await self._node.hot.note_bans(page)
            noted += len(page)
            if noted >= BANS_MAX:
                log.error("too_many_bans", noted=noted)
                return
