"""
A rival: plain `websockets` and redis-py, one awaited Lua call per message. uvloop, hiredis, a pool, no compression.
"""

from __future__ import annotations

import contextlib

import msgpack
import uvloop
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


async def main() -> None:
    redis = open_redis()
    step = redis.register_script(read_script("step.lua"))

    async def play(socket: ServerConnection) -> None:
        user = read_hello(_binary(await socket.recv()))
        keys = [*keys_of(user), "rival:dirty"]
        await socket.send(welcome(int(await redis.hget(keys[0], "seq") or 0)))
        with contextlib.suppress(ConnectionClosed):
            async for received in socket:
                message = _binary(received)
                frame = msgpack.unpackb(message)
                if frame["t"] != "update":
                    continue
                update = Update.model_validate(frame)
                seq, version = await step(keys=keys, args=arguments_of(user, update, message))
                await socket.send(ack(seq, version))

    async with serve(
        play, sock=open_listener(), backlog=4096, compression=None, subprotocols=[Subprotocol(SUBPROTOCOL)]
    ) as server:
        await server.serve_forever()


def _binary(message: str | bytes) -> bytes:
    assert isinstance(message, bytes)
    return message


if __name__ == "__main__":
    uvloop.run(main())
