"""A real listener with a stand-in for the session, and a bare TCP client that can send any bytes."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from gateway.sessions.connection import Wire
from gateway.sessions.timer_wheel import TICK_S, TimerWheel
from gateway.sockets.play_server import PlayServer, PlaySettings
from protocol.codec import Codec

DEADLINE_S = 10.0
KEY = base64.b64encode(b"0123456789abcdef").decode()


class Echo:
    """What a socket is connected to: keeps what it received and sends it back."""

    def __init__(self, wire: Wire, codec: Codec) -> None:
        self.wire = wire
        self.codec = codec
        self.received: list[bytes] = []
        self.closes: list[int] = []
        self.frames = 0
        self.frames_max = 1_000_000
        self.is_lost = False
        self.is_disconnected = False
        self.closes_at_timer = 0
        self.echoes = True
        self.pause_after = 0
        self.changed = asyncio.Event()

    def receive(self, payload: bytes) -> None:
        assert type(payload) is bytes
        self.received.append(payload)
        if self.echoes:
            self.wire.send(payload)
        if self.pause_after and len(self.received) == self.pause_after:
            self.wire.pause_reading()
        self.changed.set()

    def count_frame(self, now: float) -> bool:
        self.frames += 1
        if self.frames > self.frames_max:
            self.wire.close(4006)
            return False
        return True

    def count_close(self, code: int) -> None:
        self.closes.append(code)
        self.changed.set()

    def on_lost(self) -> None:
        self.is_lost = True

    def on_disconnected(self) -> None:
        assert self.is_lost
        self.is_disconnected = True
        self.changed.set()

    def on_timer(self, now: float) -> float | None:
        if self.closes_at_timer:
            self.wire.close(self.closes_at_timer)
        return None

    async def until(self, check: Any) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not check(self):
                self.changed.clear()
                await self.changed.wait()


class SocketRig:
    def __init__(self, server: PlayServer, port: int, echoes: list[Echo]) -> None:
        self.server = server
        self.port = port
        self.echoes = echoes

    async def left(self, connections: int) -> None:
        """Until the server counts no more than these."""
        async with asyncio.timeout(DEADLINE_S):
            while self.server.admission.connections > connections:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[Raw]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Raw(reader, writer)
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    @asynccontextmanager
    async def opened(self, subprotocol: str | None = "wayhold.v1.msgpack") -> AsyncIterator[Raw]:
        """A socket after its handshake; `raw.echo` is the other side."""
        async with self.raw() as raw:
            status, _headers = await raw.shake_hands(subprotocol)
            assert status == 101
            raw.echo = self.echoes[-1]
            yield raw


class Raw:
    """A TCP client. Masks with a fixed key, so that a failure can be repeated."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.echo: Echo = None  # type: ignore[assignment]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.drain()

    async def shake_hands(self, subprotocol: str | None = None, **changes: Any) -> tuple[int, dict[str, str]]:
        await self.send(request(subprotocol, **changes))
        return await self.read_response()

    async def read_response(self) -> tuple[int, dict[str, str]]:
        """(status, headers); (0, {}) when the connection ended without one."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0, {}
        lines = head.decode().split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            if name:
                headers[name.lower()] = value.strip()
        return int(lines[0].split(" ")[1]), headers

    async def read_frame(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next frame."""
        async with asyncio.timeout(DEADLINE_S):
            first, second = await self.reader.readexactly(2)
            assert second < 128, "a server does not mask"
            length = second
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 15, await self.reader.readexactly(length)

    async def read_close(self) -> int | None:
        """The code of the close frame, after any other frames; None when the connection ended without one."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    opcode, payload = await self.read_frame()
                except (asyncio.IncompleteReadError, ConnectionError):
                    return None
                if opcode == 8:
                    return struct.unpack("!H", payload[:2])[0] if payload else 1005

    async def read_end(self) -> None:
        """Until the connection is closed by the server."""
        async with asyncio.timeout(DEADLINE_S):
            with suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass
        # As any client does: otherwise the server waits for us until its deadline.
        self.writer.close()


def frame(payload: bytes, opcode: int = 2, *, fin: bool = True, rsv: int = 0, mask: bytes | None = None) -> bytes:
    """A client's frame."""
    mask = os.urandom(4) if mask is None else mask
    first = (128 if fin else 0) | rsv << 4 | opcode
    length = len(payload)
    if length < 126:
        header = bytes((first, 128 | length))
    elif length < 65536:
        header = bytes((first, 254)) + struct.pack("!H", length)
    else:
        header = bytes((first, 255)) + struct.pack("!Q", length)
    masked = (
        bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)) if length < 4096 else _mask(payload, mask)
    )
    return header + mask + masked


def _mask(payload: bytes, mask: bytes) -> bytes:
    length = len(payload)
    pad = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(length, "big")


def request(
    subprotocol: str | None = None,
    *,
    method: str = "GET",
    path: str = "/v1/play",
    version: str = "HTTP/1.1",
    without: tuple[str, ...] = (),
    headers: tuple[tuple[str, str], ...] = (),
) -> bytes:
    lines = [
        ("Host", "game.example"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
    ]
    lines = [(name, value) for name, value in lines if name not in without]
    if subprotocol is not None:
        lines.append(("Sec-WebSocket-Protocol", subprotocol))
    lines += headers
    return (f"{method} {path} {version}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines) + "\r\n").encode("latin-1")


@asynccontextmanager
async def run_sockets(**settings: Any) -> AsyncIterator[SocketRig]:
    loop = asyncio.get_running_loop()
    wheel = TimerWheel(loop.time())
    echoes: list[Echo] = []

    def connect(wire: Wire, codec: Codec) -> Any:
        echoes.append(Echo(wire, codec))
        return echoes[-1]

    server = PlayServer(
        PlaySettings(**({"handshakes_per_s": 10_000} | settings)), wheel=wheel, connect=connect, clock=loop.time
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    await server.start(listener)

    async def turn() -> None:
        while True:
            await asyncio.sleep(TICK_S / 5)
            wheel.turn(loop.time())

    turning = asyncio.create_task(turn())
    try:
        yield SocketRig(server, listener.getsockname()[1], echoes)
    finally:
        server.stop_listening()
        server.abort_all()
        turning.cancel()
        await asyncio.sleep(0)
