"""Players under uvloop ended when a deadline had passed before its timer was set."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from protocol.client.machine import SessionMachine
from protocol.client.player_client import PlayerClient


def test_timer_of_a_deadline_that_has_passed_can_be_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    For a time that is over uvloop's `call_at` answers a plain handle, not a timer. The next look at it asked for its
    time, which raised AttributeError and ended the client: a long upload to a slow gateway came to a stop like this.
    """

    async def set_twice() -> None:
        client = PlayerClient("ws://127.0.0.1:9/v1/play", "token", "wylding-woods")
        await client.start()
        try:
            now_ms = asyncio.get_running_loop().time() * 1000
            monkeypatch.setattr(SessionMachine, "find_next_tick_ms", lambda self: now_ms - 10)
            client._arm()
            client._arm()
        finally:
            monkeypatch.undo()
            await client.stop()

    uvloop.run(set_twice())
