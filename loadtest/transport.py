"""
The sockets of simulated players: a WebSocket client of a few hundred bytes, whose bytes pass through the player's link
(link.py) and may be late, wait out a tunnel, or vanish there.

It speaks what the protocol needs: the opening handshake, whole and fragmented messages, pings, closes. Thousands of
players share a process with it, so it keeps nothing of the handshake and hands messages on without a task of its own.

Promise: bytes that arrive are in order and complete, or the socket ends; a socket that was cut is closed for the
gateway, too, at the latest after `LINGER_S`.

Not here: what is said (protocol.client), what the link does (link.py, mud.py).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
import struct
from collections.abc import Callable
from typing import Final, cast
from urllib.parse import urlsplit

from loadtest.link import Lane, Link
from protocol.client.player_client import SERVER_FRAME_BYTES_MAX

HANDSHAKE_BYTES_MAX: Final = 16 * 1024
CLOSE_WAIT_S: Final = 2.0
# A socket that the network forgot is open at the gateway until its own heartbeat ends it; no longer than this here.
LINGER_S: Final = 60.0
LANE_BYTES_MAX: Final = 64 * 1024

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
# A client must mask; nothing that other people wrote is sent through caches here, so the mask may be zeros, which cost
# nothing. A gateway unmasks them all the same.
_MASK: Final = bytes(4)
_SMALL_HEADS: Final = tuple(bytes((0x82, 0x80 | size)) + _MASK for size in range(126))
_pack_head: Final = struct.Struct(">HHI").pack


async def open_socket(
    url: str, subprotocol: str, timeout_s: float, source_address: tuple[str, int] | None, link: Link | None = None
) -> LeanSocket:
    """An open socket. Raises OSError (also for what is no WebSocket server's answer) and TimeoutError."""
    loop = asyncio.get_running_loop()
    if link is not None:
        await link.find_way(timeout_s)
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "wss"
    port = parts.port or (443 if is_tls else 80)
    async with asyncio.timeout(timeout_s):
        transport, socket = await loop.create_connection(
            lambda: LeanSocket(loop, link),
            host,
            port,
            ssl=_tls_context() if is_tls else None,
            local_addr=source_address,
        )
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            await socket.shake_hands(f"{host}:{port}", path, subprotocol)
        except BaseException:
            transport.abort()
            raise
    return socket


class LeanSocket(asyncio.Protocol):
    """Implements `PlayerSocket` of protocol.client."""

    __slots__ = (
        "_close_timer",
        "_code",
        "_ended",
        "_fragments",
        "_in",
        "_is_paused",
        "_is_void",
        "_key",
        "_link",
        "_loop",
        "_opened",
        "_out",
        "_receive",
        "_rest",
        "_transport",
        "on_writable",
        "subprotocol",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, link: Link | None) -> None:
        self._loop = loop
        self._link = link
        self._transport: asyncio.Transport | None = None
        self._opened: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[int | None] | None = None
        self._receive: Callable[[str | bytes], None] | None = None
        self._rest = b""
        self._key = b""
        self._fragments: list[bytes] | None = None
        self._code: int | None = None
        self._is_paused = False
        self._is_void = False
        self._close_timer: asyncio.TimerHandle | None = None
        self._in: Lane | None = None
        self._out: Lane | None = None
        self.subprotocol: str | None = None
        self.on_writable: Callable[[LeanSocket], None] | None = None

    # --- what a client asks of it ------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        return self._is_paused or (self._out is not None and self._out.size_bytes > LANE_BYTES_MAX)

    async def shake_hands(self, host: str, path: str, subprotocol: str) -> None:
        """Raises OSError when the other side does not become a WebSocket."""
        self._key = base64.b64encode(os.urandom(16))
        self._opened = self._loop.create_future()
        self._write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {self._key.decode()}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n".encode()
        )
        try:
            await self._opened
        finally:
            self._opened = None

    async def read_all(self, receive: Callable[[str | bytes], None]) -> int | None:
        self._receive = receive
        self._ended = self._loop.create_future()
        if self._rest:
            self._take(b"")
        if self._transport is None:
            self._end()
        return await self._ended

    def write(self, payload: str | bytes, is_text: bool) -> None:
        if isinstance(payload, str):
            payload = payload.encode()
        frame = _frame(_TEXT, payload) if is_text else _frame_binary(payload)
        if self._link is not None:
            self._write(frame)
        elif self._transport is not None and not self._is_void:
            self._transport.write(frame)

    def hang_up(self, code: int) -> None:
        if self._transport is not None and self._close_timer is None and not self._transport.is_closing():
            self._write(_frame(_CLOSE, code.to_bytes(2, "big")))
            self._close_soon()

    def abort(self) -> None:
        self._end()
        transport = self._transport
        if transport is None:
            return
        if self._is_void:
            # The gateway does not hear of it either; it finds out by itself, or by the player's next connection.
            if self._close_timer is None:
                self._close_timer = self._loop.call_later(LINGER_S, transport.abort)
        else:
            transport.abort()

    # --- what the network does to it ---------------------------------------------------------------------------------

    def fall_silent(self) -> None:
        """From now on nothing arrives on either side, and neither is told."""
        self._is_void = True
        for lane in (self._in, self._out):
            if lane is not None:
                lane.clear()

    # --- what asyncio tells ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by descent
        if self._link is not None:
            self._link.sockets.add(self)

    def data_received(self, data: bytes) -> None:
        if self._link is None and self._receive is not None and not self._rest:
            size = len(data) - 2
            if 0 <= size < 126 and data[0] == 0x82 and data[1] == size:  # one whole small message: nearly always
                try:
                    self._receive(data[2:])
                except BaseException as fault:
                    self._fail(fault)
                return
        if self._is_void:
            return
        link = self._link
        if link is not None and (not link.is_clear or self._in is not None):
            if self._in is None:
                self._in = Lane(self._loop, link, self._take)
            self._in.put(data)
            return
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._link is not None:
            self._link.sockets.discard(self)
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        if self._is_void:
            return  # the player cannot see this; the client's own heartbeat ends it
        if self._in is not None and self._in.size_bytes:
            self._in.after_last = self._end
        else:
            self._end()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self.on_writable is not None:
            self.on_writable(self)

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        link = self._link
        if self._transport is None or self._is_void:
            return
        if link is None or (link.is_clear and self._out is None):
            self._transport.write(data)
            return
        if self._out is None:
            self._out = Lane(self._loop, link, self._write_through)
        self._out.put(data)

    def _write_through(self, data: bytes) -> None:
        if self._transport is not None and not self._is_void:
            self._transport.write(data)
            if self.on_writable is not None and self._out is not None and not self._out.size_bytes:
                self.on_writable(self)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Bytes that have arrived."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        try:
            if self._opened is not None:
                if self._opened.done():
                    self._rest = data
                else:
                    self._take_handshake(data)
                return
            if self._receive is None:
                self._rest = data
                return
            self._take_frames(data)
        except BaseException as fault:
            self._fail(fault)

    def _take_frames(self, data: bytes) -> None:
        at, size = 0, len(data)
        while size - at >= 2:
            head, length, start = data[at], data[at + 1], at + 2
            if length >= 126:
                wide = 2 if length == 126 else 8
                if length > 127 or size - start < wide:
                    break
                length = int.from_bytes(data[start : start + wide], "big")
                start += wide
            if length > SERVER_FRAME_BYTES_MAX:
                raise ConnectionError(f"a frame of {length} bytes")
            if size - start < length:
                break
            at = start + length
            if head == 0x82:
                assert self._receive is not None
                self._receive(data[start:at])
            else:
                self._take_rare(head, data[start:at])
            if self._ended is None or self._ended.done():
                return  # it was ended by what it heard
        self._rest = data[at:]

    def _take_rare(self, head: int, payload: bytes) -> None:
        """Everything but a whole binary message."""
        opcode, is_last = head & 0x0F, bool(head & 0x80)
        if opcode == _PING:
            self._write(_frame(_PONG, payload))
        elif opcode == _CLOSE:
            self._code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None
            if self._close_timer is None and self._transport is not None:
                self._write(_frame(_CLOSE, payload[:2]))
                self._close_soon()
        elif opcode in (_TEXT, _BINARY, 0):
            if opcode:
                self._fragments = [payload] if opcode == _BINARY else [b"text", payload]
            elif self._fragments is None:
                raise ConnectionError("a fragment without a first one")
            else:
                self._fragments.append(payload)
            if is_last and self._receive is not None:
                parts, self._fragments = self._fragments, None
                assert parts is not None
                is_text = parts[0] == b"text" and len(parts) > 1
                self._receive(b"".join(parts[1:]).decode() if is_text else b"".join(parts))

    def _take_handshake(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > HANDSHAKE_BYTES_MAX:
                raise ConnectionError("no end of the answer to the handshake")
            self._rest = data
            return
        status, _, rest = data[:end].partition(b"\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in rest.split(b"\r\n"))
        }
        proof = base64.b64encode(hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest())
        if status.split(b" ")[1:2] != [b"101"] or headers.get(b"sec-websocket-accept") != proof:
            raise ConnectionRefusedError(f"no WebSocket there: {status[:100].decode(errors='replace')}")
        chosen = headers.get(b"sec-websocket-protocol")
        self.subprotocol = chosen.decode() if chosen else None
        self._key = b""
        self._rest = data[end + 4 :]
        assert self._opened is not None
        self._opened.set_result(None)

    # --- ending ------------------------------------------------------------------------------------------------------

    def _fail(self, fault: BaseException) -> None:
        for waiting in (self._opened, self._ended):
            if waiting is not None and not waiting.done():
                waiting.set_exception(fault) if not isinstance(fault, ConnectionError) or waiting is self._opened else (
                    waiting.set_result(None)
                )
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        self._receive = None
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(ConnectionResetError("the connection ended during the handshake"))
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(self._code)

    def _close_soon(self) -> None:
        assert self._transport is not None
        self._close_timer = self._loop.call_later(CLOSE_WAIT_S, self._transport.abort)


def _frame_binary(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return _SMALL_HEADS[size] + payload
    if size < 65536:
        return _pack_head(0x82FE, size, 0) + payload
    return _frame(_BINARY, payload)


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size)) + _MASK + payload
    if size < 65536:
        return bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big") + _MASK + payload
    return bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big") + _MASK + payload


_context: ssl.SSLContext | None = None


def _tls_context() -> ssl.SSLContext:
    """One for all sockets of this process: each would be half a megabyte."""
    global _context
    if _context is None:
        _context = ssl.create_default_context()
    return _context
