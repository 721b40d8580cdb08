"""
A rival: FastAPI on uvicorn (uvloop, httptools) and redis-py, one awaited Lua call per message.
"""

# mypy: disable-error-code="import-not-found, untyped-decorator"

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgpack
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

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


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.redis = open_redis()
    app.state.step = app.state.redis.register_script(read_script("step.lua"))
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.websocket("/v1/play")
async def play(socket: WebSocket) -> None:
    await socket.accept(subprotocol=SUBPROTOCOL)
    redis, step = socket.app.state.redis, socket.app.state.step
    try:
        user = read_hello(await socket.receive_bytes())
        keys = [*keys_of(user), "rival:dirty"]
        await socket.send_bytes(welcome(int(await redis.hget(keys[0], "seq") or 0)))
        while True:
            message = await socket.receive_bytes()
            frame = msgpack.unpackb(message)
            if frame["t"] != "update":
                continue
            update = Update.model_validate(frame)
            seq, version = await step(keys=keys, args=arguments_of(user, update, message))
            await socket.send_bytes(ack(seq, version))
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws_per_message_deflate=False, log_level="warning", access_log=False
    )
    uvicorn.Server(config).run(sockets=[open_listener()])
