"""A hello that ran out of time at the gate ended as a fault of ours."""

from __future__ import annotations

import asyncio

import pytest

from gateway.sessions.gate import Gate


async def test_waiter_that_is_cancelled_as_the_gate_opens_is_cancelled_and_no_more() -> None:
    """
    Between a waiter's cancellation and its next step the gate opened and passed it over; it then looked for itself in
    the line and raised ValueError instead. The connection was logged as a fault, with a traceback.
    """
    gate = Gate(1)

    async def enter() -> None:
        async with gate.hold(is_live=False):
            pass

    async with gate.hold(is_live=False):
        waiter = asyncio.create_task(enter())
        await asyncio.sleep(0)
        assert gate.waiting == 1
        waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    async with asyncio.timeout(1):
        await enter()
