"""
An operator emptied a node and thought better of it: the node took players again, and went on sending them away, at the
end of the window also those who had just come. If both words came at once, it said that it was ready and took nobody.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from gateway.sessions.connection import Phase
from gateway.sessions.drain import drain
from gateway.sessions.node import Node


class Player:
    def __init__(self) -> None:
        self.phase, self.queue, self.in_flight = Phase.PLAYING, [1], 1  # busy, so that it is not sent away at once
        self.told: asyncio.Event = asyncio.Event()
        self.ended = 0

    is_open = True

    def send(self, frame: dict[str, Any]) -> None:
        self.told.set()

    def end(self, code: int) -> None:
        self.ended += 1


async def test_nobody_is_sent_away_once_a_drain_was_taken_back() -> None:
    playing, coming = Player(), Player()
    node: Any = SimpleNamespace(
        connections={playing},
        is_draining=False,
        rules=SimpleNamespace(drain_s=10.0),
        clock=asyncio.get_running_loop().time,
    )
    draining = asyncio.create_task(drain(node, asyncio.Event()))
    await asyncio.wait_for(playing.told.wait(), 5)
    node.is_draining = False
    node.connections.add(coming)
    await asyncio.wait_for(draining, 5)
    assert (playing.ended, coming.ended) == (0, 0)


async def test_a_word_that_was_taken_back_while_it_was_noted_empties_nothing() -> None:
    noting, noted = asyncio.Event(), asyncio.Event()

    async def note_drained(node: str, is_on: bool) -> None:
        if is_on:
            noting.set()
            await noted.wait()

    node: Any = SimpleNamespace(
        name="a node",
        connections=set(),
        is_draining=False,
        _is_leaving=False,
        health=SimpleNamespace(is_draining=False),
        hot=SimpleNamespace(note_drained=note_drained),
        rules=SimpleNamespace(drain_s=10.0),
        clock=asyncio.get_running_loop().time,
    )
    emptied = asyncio.create_task(Node.drain_as_told(node, True))
    await asyncio.wait_for(noting.wait(), 5)
    await Node.drain_as_told(node, False)
    noted.set()
    await asyncio.wait_for(emptied, 5)
    assert (node.is_draining, node.health.is_draining) == (False, False)
