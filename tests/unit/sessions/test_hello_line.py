"""Who waits for Postgres waits without a task: who goes on when, and what becomes of places and of those who left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from gateway.sessions.connection import Connection, Phase
from gateway.sessions.hello_line import HelloLine


class Knock:
    """A connection with the fields that the line looks at."""

    def __init__(self) -> None:
        self.phase = Phase.OPENING
        self.task: asyncio.Task[None] | None = None
        self.due = 0.0

    def wait_in_line(self, due: float) -> None:
        self.due = due


class House:
    """Flows that enter, stay until they are let go, and tell who was in."""

    def __init__(self, width: int) -> None:
        self.line = HelloLine(width, self.start)
        self.inside: dict[int, asyncio.Event] = {}
        self.were_in: list[int] = []

    def start(self, connection: Connection, flow: Coroutine[Any, Any, None], name: str) -> None:
        connection.task = asyncio.get_running_loop().create_task(flow, name=name)

    async def knock(self, count: int) -> list[Hello]:
        hellos = [Hello(self, number) for number in range(count)]
        for hello in hellos:
            self.start(hello.connection, hello.go_on(), "hello")
        await until(lambda: len(self.inside) + self.line.waiting == count)
        return hellos


class Hello:
    def __init__(self, house: House, number: int) -> None:
        self.house = house
        self.number = number
        self.due = 100.0 + number
        self.connection = cast(Connection, Knock())
        self.leaves = False

    async def go_on(self) -> None:
        if not self.house.line.enter(self):
            return
        self.house.were_in.append(self.number)
        event = self.house.inside[self.number] = asyncio.Event()
        try:
            await event.wait()
            if self.leaves:
                self.house.line.leave()
                await asyncio.Event().wait()
        finally:
            self.house.inside.pop(self.number, None)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 - turns of the loop are what is waited for
            await asyncio.sleep(0)


async def test_who_waits_has_no_task_and_a_deadline_and_goes_on_first_come_first_served() -> None:
    house = House(2)
    hellos = await house.knock(6)
    assert house.were_in == [0, 1] and house.line.waiting == 4
    await until(lambda: len(asyncio.all_tasks()) == 3)  # the test and those who are in
    assert [hello.connection.task for hello in hellos[2:]] == [None] * 4
    assert [cast(Any, hello.connection).due for hello in hellos] == [0, 0, 102, 103, 104, 105]
    for number in range(6):
        await until(lambda number=number: number in house.inside)  # type: ignore[misc]
        house.inside[number].set()
    await until(lambda: not house.inside)
    assert house.were_in == [0, 1, 2, 3, 4, 5] and not house.line.waiting


async def test_a_place_is_free_when_its_flow_leaves_it_fails_or_is_cancelled_before_it_began() -> None:
    house = House(1)
    hellos = await house.knock(5)
    hellos[0].leaves = True
    house.inside[0].set()
    await until(lambda: 1 in house.inside)
    task = hellos[1].connection.task
    assert task is not None
    task.cancel()
    await until(lambda: hellos[2].connection.task is not None)
    started = hellos[2].connection.task
    assert started is not None and house.were_in == [0, 1]
    started.cancel()  # it never runs its first line
    await until(lambda: 3 in house.inside)
    assert house.were_in == [0, 1, 3]
    house.line.close()
    for hello in hellos:
        if hello.connection.task is not None:
            hello.connection.task.cancel()


async def test_nobody_waits_for_a_connection_that_has_ended_nor_for_a_line_that_was_closed() -> None:
    house = House(1)
    hellos = await house.knock(5)
    hellos[1].connection.phase = hellos[2].connection.phase = Phase.ENDED
    house.inside[0].set()
    await until(lambda: 3 in house.inside)
    assert house.were_in == [0, 3] and house.line.waiting == 1
    house.line.close()
    house.inside[3].set()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert house.were_in == [0, 3]
