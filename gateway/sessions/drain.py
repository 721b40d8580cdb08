"""
Drain: this node goes away, its players move on.

Promise: every player is told first, leaves between two of its own steps and not in the middle of one, and comes back
elsewhere spread over the window. At the deadline whoever is left is cut off: nothing is lost by it, everything accepted
is in Redis. A second request makes it quick.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from gateway.sessions.connection import Connection, Phase
from protocol import frames
from protocol.closes import CloseCode

if TYPE_CHECKING:
    from gateway.sessions.node import Node

RATE_PER_S = 500
"""So many players a second find their way to another node without hurting those who play there."""

STEP_S = 0.05
BUSY_GRACE_S = 1.0
"""How long past its slot a connection may finish the updates it has sent."""


async def drain(node: Node, urgent: asyncio.Event) -> None:
    """
    Tell everybody, then close everybody within `drain_s`. Returns when all are closed, or when the node is not draining
    any more; `urgent` ends the waiting.
    """
    node.is_draining = True
    connections = [connection for connection in node.connections if connection.is_open]
    window_s = min(node.rules.drain_s, len(connections) / RATE_PER_S)
    started = node.clock()
    slots: list[tuple[float, Connection]] = []
    for connection in connections:
        slots.append((started + random.uniform(0, window_s), connection))
        if connection.phase is Phase.PLAYING or connection.phase is Phase.RECOVERING:
            connection.send(frames.drain(round(window_s * 1000)))
    slots.sort(key=lambda slot: slot[0])
    waiting = slots
    while waiting and not urgent.is_set():
        if not node.is_draining:
            return  # an operator has taken it back
        now = node.clock()
        busy = []
        for due, connection in waiting:
            if now < due or (_is_busy(connection) and now < due + BUSY_GRACE_S):
                busy.append((due, connection))
            else:
                connection.end(CloseCode.DRAINING)
        waiting = busy
        if waiting:
            try:
                await asyncio.wait_for(urgent.wait(), STEP_S)
            except TimeoutError:
                pass
    for connection in list(node.connections):
        connection.end(CloseCode.DRAINING)


def _is_busy(connection: Connection) -> bool:
    return bool(connection.queue) or connection.in_flight > 0 or connection.phase is Phase.LEAVING
