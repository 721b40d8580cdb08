"""A whole gateway in the test's own event loop, on real servers, and a bare client for it that knows only frames."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway.sessions.node import Node
from gateway.sessions.rules import SessionRules
from gateway.sessions.tokens import Tokens, make_token
from gateway.sockets.play_server import PlayServer, PlaySettings
from persistence.cold.store import ColdStore
from persistence.flusher.flusher import Flusher
from persistence.hot.store import HotStore
from protocol.codec import Codec, codec_named
from protocol.experience import ExperienceDefinition

SECRET = b"a secret of the tests that is long enough"
EXPERIENCE = "wylding-woods"
DEADLINE_S = 10.0

_nodes = itertools.count(1)

RULES = SessionRules(
    node="", heartbeat_s=5.0, session_expiry_s=60.0, updates_per_s=10_000, updates_burst=10_000, drain_s=1.0
)


class Bare:
    """One socket to a gateway. Every wait has a deadline."""

    def __init__(self, socket_: ClientConnection, codec: Codec) -> None:
        self.socket = socket_
        self.codec = codec
        self.welcome: dict[str, Any] = {}

    async def send(self, frame: dict[str, Any]) -> None:
        data = self.codec.encode(frame)
        await self.socket.send(data.decode() if self.codec.is_text else data)

    async def receive(self, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            return self.codec.decode(await self.socket.recv())

    async def expect(self, *kinds: str, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        """The next frame, which must be of one of these kinds."""
        frame = await self.receive(timeout_s)
        assert frame["t"] in kinds, frame
        return frame

    async def wait_for(self, kind: str, *, when: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
        """The next frame of this kind (that fits), whatever comes before it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                frame = await self.receive()
                if frame["t"] == kind and (when is None or when(frame)):
                    return frame

    async def close_code(self) -> int:
        """Read on until the socket is closed."""
        with suppress(ConnectionClosed):
            while True:
                await self.receive()
        assert self.socket.close_code is not None
        return self.socket.close_code

    def abort(self) -> None:
        """As when the phone loses its network."""
        self.socket.transport.abort()

    # ── frames ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def hello(self, **fields: Any) -> dict[str, Any]:
        await self.send(hello_frame(**fields))
        self.welcome = await self.expect("welcome")
        return self.welcome

    async def update(self, seq: int, **fields: Any) -> None:
        await self.send(update_frame(seq, **fields))

    async def accept(self, seq: int, **fields: Any) -> dict[str, Any]:
        """Send one update and wait until it is accepted."""
        await self.update(seq, **fields)
        return await self.wait_for("ack", when=lambda ack: ack["seq"] >= seq)

    async def wait_saved(self, seq: int) -> None:
        """Until Postgres has everything up to `seq`; asks by pings, as a client does."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                await self.send({"t": "ping", "at": 1})
                while True:
                    frame = await self.receive()
                    known = frame.get("saved") if frame["t"] in ("pong", "ack") else None
                    if frame["t"] == "saved":
                        known = frame["seq"]
                    if known is not None and known >= seq:
                        return
                    if frame["t"] == "pong":
                        break
                await asyncio.sleep(0.02)

    def resume(self) -> dict[str, str]:
        session = self.welcome["session"]
        return {"session": session["id"], "token": session["token"]}


def new_user() -> str:
    return str(uuid.uuid4())


def token(user_id: str, ttl_s: float = 600, **claims: Any) -> str:
    return make_token(SECRET, user_id, ttl_s, **claims)


def hello_frame(user_id: str | None = None, **fields: Any) -> dict[str, Any]:
    frame: dict[str, Any] = {
        "t": "hello",
        "experience": EXPERIENCE,
        "device": "phone",
        "at": round(time.time() * 1000),
        "made": 1_000_000,
        "saved": 0,
    }
    if user_id is not None:
        frame["token"] = token(user_id)
    frame |= fields
    return {name: value for name, value in frame.items() if value is not None}


def update_frame(seq: int, **fields: Any) -> dict[str, Any]:
    if "event" not in fields and "effects" not in fields:
        fields["event"] = {"type": "waypoint_visited", "content_id": f"w{seq}", "data": {"distance_traveled": 1.5}}
    return {"t": "update", "seq": seq} | fields


class Rig:
    """One node with its sockets. Several can run beside each other on the same stores."""

    def __init__(self, hot: HotStore, cold: ColdStore, node: Node, server: PlayServer, port: int) -> None:
        self.hot = hot
        self.cold = cold
        self.node = node
        self.server = server
        self.port = port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/play"

    @asynccontextmanager
    async def bare(self, codec: str = "msgpack") -> AsyncIterator[Bare]:
        spoken = codec_named(codec)
        async with connect(
            self.url, subprotocols=[spoken.subprotocol], compression=None, ping_interval=None, close_timeout=1
        ) as client:
            yield Bare(client, spoken)

    @asynccontextmanager
    async def player(self, user_id: str | None = None, codec: str = "msgpack", **fields: Any) -> AsyncIterator[Bare]:
        """A client that was welcomed."""
        async with self.bare(codec) as bare:
            await bare.hello(user_id=user_id or new_user(), **fields)
            yield bare


@asynccontextmanager
async def run_rig(
    redis_url: str,
    database_url: str,
    *,
    flush_interval_s: float = 0.2,
    play: PlaySettings | None = None,
    pending_updates_max: int = 5000,
    definitions: Mapping[str, ExperienceDefinition] | None = None,
    **rules: Any,
) -> AsyncIterator[Rig]:
    """A node with everything but flushers."""
    chosen = replace(RULES, node=f"node-{next(_nodes)}", **rules)
    hot = await HotStore.open(
        redis_url,
        flush_interval_s=flush_interval_s,
        session_expiry_s=chosen.session_expiry_s,
        pending_updates_max=pending_updates_max,
    )
    cold = await ColdStore.open(database_url, pool_max=4)
    node = Node(chosen, hot, cold, Tokens(SECRET), definitions=definitions)
    server = PlayServer(
        play or PlaySettings(hello_timeout_s=chosen.hello_timeout_s, handshakes_per_s=10_000),
        wheel=node.wheel,
        connect=node.connect,
        clock=node.clock,
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    await server.start(listener)
    node.start_services()
    try:
        yield Rig(hot, cold, node, server, listener.getsockname()[1])
    finally:
        server.stop_listening()
        server.abort_all()
        await node.stop()
        await hot.close()
        await cold.close()


@asynccontextmanager
async def run_flusher(redis_url: str, database_url: str) -> AsyncIterator[Flusher]:
    """The real flusher, in the test's loop."""
    hot = await HotStore.open(redis_url, flush_interval_s=0.2)
    flusher = Flusher(hot, database_url)
    stop = asyncio.Event()
    task = asyncio.create_task(flusher.run(stop, final_flush_s=1.0))
    try:
        yield flusher
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await task
        await hot.close()
