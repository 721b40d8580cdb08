"""
The listener for players: owns the listening socket, every player socket and the caps on them.

Promise: `stop_listening` lets nobody in any more; `abort_all` ends every socket at once, read or not. A peer that
vanished without a word is noticed by the kernel (TCP_USER_TIMEOUT), not only by heartbeats.

Not here: how players are asked to leave first (gateway.sessions.drain).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.sessions.connection import Connection, Wire
from gateway.sessions.timer_wheel import TimerWheel
from gateway.sockets.admission import Admission
from gateway.sockets.handshake import Origins
from gateway.sockets.player_socket import PlayerSocket
from gateway.sockets.turns import Turns
from protocol.codec import Codec

HANDSHAKES_PER_TURN = 8
"""How many handshakes are worked on in one turn of the event loop: about 2 ms (turns.py says why)."""

LOSSES_PER_TURN = 64
"""How many lost sockets are told to their sessions in one turn: about 1 ms. 4,000 in one kept it for 80."""

TCP_USER_TIMEOUT_MS = 15_000
"""
How long sent bytes may stay unacknowledged. Shorter than two heartbeats, long enough for a lift ride of a tunnel's
length.
"""


@dataclass(frozen=True, slots=True)
class PlaySettings:
    """What the sockets need to know; see the settings table for what each does."""

    hello_timeout_s: float = 10.0
    connections_max: int = 20_000
    connections_per_address_max: int = 1000
    handshakes_per_s: float = 300.0
    out_queue_bytes_max: int = 1 << 20
    origins: str = ""


class PlayServer:
    """One per process. `connect` makes the session's side of a socket that finished its handshake."""

    def __init__(
        self,
        settings: PlaySettings,
        *,
        wheel: TimerWheel,
        connect: Callable[[Wire, Codec], Connection],
        clock: Callable[[], float],
    ) -> None:
        self.wheel = wheel
        self.clock = clock
        self.connect = connect
        self.hello_timeout_s = settings.hello_timeout_s
        self.out_queue_bytes_max = settings.out_queue_bytes_max
        self.origins = Origins.parse(settings.origins)
        self.admission = Admission(
            connections_max=settings.connections_max,
            connections_per_address_max=settings.connections_per_address_max,
            handshakes_per_s=settings.handshakes_per_s,
            clock=clock,
        )
        self.refused = 0  # handshakes answered 503
        self._sockets: set[PlayerSocket] = set()
        self._empty: asyncio.Event | None = None
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handshakes = Turns(HANDSHAKES_PER_TURN)
        self._losses = Turns(LOSSES_PER_TURN)

    async def start(self, listener: socket.socket) -> None:
        """Serve a bound socket; it may be listening already, and stays usable for whoever handed it over."""
        set_socket_options(listener)
        self._loop = loop = asyncio.get_running_loop()
        if listener.family == getattr(socket, "AF_UNIX", None):
            self._server = await loop.create_unix_server(lambda: PlayerSocket(self), sock=listener, backlog=4096)
        else:
            self._server = await loop.create_server(lambda: PlayerSocket(self), sock=listener, backlog=4096)

    def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def wait_empty(self, timeout_s: float) -> None:
        """Until every socket has ended by itself, or the time is up."""
        if not self._sockets:
            return
        self._empty = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            pass

    def abort_all(self) -> int:
        """End every socket without asking; returns how many there were. Their sessions live on in Redis."""
        sockets = list(self._sockets)
        for player_socket in sockets:
            player_socket.abort()
        return len(sockets)

    # ── for PlayerSocket ────────────────────────────────────────────────────────────────────────────────────────────

    def enter(self, player_socket: PlayerSocket) -> bool:
        self._sockets.add(player_socket)
        return self.admission.enter(player_socket.address)

    def leave(self, player_socket: PlayerSocket) -> None:
        self._sockets.discard(player_socket)
        if self._empty is not None and not self._sockets:
            self._empty.set()
        self.admission.leave(player_socket.address)

    def may_shake_hands(self, player_socket: PlayerSocket, data: bytes) -> bool:
        """
        Whether a handshake may be worked on in this turn of the event loop. If not, `take_handshake` is called with
        `data` in one of the next; the socket reads nothing until then.
        """
        return self._handshakes.may_go_on(player_socket.take_handshake, data)

    def lose(self, connection: Connection) -> None:
        """Its socket is gone. It has ended at once; what is known of it is forgotten when its turn has come."""
        connection.on_lost()
        if self._losses.may_go_on(connection.on_disconnected):
            connection.on_disconnected()

    def find_refusal(self, address: str) -> str | None:
        reason = self.admission.find_refusal(address)
        if reason is not None:
            self.refused += 1
        return reason

    def call_soon(self, callback: Callable[..., Any]) -> None:
        assert self._loop is not None
        self._loop.call_soon(callback)


def set_socket_options(listener: socket.socket) -> None:
    """Accepted sockets inherit these. Not every kernel has them; without, a dead peer is found by its heartbeats."""
    listener.setblocking(False)
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, TCP_USER_TIMEOUT_MS)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
