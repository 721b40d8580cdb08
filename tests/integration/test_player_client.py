"""
PlayerClient over real sockets, against a gateway scripted here: one that plays by the rules of the model, and many that
do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from protocol.client import machine as machine_module
from protocol.client.journal import Disk, FileJournal, JournalBroken, JournalFull, MemoryJournal
from protocol.client.player_client import (
    ClientStopped,
    PlayerClient,
    PlayerListener,
    QueryRefused,
    UpdateRefused,
    find_token_life_s,
)
from protocol.codec import SUBPROTOCOLS, codec_for
from tests.unit.client.model_server import Close, ModelServer

WAIT_S = 10.0
OWNER = {"server": "s", "player": "p", "experience": "wylding-woods"}

Script = Callable[["Gateway", ServerConnection], Awaitable[None]]


class Gateway:
    """A WebSocket server whose answers are the model's, unless a script takes the next connection."""

    def __init__(self, *, heartbeat_s: float = 20, window: int = 256) -> None:
        self.model = ModelServer(heartbeat_s=heartbeat_s, window=window)
        self.scripts: list[Script] = []
        self.connections = 0
        self.received: list[dict[str, Any]] = []
        self.subprotocols: list[str | None] = []
        self.server: Server | None = None
        self.port = 0
        self.live: set[ServerConnection] = set()
        self.news = asyncio.Event()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/play"

    async def start(self) -> None:
        self.server = await serve(
            self._handle,
            "127.0.0.1",
            self.port,
            subprotocols=SUBPROTOCOLS,  # type: ignore[arg-type]
            compression=None,
            ping_interval=None,
            close_timeout=0.2,
        )
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Die, as a killed process does."""
        assert self.server is not None
        for connection in list(self.live):
            connection.transport.abort()
        self.server.close(close_connections=False)
        await self.server.wait_closed()

    async def _handle(self, connection: ServerConnection) -> None:
        self.connections += 1
        self.live.add(connection)
        self.subprotocols.append(connection.subprotocol)
        script = self.scripts.pop(0) if self.scripts else play
        self.news.set()
        try:
            await script(self, connection)
        except ConnectionClosed:
            pass
        finally:
            self.live.discard(connection)

    async def send(self, connection: ServerConnection, frame: dict[str, Any]) -> None:
        codec = codec_for(connection.subprotocol)
        await connection.send(codec.encode(frame), text=codec.is_text)

    async def broadcast(self, *frames: Any) -> None:
        """Something the server says by itself."""
        for connection in list(self.live):
            for frame in frames:
                await self.send(connection, frame)

    async def flush(self) -> None:
        await self.broadcast(*self.model.flush())


async def play(gateway: Gateway, connection: ServerConnection, frames_max: int | None = None) -> None:
    """By the rules; for so many frames."""
    codec = codec_for(connection.subprotocol)
    model = gateway.model.connect()
    count = 0
    async for message in connection:
        frame = codec.decode(message)
        gateway.received.append(frame)
        gateway.news.set()
        count += 1
        for reply in model.receive(frame):
            if isinstance(reply, Close):
                await connection.close(reply.code)
                return
            await gateway.send(connection, reply)
        if count == frames_max:
            return


def cut_after(frames: int) -> Script:
    async def script(gateway: Gateway, connection: ServerConnection) -> None:
        await play(gateway, connection, frames)
        connection.transport.abort()

    return script


def close_with(code: int, after: int = 1) -> Script:
    """Close with this code after so many frames."""

    async def script(gateway: Gateway, connection: ServerConnection) -> None:
        await play(gateway, connection, after)
        await connection.close(code)

    return script


def refuse_with(code: int) -> Script:
    """Close with this code instead of a welcome."""

    async def script(gateway: Gateway, connection: ServerConnection) -> None:
        gateway.received.append(codec_for(connection.subprotocol).decode(await connection.recv()))
        await connection.close(code)

    return script


async def say_nothing(gateway: Gateway, connection: ServerConnection) -> None:
    await connection.wait_closed()


def say(*messages: bytes | str | dict[str, Any]) -> Script:
    """A welcome by the rules, then this, then nothing more."""

    async def script(gateway: Gateway, connection: ServerConnection) -> None:
        await play(gateway, connection, 1)
        for message in messages:
            if isinstance(message, dict):
                await gateway.send(connection, message)
            else:
                await connection.send(message)
        await connection.wait_closed()

    return script


class Notes(PlayerListener):
    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.unmade: list[int] = []
        self.accepted: list[int] = []
        self.saved: list[int] = []
        self.voids: list[tuple[int, int]] = []
        self.resumes: list[str] = []
        self.resyncs: list[str] = []
        self.resets: list[dict[int, int]] = []
        self.pushes: list[tuple[int, str, Any]] = []
        self.errors: list[int] = []
        self.closes: list[int | None] = []
        self.stops: list[int | None] = []
        self.news = asyncio.Event()

    def on_made(self, device: str, seq: int, frame: dict[str, Any]) -> None:
        assert frame["seq"] == seq
        self.made.append((device, seq))

    def on_unmade(self, device: str, seq: int) -> None:
        self.unmade.append(seq)

    def on_accepted(self, device: str, seq: int, at_ms: float) -> None:
        self.accepted.append(seq)

    def on_saved(self, device: str, seq: int) -> None:
        self.saved.append(seq)

    def on_void(self, device: str, seq: int, code: int, message: str) -> None:
        self.voids.append((seq, code))

    def on_resume(self, reason: str) -> None:
        self._note(self.resumes, reason)

    def on_resync(self, reason: str) -> None:
        self._note(self.resyncs, reason)

    def on_stream_reset(self, old_device: str, new_device: str, renumbered: dict[int, int]) -> None:
        self._note(self.resets, renumbered)

    def on_push(self, n: int, kind: str, data: Any, after: int | None) -> None:
        self._note(self.pushes, (n, kind, data))

    def on_error(self, code: int, name: str, message: str) -> None:
        self._note(self.errors, code)

    def on_close(self, code: int | None) -> None:
        self._note(self.closes, code)

    def on_stopped(self, code: int | None) -> None:
        self._note(self.stops, code)

    def _note(self, notes: list[Any], note: Any) -> None:
        notes.append(note)
        self.news.set()


async def until(news: asyncio.Event, is_true: Callable[[], bool]) -> None:
    """Wait for a signal after which the condition holds."""
    async with asyncio.timeout(WAIT_S):
        while not is_true():
            news.clear()
            await news.wait()


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "WELCOME_WAIT_MS", 300)


@contextlib.asynccontextmanager
async def playing(gateway: Gateway, **more: Any) -> AsyncIterator[PlayerClient]:
    client = PlayerClient(gateway.url, more.pop("token", "token"), "wylding-woods", **more)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


def list_steps(gateway: Gateway) -> list[int]:
    return [body["event"]["data"]["n"] for body in gateway.model.list_effective()]


async def make(client: PlayerClient, first: int, last: int) -> int:
    seq = 0
    for n in range(first, last + 1):
        seq = await client.event("waypoint_visited", f"w{n}", data={"n": n}, lat=52.5, lng=13.4)
    return seq


# --- playing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("codec", ["msgpack", "json"])
def test_a_walk_with_cut_connections_is_accepted_once_and_in_order(loop: str, codec: str) -> None:
    async def walk() -> None:
        gateway = Gateway()
        await gateway.start()
        gateway.scripts = [cut_after(2), cut_after(1), cut_after(2), play]
        notes = Notes()
        client = PlayerClient(gateway.url, "token", "wylding-woods", codec=codec, listener=notes)
        await make(client, 1, 450)  # offline: it goes in batches
        await client.start()
        await make(client, 451, 500)
        await client.wait_accepted(500, WAIT_S)
        assert list_steps(gateway) == list(range(1, 501))
        assert notes.resumes == ["resumed"] * client.resumes
        assert client.resumes > 0
        assert gateway.subprotocols == [f"wayhold.v1.{codec}"] * 4
        await gateway.flush()
        await client.wait_saved(500, WAIT_S)
        assert (client.saved, client.pending) == (500, 0)
        assert [seq for _, seq in notes.made] == list(range(1, 501))
        assert notes.accepted == sorted(notes.accepted)
        await make(client, 501, 502)
        assert await client.leave()
        assert client.stopped
        assert len(gateway.model.log) == 502
        assert not client.connected
        await gateway.stop()

    pytest.importorskip(loop).run(walk())


async def test_gateway_that_dies_and_comes_back_elsewhere_in_time(gateway: Gateway) -> None:
    notes = Notes()
    async with playing(gateway, listener=notes) as client:
        await client.wait_accepted(await make(client, 1, 5), WAIT_S)
        await gateway.stop()
        await until(notes.news, lambda: bool(notes.closes))
        await make(client, 6, 10)
        gateway.model.lose_hot()
        await gateway.start()
        await client.wait_accepted(10, WAIT_S)
        assert list_steps(gateway) == list(range(1, 11))
        await gateway.flush()
        await client.wait_saved(10, WAIT_S)


async def test_lost_redis_is_noticed_by_an_idle_client() -> None:
    gateway = Gateway(heartbeat_s=0.2)
    await gateway.start()
    notes = Notes()
    async with playing(gateway, listener=notes) as client:
        await client.wait_accepted(await make(client, 1, 5), WAIT_S)
        gateway.model.lose_hot()
        await until(notes.news, lambda: notes.resyncs == ["redis_lost"])
        await client.wait_accepted(5, WAIT_S)
        await until(gateway.news, lambda: list_steps(gateway) == [1, 2, 3, 4, 5])
    await gateway.stop()


async def test_void_update_is_told_and_used_up(gateway: Gateway) -> None:
    notes = Notes()
    async with playing(gateway, listener=notes) as client:
        await client.event("bad")
        await client.wait_accepted(await make(client, 2, 2), WAIT_S)
        assert client.voids == {1: (102, "bad")}
        assert notes.voids == [(1, 102)]
        await gateway.flush()
        await client.wait_saved(2, WAIT_S)
        assert client.voids == {}


async def test_frame_that_no_gateway_reads_does_not_block_the_stream(gateway: Gateway) -> None:
    gateway.model.unreadable = {"poison"}
    client = PlayerClient(gateway.url, "token", "wylding-woods")
    await make(client, 1, 3)
    await client.event("poison")
    await make(client, 5, 7)
    await client.start()
    await client.wait_accepted(7, WAIT_S)
    assert list_steps(gateway) == [1, 2, 3, 5, 6, 7]
    assert client.voids == {4: (102, "skipped")}
    await client.stop()


async def test_unavailable_gateway_is_asked_again(gateway: Gateway) -> None:
    gateway.model.refuse_updates, gateway.model.retry_after_ms = 3, 20
    notes = Notes()
    async with playing(gateway, listener=notes) as client:
        await client.wait_accepted(await make(client, 1, 5), WAIT_S)
        assert list_steps(gateway) == [1, 2, 3, 4, 5]
        assert notes.errors == [201, 201, 201]


async def test_state_and_pushes_are_handed_on(gateway: Gateway) -> None:
    notes = Notes()
    async with playing(gateway, listener=notes) as client:
        await client.wait_connected(WAIT_S)
        assert (client.state, client.session_id) == ({}, "session-1")
        await gateway.broadcast({"t": "push", "n": 1, "kind": "message", "data": {"text": "hello"}})
        await until(notes.news, lambda: notes.pushes == [(1, "message", {"text": "hello"})])


async def test_listener_that_fails_is_not_the_end(gateway: Gateway) -> None:
    class Fragile(PlayerListener):
        def on_accepted(self, device: str, seq: int, at_ms: float) -> None:
            raise RuntimeError("a bug in the game")

    async with playing(gateway, listener=Fragile()) as client:
        await client.wait_accepted(await make(client, 1, 3), WAIT_S)
        await client.wait_accepted(await make(client, 4, 6), WAIT_S)
        assert gateway.connections == 1


# --- a gateway that misbehaves --------------------------------------------------------------------------------------

GARBAGE: dict[str, bytes | str | dict[str, Any]] = {
    "bytes that are no frame": b"\xc1\xc1\xc1",
    "an empty frame": b"",
    "a number": b"\x07",
    "text on a binary connection": "hello",
    "a frame larger than any": bytes(5 * 1024 * 1024),
    "an array that claims too much": b"\xdd\xff\xff\xff\xff",
    "deep nesting": b"\x91" * 60_000,
    "a large frame that is no map": b"\xc4" * 100_000,
    "an ack of what was never made": {"t": "ack", "seq": 10**6, "version": 1, "saved": 10**6},
    "saved of what was never made": {"t": "saved", "seq": 10**6},
    "a reset without a reason": {"t": "stream_reset", "accepted": 2},
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_costs_a_connection_and_nothing_else(gateway: Gateway, name: str) -> None:
    gateway.scripts = [say(GARBAGE[name]), say(GARBAGE[name])]
    async with playing(gateway) as client:
        await make(client, 1, 5)
        await client.wait_accepted(5, WAIT_S)
        assert list_steps(gateway) == [1, 2, 3, 4, 5]
        assert gateway.connections == 3
        assert client.journal.made == 5


async def test_gateway_that_says_nothing_is_left(gateway: Gateway) -> None:
    gateway.scripts = [say_nothing, say_nothing]
    async with playing(gateway) as client:
        await client.wait_accepted(await make(client, 1, 3), WAIT_S)
        assert gateway.connections == 3


async def test_gateway_that_falls_silent_is_left_after_two_heartbeats() -> None:
    gateway = Gateway(heartbeat_s=0.15)
    await gateway.start()
    gateway.scripts = [say()]
    async with playing(gateway) as client:
        await client.wait_connected(WAIT_S)
        began_s = asyncio.get_running_loop().time()
        await client.wait_accepted(await make(client, 1, 3), WAIT_S)
        assert asyncio.get_running_loop().time() - began_s >= 0.25
        assert client.resumes == 1
    await gateway.stop()


async def test_gateway_that_does_not_read_gets_no_more_than_a_bound() -> None:
    gateway = Gateway(heartbeat_s=0.5)
    await gateway.start()
    stalled = asyncio.Event()

    async def stop_reading(gateway: Gateway, connection: ServerConnection) -> None:
        await play(gateway, connection, 1)
        connection.transport.pause_reading()  # type: ignore[attr-defined]
        stalled.set()
        await connection.wait_closed()

    gateway.scripts = [stop_reading]
    async with playing(gateway) as client:
        await asyncio.wait_for(stalled.wait(), WAIT_S)
        for _ in range(110):
            await client.event("note", data={"n": 1, "text": "x" * 32_000})
        assert client._connection is not None
        ahead_bytes = client._connection.transport.get_write_buffer_size()
        assert ahead_bytes <= machine_module.WRITE_AHEAD_BYTES_MAX + 3 * 65_536
        await client.wait_accepted(110, WAIT_S)
    await gateway.stop()


async def test_port_that_accepts_and_does_not_speak_http() -> None:
    connections = 0

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        tried.set()
        try:
            await reader.read()
        finally:
            writer.close()

    tried = asyncio.Event()
    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = PlayerClient(f"ws://127.0.0.1:{port}/v1/play", "token", "wylding-woods", connect_timeout_s=0.1)
    await client.start()
    await until(tried, lambda: connections >= 3)
    await client.stop()
    server.close()


async def test_close_that_the_gateway_never_finishes_is_not_waited_for() -> None:
    """The close frame comes, the end of the stream does not."""
    connections = 0
    again = asyncio.Event()

    async def half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        again.set()
        protocol = ServerProtocol(subprotocols=list(SUBPROTOCOLS))  # type: ignore[arg-type]
        while True:
            data = await reader.read(4096)
            if not data:
                break
            protocol.receive_data(data)
            for event in protocol.events_received():
                if isinstance(event, Request):
                    protocol.send_response(protocol.accept(event))
                elif protocol.state is State.OPEN:
                    protocol.send_close(4001)
            for chunk in protocol.data_to_send():
                if chunk:
                    writer.write(chunk)
        writer.close()

    server = await asyncio.start_server(half_close, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = PlayerClient(f"ws://127.0.0.1:{port}/v1/play", "token", "wylding-woods")
    await client.start()
    await until(again, lambda: connections >= 2)
    began_s = asyncio.get_running_loop().time()
    await client.stop()
    assert asyncio.get_running_loop().time() - began_s < 4
    server.close()


# --- closes ---------------------------------------------------------------------------------------------------------


async def test_expired_token_is_replaced(gateway: Gateway) -> None:
    gateway.scripts = [refuse_with(4102), close_with(4102, after=2)]
    tokens = iter(["old", "newer", "newest"])

    async def get_token() -> str:
        return next(tokens)

    async with playing(gateway, token=get_token) as client:
        await client.wait_connected(WAIT_S)
        await client.wait_accepted(await make(client, 1, 3), WAIT_S)
        hellos = [frame for frame in gateway.received if frame["t"] == "hello"]
        assert [hello["token"] for hello in hellos] == ["old", "newer", "newest"]
        assert "resume" in hellos[2]


async def test_plain_token_that_is_refused_ends_the_client_and_it_says_why(gateway: Gateway) -> None:
    """
    A client with a wrong token, given as a plain string, sent it again and again for ever and said nothing: whoever
    waited for it saw a timeout.
    """
    notes = Notes()
    gateway.scripts = [refuse_with(4101)]
    client = PlayerClient(gateway.url, "not a token", "wylding-woods", listener=notes)
    await client.start()
    with pytest.raises(ClientStopped, match=r"4101 UNAUTHENTICATED.*function") as stopped:
        await client.wait_connected(WAIT_S)
    assert stopped.value.code == 4101 and client.stopped and gateway.connections == 1
    # Nothing is lost: the journal goes on with a client that has a better one.
    assert await client.update({"type": "step"}) == 1
    await client.stop()


async def test_function_whose_tokens_are_refused_is_asked_for_others(gateway: Gateway) -> None:
    gateway.scripts = [refuse_with(4101)] * 3
    tokens = itertools.count(1)
    async with playing(gateway, token=lambda: f"token {next(tokens)}") as client:
        await client.wait_connected(WAIT_S)
        hellos = [frame["token"] for frame in gateway.received if frame["t"] == "hello"]
        assert hellos == ["token 1", "token 2", "token 3", "token 4"]


async def test_provider_of_tokens_that_fails_is_asked_again(gateway: Gateway) -> None:
    calls = 0

    def get_token() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise OSError("the login server is away")
        return "token"

    async with playing(gateway, token=get_token) as client:
        await client.wait_connected(WAIT_S)
        assert calls == 3


async def test_draining_gateway_is_left_and_the_session_resumed(gateway: Gateway) -> None:
    gateway.scripts = [close_with(4001, after=3)]
    async with playing(gateway) as client:
        await client.wait_connected(WAIT_S)
        await client.wait_accepted(await make(client, 1, 5), WAIT_S)
        assert client.resumes == 1
        assert list_steps(gateway) == [1, 2, 3, 4, 5]


async def test_drain_frame_moves_the_client_at_a_quiet_moment(gateway: Gateway) -> None:
    notes = Notes()
    async with playing(gateway, listener=notes) as client:
        await client.wait_accepted(await make(client, 1, 3), WAIT_S)
        await gateway.broadcast({"t": "drain", "within_ms": 300})
        await until(notes.news, lambda: notes.resumes == ["resumed"])
        assert gateway.connections == 2
        assert list_steps(gateway) == [1, 2, 3]


async def test_ended_session_is_not_resumed(gateway: Gateway) -> None:
    gateway.scripts = [close_with(4007, after=2)]
    async with playing(gateway) as client:
        await client.wait_connected(WAIT_S)
        await client.wait_accepted(await make(client, 1, 3), WAIT_S)
        hellos = [frame for frame in gateway.received if frame["t"] == "hello"]
        assert "resume" not in hellos[1]
        assert client.session_id == "session-2"


async def test_replaced_client_stays_away_and_keeps_its_journal(gateway: Gateway) -> None:
    gateway.scripts = [close_with(4201, after=2)]
    notes = Notes()
    async with playing(gateway, listener=notes) as client:
        await make(client, 1, 3)
        with pytest.raises(ClientStopped) as stopped:
            await client.wait_saved(3, WAIT_S)
        assert stopped.value.code == 4201
        assert (client.stopped, client.stop_code, notes.stops) == (True, 4201, [4201])
        with pytest.raises(ClientStopped):
            await client.wait_connected(WAIT_S)
        with pytest.raises(ClientStopped):
            await client.query("state")
        assert client.made == 3
        assert await client.leave() is False
        # The player asks to play again.
        await client.start()
        await client.wait_accepted(3, WAIT_S)
        assert list_steps(gateway) == [1, 2, 3]


async def test_deleted_player_drops_journal_and_device(gateway: Gateway, tmp_path: Path) -> None:
    gateway.scripts = [close_with(4204, after=2)]
    journal = FileJournal(tmp_path / "journal", device="phone", **OWNER)
    client = PlayerClient(gateway.url, "token", "wylding-woods", journal=journal)
    await make(client, 1, 3)
    await client.start()
    with pytest.raises(ClientStopped):
        await client.wait_saved(3, WAIT_S)
    assert (client.made, client.device == "phone") == (0, False)
    await client.stop()
    await journal.close()
    again = FileJournal(tmp_path / "journal", **OWNER)
    assert (again.made, again.device == "phone") == (0, False)
    await again.close()


# --- stop and leave -------------------------------------------------------------------------------------------------


async def test_stop_without_a_gateway_is_quick(gateway: Gateway) -> None:
    await gateway.stop()
    client = PlayerClient(gateway.url, "token", "wylding-woods")
    await client.start()
    with pytest.raises(TimeoutError):
        await client.wait_connected(0.05)
    await client.stop()
    await client.stop()
    await gateway.start()
    await client.start()
    await client.wait_connected(WAIT_S)
    with pytest.raises(RuntimeError, match="running"):
        await client.start()
    await client.stop()


async def test_leave_without_a_gateway_says_that_it_is_not_saved(gateway: Gateway) -> None:
    await gateway.stop()
    client = PlayerClient(gateway.url, "token", "wylding-woods")
    await client.start()
    await make(client, 1, 2)
    assert await client.leave(0.1) is False
    assert (client.stopped, client.made) == (True, 2)
    await gateway.start()


async def test_cancelled_client_leaves_nothing_behind(gateway: Gateway) -> None:
    before = asyncio.all_tasks()
    client = PlayerClient(gateway.url, "token", "wylding-woods")
    await client.start()
    await client.wait_connected(WAIT_S)
    waiting = asyncio.create_task(client.wait_accepted(9, WAIT_S))
    await asyncio.sleep(0)
    assert client._run_task is not None
    client._run_task.cancel()
    with pytest.raises(ClientStopped):
        await waiting
    await client.stop()
    assert not [task for task in asyncio.all_tasks() - before if "PlayerClient" in repr(task)]


# --- queries, background --------------------------------------------------------------------------------------------


async def test_query_survives_a_lost_connection(gateway: Gateway) -> None:
    async def cut_at_query(gateway: Gateway, connection: ServerConnection) -> None:
        await play(gateway, connection, 1)
        await connection.recv()
        connection.transport.abort()

    gateway.scripts = [cut_at_query]
    async with playing(gateway) as client:
        assert await client.query("inventory") == {"of": "inventory"}
        assert gateway.connections == 2


async def test_query_errors(gateway: Gateway) -> None:
    async def answer(gateway: Gateway, connection: ServerConnection) -> None:
        codec = codec_for(connection.subprotocol)
        await play(gateway, connection, 1)
        answers: list[dict[str, Any] | None] = [
            {"code": 200, "retry_after_ms": 1},
            {"code": 102},
            None,
        ]
        for more in answers:
            query = codec.decode(await connection.recv())
            if more is not None:
                error = {"t": "error", "name": "NAME", "message": "why", "id": query["id"], **more}
                await gateway.send(connection, error)
        await connection.wait_closed()

    gateway.scripts = [answer]
    async with playing(gateway) as client:
        with pytest.raises(QueryRefused) as refused:
            await client.query("history", {"limit": -1})
        assert (refused.value.code, refused.value.message) == (102, "why")
        with pytest.raises(TimeoutError):
            await client.query("state", timeout_s=0.05)
        assert client._waiting.queries == {}


async def test_suspended_client_comes_back_by_itself_with_the_next_step() -> None:
    gateway = Gateway(heartbeat_s=0.1)
    await gateway.start()
    async with playing(gateway) as client:
        assert await client.suspend(60) == 60
        pings = [frame for frame in gateway.received if frame["t"] == "ping"]
        await client.wait_accepted(await make(client, 1, 1), WAIT_S)
        assert [frame for frame in gateway.received if frame["t"] == "ping"] == pings
        await client.suspend(60)
        client.wake()
        await until(gateway.news, lambda: gateway.received[-1]["t"] == "ping")
        assert gateway.connections == 1
    await gateway.stop()


async def test_wake_reconnects_at_once_when_the_network_is_back(gateway: Gateway) -> None:
    paused = asyncio.Event()

    class Watched(PlayerClient):
        async def _pause(self, after_s: float) -> None:
            paused.set()
            await super()._pause(3_600)

    await gateway.stop()
    client = Watched(gateway.url, "token", "wylding-woods")
    await client.start()
    await asyncio.wait_for(paused.wait(), WAIT_S)
    await gateway.start()
    client.wake()
    await client.wait_connected(WAIT_S)
    await client.stop()


# --- the journal ----------------------------------------------------------------------------------------------------


class HeldDisk(Disk):
    """A disk whose syncs wait until they are let go."""

    def __init__(self) -> None:
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.syncs = 0
        self.fails: OSError | None = None

    def sync(self, handle: int) -> None:
        assert self.may_sync.wait(WAIT_S)
        self.syncs += 1
        super().sync(handle)

    def append(self, handle: int, data: bytes) -> None:
        if self.fails is not None:
            raise self.fails
        super().append(handle, data)


async def test_nothing_leaves_the_device_before_it_is_synced(gateway: Gateway, tmp_path: Path) -> None:
    disk = HeldDisk()
    journal = FileJournal(tmp_path / "journal", disk=disk, **OWNER)
    async with playing(gateway, journal=journal) as client:
        await client.wait_connected(WAIT_S)
        disk.may_sync.clear()
        disk.syncs = 0
        steps = [asyncio.create_task(make(client, n, n)) for n in range(1, 51)]
        # To see that nothing was sent, wait for something that is sent later.
        await client.query("state")
        assert [frame for frame in gateway.received if frame["t"] in ("update", "batch")] == []
        disk.may_sync.set()
        assert sorted(await asyncio.gather(*steps)) == list(range(1, 51))
        await client.wait_accepted(50, WAIT_S)
        assert disk.syncs <= 2, "updates that come together share a sync"
        assert sorted(list_steps(gateway)) == list(range(1, 51))
    await journal.close()


async def test_step_whose_caller_was_cancelled_is_sent_all_the_same(gateway: Gateway, tmp_path: Path) -> None:
    gateway.model.heartbeat_s = 0.2
    disk = HeldDisk()
    journal = FileJournal(tmp_path / "journal", disk=disk, **OWNER)
    async with playing(gateway, journal=journal) as client:
        await client.wait_connected(WAIT_S)
        disk.may_sync.clear()
        step = asyncio.create_task(make(client, 1, 1))
        await asyncio.sleep(0)
        step.cancel()
        await asyncio.wait([step])
        disk.may_sync.set()
        await client.wait_accepted(1, WAIT_S)
    await journal.close()


async def test_full_disk_refuses_the_step_and_the_next_takes_its_number(gateway: Gateway, tmp_path: Path) -> None:
    disk = HeldDisk()
    journal = FileJournal(tmp_path / "journal", disk=disk, **OWNER)
    notes = Notes()
    async with playing(gateway, journal=journal, listener=notes) as client:
        await make(client, 1, 2)
        disk.fails = OSError(28, "No space left on device")
        with pytest.raises(OSError, match="space"):
            await make(client, 99, 99)
        assert notes.unmade == [3]
        disk.fails = None
        await client.wait_accepted(await make(client, 3, 3), WAIT_S)
        assert list_steps(gateway) == [1, 2, 3]
    await journal.close()
    with pytest.raises(JournalBroken):
        await client.event("late")


async def test_journal_brings_back_what_a_dead_process_had_not_sent(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = FileJournal(path, **OWNER)
    async with playing(gateway, journal=journal) as client:
        await client.wait_accepted(await make(client, 1, 5), WAIT_S)
        client.drop_connection()
        await make(client, 6, 8)
    device = journal.device
    await journal.close()
    async with playing(gateway, journal=FileJournal(path, **OWNER)) as client:
        assert (client.device, client.made) == (device, 8)
        await client.wait_accepted(8, WAIT_S)
        assert list_steps(gateway) == list(range(1, 9))
        await client.journal.close()


async def test_restored_backup_counts_nothing_twice_and_loses_nothing(gateway: Gateway, tmp_path: Path) -> None:
    """A phone is backed up, walks on, and is restored: what was accepted since is not sent again, the rest is."""
    path = tmp_path / "old phone" / "journal"
    journal = FileJournal(path, **OWNER)
    async with playing(gateway, journal=journal) as client:
        await client.wait_accepted(await make(client, 1, 3), WAIT_S)
        gateway.scripts = [say_nothing]
        client.drop_connection()
        await make(client, 4, 6)
        backup = path.read_bytes()
    async with playing(gateway, journal=journal) as client:
        await client.wait_accepted(5, WAIT_S)
    device = journal.device
    await journal.close()

    path = tmp_path / "new phone" / "journal"
    path.parent.mkdir()
    path.write_bytes(backup)
    restored = FileJournal(path, **OWNER)
    assert restored.moved_at == 6
    notes = Notes()
    async with playing(gateway, journal=restored, listener=notes) as client:
        await make(client, 7, 9)
        await until(notes.news, lambda: bool(notes.resets))
        await client.wait_accepted(client.made, WAIT_S)
        assert client.device != device
        assert list_steps(gateway) == list(range(1, 10))
    await restored.close()


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_restored_database_makes_a_new_stream(gateway: Gateway, tmp_path: Path, kind: str) -> None:
    journal = FileJournal(tmp_path / "journal", **OWNER) if kind == "file" else MemoryJournal()
    notes = Notes()
    async with playing(gateway, journal=journal, listener=notes) as client:
        await client.wait_accepted(await make(client, 1, 6), WAIT_S)
        await gateway.flush()
        await client.wait_saved(6, WAIT_S)
        await make(client, 7, 8)
        await client.wait_accepted(8, WAIT_S)
        gateway.model.lose_cold(client.device, 4)
        gateway.scripts = [play]
        saved = asyncio.create_task(client.wait_saved(8, WAIT_S))
        client.drop_connection()
        await until(notes.news, lambda: notes.resets == [{7: 1, 8: 2}])
        await client.wait_accepted(2, WAIT_S)
        await make(client, 9, 9)
        await client.wait_accepted(3, WAIT_S)
        await gateway.flush()
        await saved
        await client.wait_saved(3, WAIT_S)
        assert list_steps(gateway) == [1, 2, 3, 4, 7, 8, 9]
    await journal.close()


async def test_step_made_during_a_reset_answers_its_new_number(gateway: Gateway, tmp_path: Path) -> None:
    disk = HeldDisk()
    journal = FileJournal(tmp_path / "journal", disk=disk, **OWNER)
    notes = Notes()
    client = PlayerClient(gateway.url, "token", "wylding-woods", journal=journal, listener=notes)
    await make(client, 1, 6)
    journal.forget(6)  # told by a server that has since forgotten
    disk.may_sync.clear()
    step = asyncio.create_task(make(client, 7, 7))
    await asyncio.sleep(0)
    await client.start()
    await until(notes.news, lambda: notes.resets == [{7: 1}])
    disk.may_sync.set()
    assert await step == 1
    await client.wait_accepted(1, WAIT_S)
    await client.stop()
    await journal.close()


async def test_what_cannot_be_sent_is_refused_before_it_has_a_number(gateway: Gateway) -> None:
    client = PlayerClient(gateway.url, "token", "wylding-woods", journal=MemoryJournal(entries_max=2))
    with pytest.raises(UpdateRefused, match="32768"):
        await client.event("note", data={"text": "x" * 33_000})
    with pytest.raises(UpdateRefused):
        await client.event("note", data={"when": object()})
    with pytest.raises(UpdateRefused):
        await client.event("note", data={"big": 2**70})
    with pytest.raises(UpdateRefused, match="bytes"):
        await client.event("note", data={"list": [1, b"raw"]})
    with pytest.raises(UpdateRefused, match="a key is text"):
        await client.update(None, [{"op": "set", "path": "a", "value": {1: 2}}])
    deep: dict[str, Any] = {}
    for _ in range(3000):
        deep = {"d": deep}
    with pytest.raises(UpdateRefused):
        await client.event("note", data=deep)
    assert client.made == 0
    await make(client, 1, 2)
    with pytest.raises(JournalFull):
        await make(client, 3, 3)
    assert client.made == 2
    json_client = PlayerClient(gateway.url, "token", "wylding-woods", codec="json")
    with pytest.raises(UpdateRefused):
        await json_client.event("note", data={"n": float("nan")})
    with pytest.raises(UpdateRefused, match="32768"):
        await json_client.event("note", data={"text": '"' * 17_000})


def test_addresses_and_devices_are_checked_at_once() -> None:
    with pytest.raises(ValueError, match="isn't a valid URI"):
        PlayerClient("http://localhost/", "token", "wylding-woods")
    with pytest.raises(ValueError, match="another device"):
        PlayerClient("ws://localhost/", "token", "wylding-woods", journal=MemoryJournal("a"), device="b")
    with pytest.raises(KeyError):
        PlayerClient("ws://localhost/", "token", "wylding-woods", codec="xml")


# --- cost -----------------------------------------------------------------------------------------------------------


async def test_a_client_is_one_task_and_little_memory(gateway: Gateway) -> None:
    """Thousands share a process in a load test. Counted is what Python allocates; sockets' buffers come on top."""
    count = 60
    warm = PlayerClient(gateway.url, "token", "wylding-woods")
    await warm.start()
    await warm.wait_connected(WAIT_S)
    tasks = len(asyncio.all_tasks())
    await gateway.stop()

    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    clients = [PlayerClient(gateway.url, "token", "wylding-woods") for _ in range(count)]
    for client in clients:
        await make(client, 1, 3)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / count < 8 * 1024
    for client in clients:
        await client.start()
    assert len(asyncio.all_tasks()) <= tasks + count
    for client in clients:
        await client.stop()
    await warm.stop()
    await gateway.start()


@pytest.mark.parametrize(
    ("token", "life_s"),
    [
        ("eyJhbGciOiJIUzI1NiJ9.eyJpYXQiOjEwMDAsImV4cCI6NDYwMH0.x", 3600.0),
        ("eyJhbGciOiJIUzI1NiJ9.eyJpYXQiOjEwMDAsImV4cCI6OTAwfQ.x", None),
        ("a.b.c", None),
        ("opaque", None),
        ("a.W10.c", None),
        ("a.eyJleHAiOiJ4In0.c", None),
    ],
)
def test_life_of_a_token_is_read_from_its_own_claims(token: str, life_s: float | None) -> None:
    assert find_token_life_s(token) == life_s
