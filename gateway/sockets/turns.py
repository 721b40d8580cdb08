"""
Work that comes in crowds, a bounded amount of it in each turn of the event loop.

Promise: when thousands of sockets come or go at once, the updates of those who play on are taken between two turns, and
not after all of the crowd. What is below the bound is done at once; the rest follows in the order that it came. A
socket waits with one piece of each kind, so no more waits than there are sockets, whose number is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Turns:
    """
    At most `per_turn` pieces of one kind of work in a turn of the running loop. What a piece raises is the loop's to
    report; the others go on.
    """

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._done = 0
        self._waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def may_go_on(self, later: Callable[..., None], *args: Any) -> bool:
        """Whether a piece may be done in this turn. If not, `later(*args)` is called in one of the next."""
        if self._waiting or self._done >= self._per_turn:
            self._waiting.append((later, args))
            return False
        if not self._done:
            asyncio.get_running_loop().call_soon(self._begin)
        self._done += 1
        return True

    def _begin(self) -> None:
        waiting = self._waiting
        self._done = 0
        if not waiting:
            return
        asyncio.get_running_loop().call_soon(self._begin)
        while waiting and self._done < self._per_turn:
            self._done += 1
            later, args = waiting.popleft()
            later(*args)
