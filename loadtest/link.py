"""
The link of one player: what becomes of the bytes between its phone and the gateway.

Promise: bytes of one socket stay in their order and none is lost, unless the socket falls silent for good; a link that
nothing is wrong with costs nothing.

Not here: when something goes wrong (mud.py), the sockets themselves (transport.py).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadtest.transport import LeanSocket

# What waited out a tunnel is sent again by TCP a while after its end, not at once.
RETRANSMIT_S_MAX = 0.6


class Link:
    """`latency_ms` and `jitter_ms` are of one way; times are those of the loop's clock."""

    __slots__ = ("_random", "down_until_s", "is_hanging", "jitter_ms", "latency_ms", "sockets")

    def __init__(self, rng: random.Random, latency_ms: float = 0.0, jitter_ms: float = 0.0) -> None:
        self._random = rng
        self.latency_ms = latency_ms
        self.jitter_ms = jitter_ms
        self.down_until_s = 0.0
        self.is_hanging = False
        self.sockets: set[LeanSocket] = set()

    @property
    def is_clear(self) -> bool:
        return not self.latency_ms and not self.jitter_ms and not self.down_until_s

    def go_down(self, until_s: float, is_hanging: bool) -> None:
        """No network until then. New connections hang if `is_hanging` (a lift), else fail at once (flight mode)."""
        self.down_until_s = until_s
        self.is_hanging = is_hanging

    def come_up(self, is_forgotten: bool) -> None:
        """The network is back; `is_forgotten`: it knows the old sockets no more."""
        self.down_until_s = 0.0
        if is_forgotten:
            self.forget_sockets()

    def forget_sockets(self) -> None:
        for socket in list(self.sockets):
            socket.fall_silent()

    def find_arrival_s(self, now_s: float) -> float:
        """When bytes that leave now arrive at the other side."""
        way_s = (self.latency_ms + self._random.random() * self.jitter_ms) / 1000
        if now_s < self.down_until_s:
            return self.down_until_s + self._random.random() * RETRANSMIT_S_MAX + way_s
        return now_s + way_s

    async def find_way(self, timeout_s: float) -> None:
        """Return when a connection may be opened. Raises OSError while there is no network."""
        loop = asyncio.get_running_loop()
        down_s = self.down_until_s - loop.time()
        if down_s > 0:
            if self.is_hanging:
                await asyncio.sleep(min(down_s, timeout_s))
            if self.down_until_s > loop.time():
                raise OSError("this player has no network")
        if self.latency_ms:  # the handshake of TCP
            await asyncio.sleep(min(2 * self.latency_ms / 1000, timeout_s))


class Lane:
    """One direction of one socket: bytes on their way, in order."""

    __slots__ = ("_arrive", "_at_s", "_bytes", "_link", "_loop", "_timer", "after_last", "size_bytes")

    def __init__(self, loop: asyncio.AbstractEventLoop, link: Link, arrive: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._link = link
        self._arrive = arrive
        self._bytes: deque[tuple[float, bytes]] = deque()
        self._at_s = 0.0  # nothing overtakes what left before it
        self._timer: asyncio.TimerHandle | None = None
        self.size_bytes = 0
        self.after_last: Callable[[], None] | None = None

    def put(self, data: bytes) -> None:
        self._at_s = max(self._at_s, self._link.find_arrival_s(self._loop.time()))
        self._bytes.append((self._at_s, data))
        self.size_bytes += len(data)
        if self._timer is None:
            self._timer = self._loop.call_at(self._at_s, self._deliver)

    def clear(self) -> None:
        self._bytes.clear()
        self.size_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self) -> None:
        self._timer = None
        now_s = self._loop.time() + 0.0005  # a timer may fire a little early
        while self._bytes and self._bytes[0][0] <= now_s:
            _, data = self._bytes.popleft()
            self.size_bytes -= len(data)
            self._arrive(data)
        if self._bytes:
            if self._timer is None:
                self._timer = self._loop.call_at(self._bytes[0][0], self._deliver)
        elif self.after_last is not None:
            self.after_last()
