"""
A link that can be cut, held up, slowed down, refused, or robbed of one answer, between a real client and a real server.

Owns one listening socket and what goes through it. The address of the listener stays while the address behind it may
change (`target`), so a server can move without its clients' settings changing. With nothing set, bytes pass unread.

Not here: when to do what (kinds.py).
"""

# ruff: noqa: ASYNC240

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CHUNK_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 2.0
REPLY_GRACE_S = 0.2
"""How long a robbed connection stays open: until the server has surely done what it was asked."""

Address = Path | tuple[str, int]


@dataclass(eq=False)
class _Pair:
    """One connection through the proxy: the side that called, and the side that was called."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    is_robbed: bool = False
    is_stranded: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def abort(self, *, is_reset: bool) -> None:
        for writer in (self.near, self.far):
            if is_reset:
                _send_reset(writer)
            writer.transport.abort()


class Proxy:
    """
    One link. `target` says where a new connection goes, or None for nowhere: then it is closed at once.

    What is set here counts from the next chunk on, also for connections that are open.
    """

    def __init__(self, name: str, target: Callable[[], Address | None]) -> None:
        self.name = name
        self.target = target
        self.latency_s = 0.0
        self.is_refusing = False
        self.robbed = 0
        self.connections_made = 0
        self._rob_after: bytes | None = None
        self._bytes_left: int | None = None
        self._is_dropping = {"up": False, "down": False}
        self._flowing = {"up": asyncio.Event(), "down": asyncio.Event()}
        for gate in self._flowing.values():
            gate.set()
        self._pairs: set[_Pair] = set()
        self._stranded: list[_Pair] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # ── its life ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def listen_unix(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=2 * CHUNK_BYTES)
        path.chmod(0o777)  # a server that runs as another user never calls, but its clients may

    async def listen_tcp(self) -> int:
        """Any free port of loopback; answers which."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2 * CHUNK_BYTES, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.heal()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        return len(self._pairs)

    # ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def cut(self) -> None:
        """End all connections; new ones are welcome."""
        for pair in list(self._pairs):
            pair.abort(is_reset=False)

    def reset(self) -> None:
        """The same as a connection reset, where the socket knows such a thing."""
        for pair in list(self._pairs):
            pair.abort(is_reset=True)

    def strand(self) -> None:
        """The near side ends, the far side is not told until `heal`: a server that sleeps keeps what it was sent."""
        for pair in list(self._pairs):
            pair.is_stranded = True
            self._stranded.append(pair)
            pair.near.transport.abort()

    def refuse(self) -> None:
        """Nobody is there: open connections end, new ones are closed before a byte."""
        self.is_refusing = True
        self.cut()

    def hang(self, *directions: str) -> None:
        """Nothing moves in these directions ("up" to the server, "down" from it); connections stay open."""
        for direction in directions or ("up", "down"):
            self._flowing[direction].clear()

    def drop(self, direction: str) -> None:
        """Bytes of this direction vanish."""
        self._is_dropping[direction] = True

    def limit(self, bytes_max: int) -> None:
        """After so many more bytes to the server the connection that brings the next is cut, in the middle of it."""
        self._bytes_left = bytes_max

    def rob(self, request: bytes) -> None:
        """Once: pass a request that holds these bytes on to the server, and let nothing of its answer back."""
        self._rob_after = request

    def heal(self) -> None:
        """Everything passes again. What hung for long is cut, so that no half-said thing is believed later."""
        self.is_refusing = False
        self.latency_s = 0.0
        self._rob_after = None
        self._bytes_left = None
        was_dropping = any(self._is_dropping.values())
        for direction in ("up", "down"):
            self._is_dropping[direction] = False
            self._flowing[direction].set()
        if was_dropping:
            self.cut()
        for pair in self._stranded:
            pair.far.transport.abort()
        self._stranded.clear()

    # ── passing bytes ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = None if self.is_refusing else self.target()
        if target is None:
            return
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if isinstance(target, Path):
                far_reader, far = await asyncio.open_unix_connection(target, limit=2 * CHUNK_BYTES)
            else:
                far_reader, far = await asyncio.open_connection(*target, limit=2 * CHUNK_BYTES)
        self.connections_made += 1
        pair = _Pair(writer, far)
        self._pairs.add(pair)
        pair.tasks = [
            asyncio.create_task(self._pump("up", pair, reader, far)),
            asyncio.create_task(self._pump("down", pair, far_reader, writer)),
        ]
        try:
            # Either side's end is the end of both: no program here uses half-open connections.
            await asyncio.wait(pair.tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pairs.discard(pair)
            for pump in pair.tasks:
                pump.cancel()
            await asyncio.gather(*pair.tasks, return_exceptions=True)
            for side in (writer,) if pair.is_stranded else (writer, far):
                with contextlib.suppress(OSError, RuntimeError):
                    side.close()

    async def _pump(
        self, direction: str, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        gate = self._flowing[direction]
        while chunk := await reader.read(CHUNK_BYTES):
            if not gate.is_set():
                await gate.wait()
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            if self._is_dropping[direction] or (direction == "down" and pair.is_robbed):
                continue
            if direction == "up":
                if self._rob_after is not None and self._rob_after in chunk:
                    self._rob_after = None
                    pair.is_robbed = True
                    self.robbed += 1
                    asyncio.get_running_loop().call_later(REPLY_GRACE_S, lambda: pair.abort(is_reset=True))
                if self._bytes_left is not None:
                    if len(chunk) >= self._bytes_left:
                        chunk, self._bytes_left = chunk[: self._bytes_left], None
                        writer.write(chunk)
                        await writer.drain()
                        pair.abort(is_reset=True)
                        return
                    self._bytes_left -= len(chunk)
            writer.write(chunk)
            await writer.drain()


def _send_reset(writer: asyncio.StreamWriter) -> None:
    """Closing with a linger of zero seconds sends a reset instead of a farewell (TCP only)."""
    found = writer.get_extra_info("socket")
    if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
