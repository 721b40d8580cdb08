"""What a client writes to its socket, and when: in order whoever makes an update, nothing to one that is full."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgpack

from protocol.client.journal import FileJournal, Journal
from protocol.client.listener import PlayerListener
from protocol.client.machine import SessionMachine
from protocol.client.player_client import PlayerClient
from protocol.codec import MSGPACK
from tests.unit.client.rig import SlowJournal, list_updates, make_welcome
from tests.waiting import wait_until


class Socket:
    """Takes what it is given, and hears what the test says."""

    def __init__(self) -> None:
        self.subprotocol = MSGPACK.subprotocol
        self.on_writable: Callable[[Any], None] | None = None
        self.paused = False
        self.written: list[dict[str, Any]] = []
        self._ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._receive: Callable[[bytes], None] | None = None

    def write(self, payload: bytes, is_text: bool) -> None:
        self.written.append(msgpack.unpackb(payload))

    async def read_all(self, receive: Callable[[Any], None]) -> int | None:
        self._receive = receive
        return await self._ended

    def hear(self, frame: dict[str, Any]) -> None:
        assert self._receive is not None
        self._receive(MSGPACK.encode(frame))

    def hang_up(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    def abort(self) -> None:
        self.hang_up(1006)

    @property
    def seqs(self) -> list[int]:
        return [update["seq"] for update in list_updates(self.written)]


@asynccontextmanager
async def connect(
    listener: PlayerListener | None = None, journal: Journal | None = None
) -> AsyncIterator[tuple[PlayerClient, Socket]]:
    sockets: list[Socket] = []

    async def open_socket(*_: object) -> Any:
        sockets.append(Socket())
        return sockets[-1]

    async def has_said_hello() -> bool:
        return bool(sockets and sockets[0].written)

    more: dict[str, Any] = {"journal": journal, "listener": listener, "open_socket": open_socket}
    client = PlayerClient("ws://nowhere/", lambda: "token", "e", random=Random(1), **more)
    await client.start()
    try:
        await wait_until("said hello", has_said_hello)
        yield client, sockets[0]
    finally:
        await client.stop()


class MakesOnState(PlayerListener):
    client: PlayerClient | None = None

    def on_state(self, *_: Any) -> None:
        if self.client is not None:
            self.client.make({"type": "back"})


async def test_what_a_listener_makes_goes_after_what_waited_in_the_journal() -> None:
    listener = MakesOnState()
    async with connect(listener) as (client, socket):
        for _ in range(3):
            client.make({"type": "before"})
        listener.client = client
        socket.hear(make_welcome())
        assert socket.seqs == [1, 2, 3, 4]
        client.make({"type": "after"})
        assert socket.seqs == [1, 2, 3, 4, 5]


async def test_a_full_socket_is_given_nothing_more_until_it_is_writable() -> None:
    async with connect() as (client, socket):
        socket.hear(make_welcome())
        client.make({"type": "e"})
        socket.paused = True
        for _ in range(5):
            client.make({"type": "e"})
        assert socket.seqs == [1, 2]  # it is asked after each write
        socket.paused = False
        assert socket.on_writable is not None
        socket.on_writable(socket)
        assert socket.seqs == [1, 2, 3, 4, 5, 6]


async def test_made_without_waiting_an_update_is_synced_before_it_is_sent(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal", server="ws://nowhere/", player="p", experience="e")
    async with connect(journal=journal) as (client, socket):
        socket.hear(make_welcome())
        for _ in range(20):
            client.make({"type": "e"})
        assert socket.seqs == [] and journal.synced == 0

        async def are_sent() -> bool:
            return len(socket.seqs) == 20

        await wait_until("all are sent", are_sent)
        assert socket.seqs == list(range(1, 21)) and journal.synced == 20


def test_the_short_way_leaves_what_is_not_synced_and_what_a_full_socket_would_get() -> None:
    journal = SlowJournal()
    machine = SessionMachine(journal, "e", random=Random(1))
    machine.connected("token", 0)
    machine.received(make_welcome(), 0)
    journal.is_slow = True
    seq = journal.append(MSGPACK.encode({"event": {"type": "e"}}))
    assert machine.send_made(seq, 1) is None
    journal.sync_now()
    machine.note_choked()
    assert machine.send_made(seq, 2) is None
    machine.writable(3)
    assert machine._outbox.sent_max == 1
