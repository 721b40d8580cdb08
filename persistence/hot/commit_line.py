"""
The connection that updates are committed through: one script, called again and again, at the least cost.

redis-py makes the connection (address, TLS, password, database are its business) and hands over the transport; from
then on hiredis packs and reads, without a task, a lock and a time-out object for each call, which together cost more
than the call when few updates travel in it.

Promise: a call is sent once. It is answered, or fails within two time-outs: one for a connection that has to be made,
one for the reply. When the connection is lost, all that wait for it fail, and the next call makes a new one. A script
that the server has forgotten is loaded again; the server refused the call that told us, so calling again repeats
nothing.

Not here: what is called, and what an answer means (playing.py).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import hiredis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError

from persistence.errors import StoreFull, StoreUnavailable

# Its stub knows tuples of one item only.
_pack_command = cast(Callable[[tuple[Any, ...]], bytes], hiredis.pack_command)


class CommitLine:
    """One script on one connection at a time, for the tasks of one event loop."""

    def __init__(self, pool: ConnectionPool, operation: str, script: str, timeout_s: float) -> None:
        self._pool = pool
        self._operation = operation
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._timeout_s = timeout_s
        self._connection: Any = None
        self._wire: _Wire | None = None
        self._connecting = asyncio.Lock()

    async def call(self, key: str | bytes, *args: bytes) -> Any:
        """
        The script's answer.

        Raises:
            StoreFull: Redis has no memory left, and nothing was done.
            StoreUnavailable: no answer, or an error; whether the call took effect is unknown.
        """
        command = _pack_command(("EVALSHA", self._sha, 1, key, *args))
        try:
            wire = self._wire
            if wire is None or wire.is_lost:
                wire = await self._connect()
            reply = await wire.send(command)
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                await wire.send(_pack_command(("SCRIPT", "LOAD", self._script)))
                reply = await wire.send(command)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable("redis", self._operation, error or type(error).__name__) from error
        if isinstance(reply, hiredis.ReplyError):
            if "OOM" in str(reply):
                raise StoreFull(self._operation) from reply
            raise StoreUnavailable("redis", self._operation, reply) from reply
        return reply

    async def close(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.lose(ConnectionError("closed"))
        await self._drop_connection()

    async def _connect(self) -> _Wire:
        async with asyncio.timeout(self._timeout_s), self._connecting:
            if self._wire is not None and not self._wire.is_lost:
                return self._wire
            await self._drop_connection()
            connection = self._connection = cast(Any, self._pool).make_connection()
            await connection.connect()
            # Private in redis-py, whose major version is pinned; a test notices when it is gone.
            transport = connection._writer.transport
            wire = _Wire(transport, self._timeout_s)
            transport.set_protocol(wire)
            self._wire = wire
            return wire

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError, TimeoutError):
                await connection.disconnect(nowait=True)


class _Wire(asyncio.Protocol):
    """Replies to those who wait, in the order of their calls."""

    def __init__(self, transport: asyncio.Transport, timeout_s: float) -> None:
        self._transport = transport
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.is_lost = False

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """The reply; errors of the server are replies, too. Fails with what ended the connection."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.is_lost:
            future.set_exception(ConnectionError("the connection was lost"))
            return future
        due = self._loop.time() + self._timeout_s
        self._waiting.append((future, due))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look_at_the_clock)
        self._transport.write(command)
        return future

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                future, _ = self._waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            # Not what a Redis says, or an answer to what nobody has asked: there is no telling what belongs to whom.
            self.lose(ConnectionError(f"not an answer: {error!r}"))

    def eof_received(self) -> None:
        return None  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(exc or ConnectionError("the server has closed the connection"))

    def lose(self, error: BaseException) -> None:
        """End the connection; all who wait are told why."""
        if self.is_lost:
            return
        self.is_lost = True
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)

    def _look_at_the_clock(self) -> None:
        """One timer for whatever waits; it runs out at most once in a time-out."""
        self._timer = None
        if not self._waiting:
            return
        due = self._waiting[0][1]
        if self._loop.time() >= due:
            self.lose(TimeoutError(f"no reply within {self._timeout_s:g} s"))
        else:
            self._timer = self._loop.call_at(due, self._look_at_the_clock)
