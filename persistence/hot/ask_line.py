"""
The connection that openings, hydrates and players' queries ask through: many small questions of many players, in flight
together.

A storm of hellos asks thousands of times, and the client library's work for each question (a connection from the pool,
a lock, two time-outs, a task's switch or two) is several times that of Redis. What is asked in one turn of the event
loop leaves in one write here, and is answered in order.

Promise: as that of `CommitLine`, which it is for more than one script; a connection of its own, so that updates never
wait behind hellos. A question is sent once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError

from persistence.errors import StoreFull, StoreUnavailable
from persistence.hot import scripts
from persistence.hot.commit_line import CommitLine

_pack_command = cast(Callable[[tuple[Any, ...]], bytes], hiredis.pack_command)

NAMES = ("open_session", "install", "install_device")


class AskLine(CommitLine):
    """Commands and scripts on one connection at a time, for the tasks of one event loop."""

    def __init__(self, pool: ConnectionPool, timeout_s: float) -> None:
        super().__init__(pool, "ask", "", timeout_s)
        self._scripts: dict[str, tuple[str, str]] = {}
        for name in NAMES:
            source = scripts.source(name)
            self._scripts[name] = (source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    async def ask(self, operation: str, *command: Any) -> Any:
        """The reply to a plain command. Raises as `call`."""
        return (await self._send(operation, [_pack_command(command)], None))[0]

    async def ask_all(self, operation: str, *commands: tuple[Any, ...]) -> list[Any]:
        """The replies to plain commands that leave together, nothing between them. Raises as `call`."""
        return await self._send(operation, [_pack_command(command) for command in commands], None)

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """The answer of a script. Raises as `call`."""
        source, sha = self._scripts[name]
        return (await self._send(name, [_pack_command(("EVALSHA", sha, len(keys), *keys, *args))], source))[0]

    async def _send(self, operation: str, packed: list[bytes], source: str | None) -> list[Any]:
        replies: list[Any]
        try:
            wire = self._wire
            if wire is None or wire.is_lost:
                wire = await self._connect()
            replies = await _receive_all([wire.send(command) for command in packed])
            if source is not None and isinstance(replies[0], hiredis.ReplyError) and _is_unknown(replies[0]):
                # Refused, so it did nothing. Loading goes ahead of it on the same connection.
                await wire.send(_pack_command(("SCRIPT", "LOAD", source)))
                replies = [await wire.send(packed[0])]
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable("redis", operation, error or type(error).__name__) from error
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                if "OOM" in str(reply):
                    raise StoreFull(operation) from reply
                raise StoreUnavailable("redis", operation, reply) from reply
        return replies


async def _receive_all(replies: list[asyncio.Future[Any]]) -> list[Any]:
    """They come in order, so this wakes once for all that one read brings; a gathering takes a turn more."""
    try:
        return [await reply for reply in replies]
    except BaseException:
        # One error is told, and that is that of all the others.
        for reply in replies:
            if not reply.cancel() and not reply.cancelled():
                reply.exception()
        raise


def _is_unknown(refused: Exception) -> bool:
    return str(refused).startswith("NOSCRIPT")
