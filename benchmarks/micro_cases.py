"""
The stations of one update, each measured alone: frame, codec, validation, script, answer, settling; and all together.

Every case does the same number of updates in each round and says how many. The sockets are stand-ins that count what is
written: what the kernel and the event loop cost is seen in the gateway as a whole only (`python -m benchmarks`). Redis
is real. The cases work on the workload of walk_step.py.

Not here: measuring and comparing (micro.py).
"""

from __future__ import annotations

import asyncio
import base64
import os
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgpack

from benchmarks.micro_loadtest import loadtest_players
from benchmarks.walk_step import DEVICE, EXPERIENCE, TURNS, make_frame, make_seeding, make_update
from gateway.sessions import dispatch
from gateway.sessions.connection import Connection, Phase
from gateway.sessions.node import Node
from gateway.sessions.rules import SessionRules
from gateway.sessions.tokens import Tokens
from gateway.sessions.verdicts import take_verdict
from gateway.sockets.play_server import PlayServer, PlaySettings
from gateway.sockets.player_socket import PlayerSocket
from persistence.cold.shapes import ColdProgress
from persistence.hot.known_fields import KnownFields
from persistence.hot.shapes import GroupVerdict, OpenSession, Outcome, Settlement, UpdateGroup
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey
from protocol.codec import MSGPACK
from protocol.frames import parse_client_frame

PLAYERS = 2_000
GROUPS = 128
SETTLE_EVERY = 20
"""Updates of a player between two settles: a step every quarter of a second at the usual interval of flushes."""
ROUND_DEADLINE_S = 60.0


class StandInTransport:
    """A transport that takes everything and remembers how much; `written`, where there is one, is told once."""

    def __init__(self) -> None:
        self.writes = 0
        self.written: asyncio.Event | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return None

    def write(self, data: bytes) -> None:
        self.writes += 1
        if self.written is not None:
            self.written.set()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None: ...

    abort = close


class Bench:
    """Everything that the cases need; `open` once, then any case as often as liked."""

    def __init__(self, hot: HotStore, node: Node, server: PlayServer) -> None:
        self.hot = hot
        self.node = node
        self.server = server
        self.sockets: list[PlayerSocket] = []
        self.transports: list[StandInTransport] = []
        self.connections: list[Connection] = []
        self.since_settle = 0

    @classmethod
    async def open(cls, redis_url: str) -> Bench:
        hot = await HotStore.open(redis_url)
        rules = SessionRules(
            node="bench", updates_per_s=1e9, updates_burst=2**30, connections_max=10 * PLAYERS, session_expiry_s=3600
        )
        node = Node(rules, hot, cast(Any, None), Tokens(b"a secret for measuring that is long enough"))
        server = PlayServer(
            PlaySettings(connections_max=10 * PLAYERS, handshakes_per_s=1e6),
            wheel=node.wheel,
            connect=node.connect,
            clock=node.clock,
        )
        server._loop = asyncio.get_running_loop()  # it listens nowhere
        bench = cls(hot, node, server)
        for _ in range(PLAYERS):
            await bench._add_player()
        bench.committer = asyncio.create_task(node.committer.run())
        await bench._seed()
        return bench

    async def close(self) -> None:
        self.node.committer.stop()
        await self.committer
        await self.hot.close()

    committer: asyncio.Task[None]

    # ── players ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _add_player(self) -> None:
        transport = StandInTransport()
        socket = PlayerSocket(self.server)
        socket.connection_made(cast(Any, transport))
        socket.data_received(_handshake())
        async with asyncio.timeout(ROUND_DEADLINE_S):
            while (connection := socket._connection) is None:  # noqa: ASYNC110 - the loop itself is what is driven here
                await asyncio.sleep(0)  # a crowd is let in a few at a time
        key = ProgressKey(str(uuid.uuid4()), EXPERIENCE)
        row_id = uuid.uuid4().hex
        read_started_ms = await self.hot.time_ms()
        await self.hot.install(ColdProgress(key, row_id, 0, row_id, "{}", "{}", DEVICE, 0), read_started_ms)
        session_id = str(uuid.uuid4())
        opened = await self.hot.open_session(
            OpenSession(key, DEVICE, self.node.name, session_id, read_started_ms, "{}", 0, None, None, None)
        )
        assert opened.outcome is Outcome.OK and opened.progress is not None
        connection.key = key
        connection.device = DEVICE
        connection.session_id = session_id
        connection.number = opened.connection
        connection.hold(opened.progress.copy)
        connection.version = opened.progress.version
        connection.phase = Phase.PLAYING
        self.node.register(connection)
        self.sockets.append(socket)
        self.transports.append(transport)
        self.connections.append(connection)

    async def _seed(self) -> None:
        for socket in self.sockets:
            socket.data_received(make_frame(MSGPACK.encode(make_seeding(1))))
        await self._until_told()
        await self.settle()

    async def _until_told(self) -> None:
        """Until every update that was received is accepted."""
        connections = self.connections
        async with asyncio.timeout(ROUND_DEADLINE_S):
            while any(connection.told + 1 != connection.expected for connection in connections):  # noqa: ASYNC110 - the loop itself is what is driven here
                await asyncio.sleep(0.001)

    def next_frames(self) -> list[bytes]:
        return [make_frame(MSGPACK.encode(_update(connection.expected))) for connection in self.connections]

    async def settle(self) -> int:
        """What a flusher asks of Redis for all that is pending; returns how many progress there were."""
        count = 0
        while claimed := await self.hot.claim_due(200, 15.0, ahead_s=3600.0):
            await self.hot.list_pending_sizes(claimed)
            snapshots = await self.hot.snapshot(claimed)
            written = []
            for snapshot in snapshots:
                version, entry_id = snapshot.entries[-1].split(b" ", 2)[:2]
                seq = int(snapshot.hash[f"accepted:{DEVICE}".encode()])
                written.append(Settlement(snapshot.key, int(version), entry_id.decode(), {DEVICE: seq}, []))
            assert all(outcome.is_settled for outcome in await self.hot.settle(written))
            count += len(claimed)
        return count

    # ── cases: each returns the number of updates it did ────────────────────────────────────────────────────────────

    async def machine(self, clock: Clock) -> int:
        """
        What this machine is worth now: `msgpack.unpackb` of the frame, which took 0.79 us where the bars were set.
        """
        payloads = [MSGPACK.encode(_update(seq)) for seq in range(1, 20_001)]
        with clock:
            for payload in payloads:
                msgpack.unpackb(payload)
        return len(payloads)

    async def decode(self, clock: Clock) -> int:
        payloads = [MSGPACK.encode(_update(seq)) for seq in range(1, 20_001)]
        with clock:
            for payload in payloads:
                MSGPACK.decode(payload)
        return len(payloads)

    async def parse(self, clock: Clock) -> int:
        maps = [_update(seq) for seq in range(1, 20_001)]
        with clock:
            for one in maps:
                parse_client_frame(one)
        return len(maps)

    async def receive(self, clock: Clock) -> int:
        """From a payload to an update in the queue: codec, envelope, rules, effects, entry."""
        payloads = [MSGPACK.encode(_update(c.expected)) for c in self.connections]
        node = self.node
        enqueue = node.committer.enqueue
        node.committer.enqueue = lambda connection: None  # type: ignore[method-assign]
        try:
            with clock:
                for connection, payload in zip(self.connections, payloads, strict=True):
                    dispatch.receive(connection, payload)
        finally:
            node.committer.enqueue = enqueue  # type: ignore[method-assign]
        for connection in self.connections:
            connection.drop_queue()
            connection.expected -= 1
        return len(payloads)

    async def frame(self, clock: Clock) -> int:
        """From bytes of the network to a payload."""
        frames = self.next_frames()
        receive = Node.__dict__["receive"]
        Node.receive = staticmethod(lambda connection, payload: None)
        try:
            with clock:
                for socket, frame in zip(self.sockets, frames, strict=True):
                    socket.data_received(frame)
        finally:
            Node.receive = receive
        return len(frames)

    async def answer(self, clock: Clock) -> int:
        """From a verdict to the bytes of an ack."""
        pairs = [
            (c, _group(c, [None]), GroupVerdict(Outcome.OK, c.told, c.version + 1, c.told - 20, 1, 0))
            for c in self.connections
        ]
        with clock:
            for connection, group, verdict in pairs:
                take_verdict(connection, group, verdict)
        for connection in self.connections:
            connection.version -= 1  # nothing was written
        return len(pairs)

    async def script(self, clock: Clock) -> int:
        """One call of many groups, again and again: what Python and Redis do for it."""
        node = self.node
        enqueue = node.committer.enqueue
        node.committer.enqueue = lambda connection: None  # type: ignore[method-assign]
        try:
            for connection, frame in zip(self.connections, self.next_frames(), strict=True):
                cast(Any, connection.wire).data_received(frame)
        finally:
            node.committer.enqueue = enqueue  # type: ignore[method-assign]
        groups = []
        for connection in self.connections:
            groups.append(_group(connection, connection.queue))
            connection.drop_queue()
            connection.told += 1
            connection.version += 1
        verdicts = []
        with clock:
            for first in range(0, len(groups), GROUPS):
                verdicts += await self.hot.apply_updates(groups[first : first + GROUPS])
        assert all(verdict.outcome is Outcome.OK and verdict.taken == 1 for verdict in verdicts)
        await self._settle_sometimes(1)
        return len(groups)

    async def path(self, clock: Clock) -> int:
        """Everything between the bytes of a frame and the bytes of its ack, all players at once."""
        frames = self.next_frames()
        written = sum(transport.writes for transport in self.transports)
        # Connections are served in the order they came, so the last one's answer is the last.
        last = self.transports[-1]
        last.written = asyncio.Event()
        with clock:
            for socket, frame in zip(self.sockets, frames, strict=True):
                socket.data_received(frame)
            async with asyncio.timeout(ROUND_DEADLINE_S):
                await last.written.wait()
        last.written = None
        await self._until_told()
        assert sum(transport.writes for transport in self.transports) == written + len(frames)
        await self._settle_sometimes(1)
        return len(frames)

    async def flush(self, clock: Clock) -> int:
        """Claims, snapshots and settles, divided by the updates that were flushed."""
        await self.settle()
        self.since_settle = 0
        for _ in range(SETTLE_EVERY):
            for socket, frame in zip(self.sockets, self.next_frames(), strict=True):
                socket.data_received(frame)
            await self._until_told()
        with clock:
            settled = await self.settle()
        assert settled == PLAYERS
        return PLAYERS * SETTLE_EVERY

    async def _settle_sometimes(self, done: int) -> None:
        self.since_settle += done
        if self.since_settle >= SETTLE_EVERY:
            self.since_settle = 0
            await self.settle()


class Clock:
    """Adds up what happens inside its `with`: CPU seconds of this process and of Redis."""

    def __init__(self, read: Callable[[], tuple[float, float]]) -> None:
        self._read = read
        self._began = (0.0, 0.0)
        self.used_s = (0.0, 0.0)

    def __enter__(self) -> None:
        self._began = self._read()

    def __exit__(self, *_: object) -> None:
        ended = self._read()
        used_s, began = self.used_s, self._began
        self.used_s = (used_s[0] + ended[0] - began[0], used_s[1] + ended[1] - began[1])


Case = Callable[[Bench, Clock], Awaitable[int]]

CASES: dict[str, Case] = {
    "machine": Bench.machine,
    "frame": Bench.frame,
    "decode": Bench.decode,
    "parse": Bench.parse,
    "receive": Bench.receive,
    "script": Bench.script,
    "answer": Bench.answer,
    "path": Bench.path,
    "flush": Bench.flush,
    "loadtest": loadtest_players,
}


def _handshake() -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        "GET /v1/play HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {MSGPACK.subprotocol}\r\n\r\n"
    ).encode()


def _update(seq: int) -> dict[str, Any]:
    return make_update(seq, seq % TURNS)


def _group(connection: Connection, updates: list[Any]) -> UpdateGroup:
    if connection.known is None:
        connection.known = KnownFields()
    return UpdateGroup(connection.header, connection.told, updates, known=connection.known)
