"""
The load test's own sockets against a WebSocket server that is not ours, and the real client over them: what is made is
accepted by the server's word, through the mud, too.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from loadtest.history import HistoryWriter
from loadtest.link import Link
from loadtest.phone import Account, Phone
from loadtest.phone_disk import PhoneDisk
from loadtest.recording import Recording
from loadtest.tally import Tally
from loadtest.target import Target
from loadtest.transport import LeanSocket, open_socket
from protocol.client.journal import FileJournal
from protocol.client.player_client import PlayerClient, PlayerListener
from protocol.codec import codec_named
from tests.integration.gateway_rig import EXPERIENCE, SECRET, new_user, run_rig
from tests.waiting import wait_until

MSGPACK = codec_named("msgpack")


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        if message == b"close":
            await connection.close(4001, "draining")
            return
        await connection.send(message)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve(echo, "127.0.0.1", 0, subprotocols=["wayhold.v1.msgpack"], compression=None) as running:  # type: ignore[list-item]
        yield running


def url_of(server: Server) -> str:
    return f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1/play"


@pytest.mark.parametrize("latency_ms", [0, 3])
async def test_messages_go_both_ways_whole_and_in_order_and_the_close_code_arrives(
    server: Server, latency_ms: int
) -> None:
    link = Link(random.Random(1), latency_ms, latency_ms) if latency_ms else None
    socket = await open_socket(url_of(server), "wayhold.v1.msgpack", 5, None, link)
    assert isinstance(socket, LeanSocket) and socket.subprotocol == "wayhold.v1.msgpack"
    sizes = (1, 125, 126, 65535, 65536, 300_000)
    for size in sizes:
        socket.write(bytes(size), False)
    socket.write("größe", True)
    socket.write(b"close", False)
    heard: list[str | bytes] = []
    async with asyncio.timeout(20):
        assert await socket.read_all(heard.append) == 4001
    assert [len(message) for message in heard[:-1]] == list(sizes) and heard[-1] == "größe"


async def test_a_polite_end_is_heard_by_the_server_and_one_without_an_answer_does_not_take_for_ever(
    server: Server,
) -> None:
    socket = await open_socket(url_of(server), "wayhold.v1.msgpack", 5, None)
    reading = asyncio.create_task(socket.read_all(lambda message: None))
    await asyncio.sleep(0)
    socket.hang_up(1000)
    async with asyncio.timeout(10):
        assert await reading == 1000


async def test_a_server_that_is_none_is_an_os_error() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as refusing:
        port = refusing.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match=r"no WebSocket there: HTTP/1\.1 503"):
            await open_socket(f"ws://127.0.0.1:{port}/v1/play", "wayhold.v1.msgpack", 5, None)


class Told(PlayerListener):
    def __init__(self) -> None:
        self.made: list[int] = []

    def on_made(self, device: str, seq: int, frame: object) -> None:
        self.made.append(seq)


async def gateway(accepted: list[int], connection: ServerConnection) -> None:
    """As much of a gateway as one player needs."""
    hello = MSGPACK.decode(await connection.recv())
    welcome = {
        "t": "welcome",
        "session": {"id": "s", "token": "t", "expires_s": 60},
        "resumed": False,
        "reason": "new",
        "seq": {"accepted": 0, "saved": 0},
        "state": {},
        "version": 0,
        "heartbeat_s": 20,
        "window": 256,
        "limits": {},
        "server_time": hello["at"],
    }
    await connection.send(MSGPACK.encode(welcome))
    async for message in connection:
        frame = MSGPACK.decode(message)
        for update in frame.get("updates", [frame]):
            if "seq" in update:
                accepted.append(update["seq"])
                ack = {"t": "ack", "seq": update["seq"], "version": update["seq"], "saved": 0}
                await connection.send(MSGPACK.encode(ack))


async def test_updates_made_without_waiting_are_sent_once_their_phone_has_synced_them() -> None:
    accepted: list[int] = []
    told = Told()
    disk = PhoneDisk()
    link = Link(random.Random(1), 2, 2)
    async with serve(
        functools.partial(gateway, accepted), "127.0.0.1", 0, subprotocols=["wayhold.v1.msgpack"]
    ) as running:  # type: ignore[list-item]
        client = PlayerClient(
            url_of(running),
            "token",
            "wylding-woods",
            journal=FileJournal(Path("journal"), server="s", player="p", experience="wylding-woods", disk=disk),
            listener=told,
            open_socket=functools.partial(open_socket, link=link),
            wall_clock_s=lambda: 1_000_000.0,
        )
        await client.start()
        seqs = [client.make({"type": "waypoint_visited", "content_id": "x"}) for _ in range(5)]
        assert seqs == told.made == [1, 2, 3, 4, 5]
        await client.wait_accepted(5, 20)
        await client.stop()
    assert accepted == seqs and client.journal.synced == 5


async def test_players_of_a_run_that_is_longer_than_their_tokens_renew_them_in_time(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async with run_rig(redis_url, database_url) as rig:
        user_id, tally = new_user(), Tally()
        # A token tells whole seconds, so it lives for five at least; the last fifth of that is for a busy machine.
        make_token = functools.partial(Target(rig.url, None, secret=SECRET).make_token, user_id, ttl_s=6)
        writer = HistoryWriter(tmp_path / "history", is_crash_safe=False)
        account = Account(rig.url, EXPERIENCE, user_id, make_token)
        recording = Recording(0, writer, tally)
        phone = Phone(account, recording, random.Random(1), link=None, has_disk=False, source_address=None)
        due: list[float] = []

        async def is_renewed() -> bool:
            connection = rig.node.players.get(user_id)
            if connection is not None and connection.token_due is not None:
                due.append(connection.token_due)
            return bool(due) and due[-1] > due[0]

        phone.start()
        await wait_until("the gateway has a newer token of the same connection", is_renewed)
        assert phone.client.connected and not tally.closes
        await phone.client.stop()
        writer.close()
