"""
A competent middle: `websockets` on uvloop, and updates of all connections grouped into one Lua call through redis-py.

What comes while a call is in flight goes with the next one, as in Wayhold; at most 128 updates in a call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

import msgpack
import uvloop
from redis.asyncio import Redis
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from benchmarks.rivals.common import (
    SUBPROTOCOL,
    Update,
    ack,
    arguments_of,
    keys_of,
    open_listener,
    open_redis,
    read_hello,
    read_script,
    welcome,
)

GROUP_MAX = 128


class Committer:
    """Takes updates of all connections, commits them in groups, and answers each."""

    def __init__(self, redis: Redis) -> None:
        self._step = redis.register_script(read_script("step_many.lua"))
        self._waiting: deque[tuple[list[str], list[Any], asyncio.Future[tuple[int, int]]]] = deque()
        self._wake = asyncio.Event()

    async def commit(self, keys: list[str], arguments: list[Any]) -> tuple[int, int]:
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((keys, arguments, future))
        self._wake.set()
        return await future

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(GROUP_MAX, len(self._waiting)))]
                keys, arguments = ["rival:dirty"], []
                for each_keys, each_arguments, _ in group:
                    keys += each_keys
                    arguments += each_arguments
                try:
                    found = await self._step(keys=keys, args=arguments)
                except Exception as error:
                    for _, _, future in group:
                        future.set_exception(error)
                    continue
                for number, (_, _, future) in enumerate(group):
                    if not future.done():
                        future.set_result((found[2 * number], found[2 * number + 1]))


async def main() -> None:
    redis = open_redis()
    committer = Committer(redis)
    running = asyncio.create_task(committer.run())

    async def play(socket: ServerConnection) -> None:
        user = read_hello(_binary(await socket.recv()))
        keys = keys_of(user)
        await socket.send(welcome(int(await redis.hget(keys[0], "seq") or 0)))
        with contextlib.suppress(ConnectionClosed):
            async for received in socket:
                message = _binary(received)
                frame = msgpack.unpackb(message)
                if frame["t"] != "update":
                    continue
                update = Update.model_validate(frame)
                seq, version = await committer.commit(keys, arguments_of(user, update, message))
                await socket.send(ack(seq, version))

    async with serve(
        play, sock=open_listener(), backlog=4096, compression=None, subprotocols=[Subprotocol(SUBPROTOCOL)]
    ):
        await running


def _binary(message: str | bytes) -> bytes:
    assert isinstance(message, bytes)
    return message


if __name__ == "__main__":
    uvloop.run(main())
