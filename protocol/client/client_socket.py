"""
The socket of a client: opened, written without waiting, closed within a bound; and what comes out of it, decoded.

Not here: what is said (machine.py), when to open another (driver.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgpack
from pydantic_core import from_json
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed, InvalidState
from websockets.frames import CloseCode as SocketCloseCode
from websockets.protocol import State
from websockets.typing import Subprotocol

from protocol.client.session_memory import CLOSE_WAIT_MS
from protocol.codec import Codec
from protocol.errors import FrameError
from protocol.limits import DECODE_ARRAY_MAX, DECODE_MAP_MAX, FRAME_BYTES_MAX

# A welcome carries a whole state, a page of history a hundred events: larger than any frame a client may send.
SERVER_FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
WRITE_BUFFER_BYTES: Final = 64 * 1024


class PlayerSocket(Protocol):
    """
    What a client needs of a socket. `subprotocol`: what the server chose, None for none of ours. While it is `paused`
    it takes no more than what the machine bounds, and tells `on_writable` afterwards.
    """

    on_writable: Callable[[Any], None] | None

    @property
    def subprotocol(self) -> str | None: ...
    @property
    def paused(self) -> bool: ...

    def write(self, payload: str | bytes, is_text: bool) -> None:
        """Send one frame, without waiting. On a socket that is ending it goes nowhere."""
        ...

    async def read_all(self, receive: Callable[[str | bytes], None]) -> int | None:
        """Hand on every message until the end; answers the close code that came, None without one."""
        ...

    def hang_up(self, code: int) -> None:
        """Begin to close; `read_all` ends, at the latest after `CLOSE_WAIT_MS`."""
        ...

    def abort(self) -> None:
        """Cut it now, without a word. Twice is harmless."""
        ...


# (url, subprotocol, timeout_s, source address) → an open socket. Raises OSError, EOFError, ValueError or
# WebSocketException when there is none in time.
OpenSocket = Callable[[str, str, float, tuple[str, int] | None], Awaitable[PlayerSocket]]


async def open_client_socket(
    url: str, subprotocol: str, timeout_s: float, source_address: tuple[str, int] | None
) -> ClientSocket:
    """A socket of the `websockets` library."""
    connection = await connect(
        url,
        subprotocols=[Subprotocol(subprotocol)],
        compression=None,
        proxy=None,
        open_timeout=timeout_s,
        ping_interval=None,
        close_timeout=CLOSE_WAIT_MS / 1000,
        max_size=SERVER_FRAME_BYTES_MAX,
        write_limit=WRITE_BUFFER_BYTES,
        create_connection=ClientSocket,
        local_addr=source_address,
    )
    assert isinstance(connection, ClientSocket)
    return connection


class ClientSocket(ClientConnection):
    """
    A connection that tells its owner when it can be written again, and that does not wait for ever for the other
    side to close.
    """

    on_writable: Callable[[ClientSocket], None] | None = None
    _close_timer: asyncio.TimerHandle | None = None

    def write(self, payload: str | bytes, is_text: bool) -> None:
        # The one public way to write without waiting; the machine bounds how much that can be.
        broadcast((self,), payload, text=is_text)

    async def read_all(self, receive: Callable[[str | bytes], None]) -> int | None:
        try:
            while True:
                receive(await self.recv())
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else None

    def abort(self) -> None:
        self.transport.abort()

    def hang_up(self, code: int) -> None:
        """Begin to close; the reader sees the end, at the latest after `CLOSE_WAIT_MS`."""
        if self.protocol.state is State.OPEN:
            try:
                self.protocol.send_close(SocketCloseCode(code))
            except InvalidState:
                pass
            self.send_data()
        self._close_soon()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.protocol.state is not State.OPEN and self.protocol.state is not State.CONNECTING:
            self._close_soon()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        super().connection_lost(exc)

    def _close_soon(self) -> None:
        if self._close_timer is None and self.protocol.state is not State.CLOSED:
            self._close_timer = self.loop.call_later(CLOSE_WAIT_MS / 1000, self.transport.abort)


def decode_server_frame(codec: Codec, message: str | bytes) -> Any:
    """
    What the server sent, or None if it cannot be read: the machine knows what to do then.

    A frame from the server may be larger than one from a client (a welcome carries a whole state), so that the
    codec's own decoder, which is made for gateways, is only for those that it takes.
    """
    try:
        if len(message) <= FRAME_BYTES_MAX:
            return codec.decode(message)
        if codec.is_text or isinstance(message, str):
            return from_json(message, allow_inf_nan=False)
        return msgpack.unpackb(message, timestamp=0, max_array_len=DECODE_ARRAY_MAX, max_map_len=DECODE_MAP_MAX)
    except (FrameError, ValueError, OverflowError, TypeError, RecursionError, msgpack.UnpackException):
        return None
