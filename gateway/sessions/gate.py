"""
How much is done at once: a bounded number of holders, live players before new ones.

Promise: nobody waits behind somebody of lower rank who came later or earlier; within a rank the first comes first. A
waiter that is cancelled leaves no hole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Gate:
    """Like a semaphore of `width`, with two ranks of waiters."""

    def __init__(self, width: int) -> None:
        self._free = width
        self._live: deque[asyncio.Future[None]] = deque()
        self._new: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._live) + len(self._new)

    @asynccontextmanager
    async def hold(self, *, is_live: bool) -> AsyncIterator[None]:
        await self.enter(is_live=is_live)
        try:
            yield
        finally:
            self.leave()

    async def enter(self, *, is_live: bool) -> None:
        """For a place that outlasts whoever waits for it; `leave` must be called once for each that was entered."""
        waiters = self._live if is_live else self._new
        if self._free > 0 and not self._live and not waiters:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # Our turn came in the same moment: hand it on.
                self.leave()
            else:
                # It may have been passed over already, between its cancellation and this line.
                with suppress(ValueError):
                    waiters.remove(turn)
            raise

    def leave(self) -> None:
        self._free += 1
        self._wake()

    def _wake(self) -> None:
        while self._free > 0:
            waiters = self._live or self._new
            if not waiters:
                return
            turn = waiters.popleft()
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
