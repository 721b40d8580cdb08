"""
What the rivals in Python share: where Redis is, who a token belongs to, and the shape of a message.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, Literal

import jwt
import msgpack
from pydantic import BaseModel
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import UnixDomainSocketConnection

FOLDER = Path(__file__).parent
SUBPROTOCOL = "wayhold.v1.msgpack"
REDIS_CONNECTIONS = 64


class Event(BaseModel):
    type: str
    content_id: str | None = None
    data: dict[str, Any] | None = None


class Effect(BaseModel):
    op: Literal["set", "unset", "incr", "max", "add", "remove"]
    path: str
    value: Any = None


class Update(BaseModel):
    t: Literal["update"]
    seq: int
    event: Event
    effects: list[Effect] = []


def open_redis() -> Redis:
    """A pool that waits for a free connection, as redis-py's documentation advises; hiredis parses."""
    pool = BlockingConnectionPool(
        connection_class=UnixDomainSocketConnection,
        path=os.environ["RIVAL_REDIS"],
        max_connections=REDIS_CONNECTIONS,
        timeout=None,
    )
    return Redis(connection_pool=pool)


def read_script(name: str) -> str:
    return (FOLDER / name).read_text()


def read_hello(message: bytes) -> str:
    """The player that a hello is from. Raises what PyJWT raises for a token that does not count."""
    hello = msgpack.unpackb(message)
    claims = jwt.decode(hello["token"], os.environ["RIVAL_SECRET"], algorithms=["HS256"])
    return str(claims["sub"])


def keys_of(user: str) -> list[str]:
    return [f"rival:{user}:state", f"rival:{user}:visited", f"rival:{user}:pending"]


def arguments_of(user: str, update: Update, message: bytes) -> list[Any]:
    """What the script wants to know of an update."""
    steps, pose = update.effects[0].value, update.effects[1].value
    return [user, update.seq, message, update.event.content_id or "", steps, pose]


def welcome(seq: int) -> bytes:
    frame = {
        "t": "welcome",
        "session": {"id": "", "token": "", "expires_s": 3600},
        "resumed": False,
        "seq": {"accepted": seq, "saved": 0},
        "heartbeat_s": 20,
    }
    packed: bytes = msgpack.packb(frame)
    return packed


def ack(seq: int, version: int) -> bytes:
    packed: bytes = msgpack.packb({"t": "ack", "seq": seq, "version": version, "saved": 0})
    return packed


def open_listener() -> socket.socket:
    """A listening socket on a free port, told to whoever started us."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    listener.setblocking(False)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    return listener
