"""A crowd is worked off over several turns of the event loop, in order, and whoever comes alone does not wait."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from gateway.sockets.play_server import LOSSES_PER_TURN
from gateway.sockets.turns import Turns
from tests.unit.sockets.socket_rig import DEADLINE_S, run_sockets


async def test_a_crowd_takes_several_turns_in_its_order() -> None:
    turns = Turns(3)
    done: list[int] = []
    after_each_turn: list[int] = []

    for number in range(8):
        if turns.may_go_on(done.append, number):
            done.append(number)
    while len(done) < 8:
        after_each_turn.append(len(done))
        await asyncio.sleep(0)

    assert done == list(range(8))
    assert after_each_turn == [3, 6]


async def test_who_comes_while_others_wait_comes_after_them() -> None:
    turns = Turns(1)
    done: list[str] = []

    assert turns.may_go_on(done.append, "first")
    assert not turns.may_go_on(done.append, "second")
    await asyncio.sleep(0)
    assert not turns.may_go_on(done.append, "third")
    assert done == ["second"]
    await asyncio.sleep(0)

    assert done == ["second", "third"]
    await asyncio.sleep(0)
    assert turns.may_go_on(done.append, "much later")


async def test_a_piece_that_fails_holds_up_nobody() -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    turns = Turns(1)
    done: list[int] = []

    def fail() -> None:
        raise ValueError("this piece")

    turns.may_go_on(done.append, 0)
    turns.may_go_on(fail)
    turns.may_go_on(done.append, 1)
    async with asyncio.timeout(DEADLINE_S):
        while not done:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0)

    assert done == [1]
    assert [str(error) for error in reported] == ["this piece"]


async def test_sockets_that_are_lost_at_once_are_all_told_to_their_sessions() -> None:
    """More than one turn takes: none is forgotten, and their places are free at once."""
    count = LOSSES_PER_TURN * 2 + 5
    async with run_sockets() as rig, AsyncExitStack() as sockets:
        for _ in range(count):
            await sockets.enter_async_context(rig.opened())

        rig.server.abort_all()
        await rig.left(0)
        assert all(echo.is_lost for echo in rig.echoes)
        for echo in rig.echoes:
            await echo.until(lambda echo: echo.is_disconnected)
        assert len(rig.echoes) == count
