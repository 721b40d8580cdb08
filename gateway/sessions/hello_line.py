"""
Hellos that wait for a store, as little as possible of each.

A flow that waits is a task with everything it was doing: some 10 KB, where the session it is for will take 5. When a
crowd comes faster than it can be let in, thousands wait, and what they took stays with the process for good, because
the memory of sessions lies in between. So only as many flows as keep the stores busy are under way; the others have
ended, and what they knew of their hello goes on in a new one when a place is free.

Promise: first come, first served. A place is free again when its flow leaves it or ends, however it ends. Whoever waits
is told so by its own deadline, and nobody waits whose connection has ended.

Not here: players who are in (recovery.py); they never stand in this line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from gateway.sessions.connection import Connection, Phase


class Waiting(Protocol):
    """What is left of a flow that waits."""

    connection: Connection
    due: float
    """When it must have been answered, by the clock of the event loop."""

    def go_on(self) -> Coroutine[Any, Any, None]: ...


class HelloLine:
    """`width` flows have a place. `start_flow` starts the flow of a connection, as `Node.start_flow` does."""

    def __init__(self, width: int, start_flow: Callable[[Connection, Coroutine[Any, Any, None], str], None]) -> None:
        self._width = width
        self._start_flow = start_flow
        self._placed: set[asyncio.Task[Any]] = set()
        self._waiting: deque[Waiting] = deque()
        self._is_closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def enter(self, hello: Waiting) -> bool:
        """
        Whether the flow that asks may go on, now. If not it must end: `hello.go_on` will be called in a flow of its
        own, which has a place already.
        """
        task = asyncio.current_task()
        assert task is not None
        if task in self._placed:
            return True
        if not self._waiting and len(self._placed) < self._width:
            self._place(task)
            return True
        connection = hello.connection
        connection.task = None
        connection.wait_in_line(hello.due)
        self._waiting.append(hello)
        return False

    def leave(self) -> None:
        """The flow that asks needs its place no more."""
        task = asyncio.current_task()
        assert task is not None
        self._free(task)

    def close(self) -> None:
        """Nobody goes on from here. Their connections are ended by whoever ends all of them."""
        self._is_closed = True
        self._waiting.clear()

    def _place(self, task: asyncio.Task[Any]) -> None:
        self._placed.add(task)
        # Also for a flow that is cancelled before its first line has run.
        task.add_done_callback(self._free)

    def _free(self, task: asyncio.Task[Any]) -> None:
        self._placed.discard(task)
        while self._waiting and len(self._placed) < self._width:
            hello = self._waiting.popleft()
            connection = hello.connection
            if connection.phase is not Phase.OPENING or self._is_closed:
                continue  # it has gone, or was told that it took too long
            self._start_flow(connection, hello.go_on(), "hello")
            started = connection.task
            assert started is not None
            self._place(started)
