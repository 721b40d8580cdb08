"""The mud, with a clock that the test turns: links, phones that die, mishaps, and sockets over a wire of ours."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.link import Lane, Link
from loadtest.mud import KINDS, LEVELS, Mishaps, Mud, choose_mud
from loadtest.phone_disk import PhoneDisk
from loadtest.schedule import AT_ONCE_MAX, Schedule
from loadtest.transport import LeanSocket, open_socket
from protocol.client.file_journal import FileJournal
from protocol.client.player_client import SERVER_FRAME_BYTES_MAX


class FakeLoop:
    """The part of a loop that lanes use, on a clock of the test's."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, at_s: float, what: Callable[[], None]) -> Any:
        self.timers.append((at_s, what))

        class Timer:
            def cancel(timer) -> None:
                self.timers = [one for one in self.timers if one[1] is not what]

        return Timer()

    def go_to(self, at_s: float) -> None:
        while self.timers and min(self.timers, key=lambda one: one[0])[0] <= at_s:
            first = min(self.timers, key=lambda one: one[0])
            self.timers.remove(first)
            self.now_s = max(self.now_s, first[0])
            first[1]()
        self.now_s = at_s


def test_bytes_arrive_after_the_latency_in_their_order_whatever_the_jitter() -> None:
    loop, arrived = FakeLoop(), bytearray()
    link = Link(random.Random(1), latency_ms=100, jitter_ms=400)
    lane = Lane(loop, link, arrived.extend)  # type: ignore[arg-type]
    sent = bytes(range(100))
    for byte in sent:
        lane.put(bytes([byte]))
        loop.go_to(loop.now_s + 0.005)
        assert len(arrived) <= max(0, (loop.now_s - 100.1) / 0.005 + 1)
    loop.go_to(101.2)
    assert bytes(arrived) == sent and lane.size_bytes == 0


def test_what_is_sent_in_a_tunnel_waits_for_its_end_and_nothing_is_lost() -> None:
    loop, arrived = FakeLoop(), bytearray()
    link = Link(random.Random(1))
    lane = Lane(loop, link, arrived.extend)  # type: ignore[arg-type]
    link.go_down(130.0, is_hanging=False)
    lane.put(b"first ")
    loop.go_to(129.9)
    assert not arrived
    loop.go_to(130.7)
    link.come_up(is_forgotten=False)
    lane.put(b"second")
    loop.go_to(130.8)
    assert bytes(arrived) == b"first second" and link.is_clear


async def test_without_a_network_connections_hang_or_fail() -> None:
    loop = asyncio.get_running_loop()
    link = Link(random.Random(1))
    link.go_down(loop.time() + 60, is_hanging=False)
    with pytest.raises(OSError, match="no network"):
        await open_socket("ws://127.0.0.1:1/v1/play", "wayhold.v1.msgpack", 5, None, link)
    link.go_down(loop.time() + 60, is_hanging=True)
    with pytest.raises(OSError, match="no network"):
        await open_socket("ws://127.0.0.1:1/v1/play", "wayhold.v1.msgpack", 0.02, None, link)


def test_mishaps_come_as_often_as_the_mud_says_and_in_the_same_way_for_the_same_seed() -> None:
    mud = Mud(dropout_every_s=60, app_kill_every_s=180)

    def list_hour(seed: int) -> list[str]:
        mishaps, at_s, kinds = Mishaps(mud, random.Random(seed)), 0.0, []
        while at_s < 360_000:
            found = mishaps.next()
            assert found is not None
            at_s += found[0]
            kinds.append(found[1])
        return kinds

    kinds = list_hour(1)
    assert kinds == list_hour(1) != list_hour(2)
    assert set(kinds) == {"dropout", "app_kill"}
    assert 5600 < kinds.count("dropout") < 6400 and 1850 < kinds.count("app_kill") < 2150
    assert Mishaps(Mud(), random.Random(1)).next() is None


def test_single_flags_take_the_place_of_the_levels_values() -> None:
    assert choose_mud("heavy") == LEVELS["heavy"]
    chosen = choose_mud("heavy", latency_ms=0.0, dropout_every_s=None)
    assert chosen.latency_ms == 0 and chosen.dropout_every_s == LEVELS["heavy"].dropout_every_s
    assert all(LEVELS["heavy"].find_every_s(kind) > 0 for kind in KINDS)
    assert not LEVELS["none"].has_link and not LEVELS["light"].needs_journals and LEVELS["heavy"].needs_journals


def open_journal(disk: PhoneDisk) -> FileJournal:
    return FileJournal(Path("journal"), server="s", player="p", experience="e", disk=disk)


async def test_a_dead_app_finds_what_it_wrote_and_a_dead_phone_what_it_synced() -> None:
    disk = PhoneDisk()
    journal = open_journal(disk)
    for number in range(5):
        journal.append(b"update %d" % number)
    await journal.sync()
    journal.append(b"never written")
    for is_power_cut in (False, True):
        after = open_journal(disk.survive(random.Random(1), is_power_cut=is_power_cut))
        assert (after.made, after.device) == (5, journal.device)
        assert after.list_after(0, 10)[-1] == (5, b"update 4")


async def test_a_record_that_was_written_and_not_synced_may_go_with_the_power_and_only_whole() -> None:
    disk = PhoneDisk()
    disk.sync = lambda handle: None  # type: ignore[method-assign]
    journal = open_journal(disk)
    first_bytes = len(disk.read(Path("journal")) or b"")
    journal.append(b"x" * 50)
    await journal.sync()
    assert len(disk.read(Path("journal")) or b"") > first_bytes
    made = {open_journal(disk.survive(random.Random(seed), is_power_cut=True)).made for seed in range(60)}
    assert made == {0, 1} or made == {0}
    assert open_journal(disk.survive(random.Random(1), is_power_cut=False)).made == 1


def test_what_is_due_is_done_in_order_and_how_late_is_told() -> None:
    now, done, late = [1000.0], [], []
    schedule = Schedule(lambda: now[0], late.append)
    for due_ms in (1300.0, 1100.0, 1200.0, 1100.0):
        schedule.at(due_ms, done.append)
    assert schedule.run_due() == 0
    now[0] = 1250.0
    assert schedule.run_due() == 3
    assert done == [1100.0, 1100.0, 1200.0] and late == [150.0, 150.0, 50.0]
    assert schedule.find_next_ms() == 1300.0


def test_a_crowd_that_is_due_at_once_is_done_in_bounded_parts() -> None:
    schedule = Schedule(lambda: 1.0)
    for _ in range(AT_ONCE_MAX + 5):
        schedule.at(0.0, lambda due_ms: None)
    assert [schedule.run_due(), schedule.run_due(), schedule.run_due()] == [AT_ONCE_MAX, 5, 0]


# --- the socket, byte by byte --------------------------------------------------------------------------------------


class FakeTransport:
    def __init__(self) -> None:
        self.sent = bytearray()
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted


async def shake_hands(socket: LeanSocket, transport: FakeTransport, extra: bytes = b"") -> None:
    shaking = asyncio.create_task(socket.shake_hands("host:1", "/v1/play", "wayhold.v1.msgpack"))
    await asyncio.sleep(0)
    key = bytes(transport.sent).split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proof
    answer += b"\r\nSec-WebSocket-Protocol: wayhold.v1.msgpack\r\n\r\n" + extra
    for at in range(len(answer)):
        socket.data_received(answer[at : at + 1])
    await shaking
    transport.sent.clear()


def connect(link: Link | None = None) -> tuple[LeanSocket, FakeTransport]:
    socket, transport = LeanSocket(asyncio.get_running_loop(), link), FakeTransport()
    socket.connection_made(transport)  # type: ignore[arg-type]
    return socket, transport


def frame(opcode: int, payload: bytes, is_last: bool = True) -> bytes:
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7f" + size.to_bytes(8, "big")
    if 126 <= size < 65536:
        length = b"\x7e" + size.to_bytes(2, "big")
    return bytes([(0x80 if is_last else 0) | opcode]) + length + payload


async def read(socket: LeanSocket, data: bytes, step: int) -> tuple[list[Any], asyncio.Task[int | None]]:
    heard: list[Any] = []
    reading = asyncio.create_task(socket.read_all(heard.append))
    await asyncio.sleep(0)
    for at in range(0, len(data), step):
        socket.data_received(data[at : at + step])
    return heard, reading


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
async def test_messages_of_every_length_arrive_whole_however_they_are_cut(step: int) -> None:
    socket, transport = connect()
    await shake_hands(socket, transport)
    assert socket.subprotocol == "wayhold.v1.msgpack"
    sizes = (0, 1, 125, 126, 127, 65535, 65536) if step > 1 else (0, 125, 126, 300)
    data = b"".join(frame(2, bytes(size)) for size in sizes)
    data += frame(2, b"one ", is_last=False) + frame(9, b"ping") + frame(0, b"two") + frame(1, "größe".encode())
    data += frame(8, (4001).to_bytes(2, "big") + b"draining")
    heard, reading = await read(socket, data, step)
    assert [len(message) for message in heard[: len(sizes)]] == list(sizes)
    assert heard[len(sizes) :] == [b"one two", "größe"]
    assert transport.sent == b"\x8a\x84\0\0\0\0ping\x88\x82\0\0\0\0" + (4001).to_bytes(2, "big")
    socket.connection_lost(None)
    assert await reading == 4001


async def test_a_message_that_came_with_the_handshake_is_heard() -> None:
    socket, transport = connect()
    await shake_hands(socket, transport, frame(2, b"early"))
    heard, reading = await read(socket, b"", 1)
    assert heard == [b"early"]
    socket.connection_lost(None)
    assert await reading is None


@pytest.mark.parametrize(
    "wrong", [b"\x82\x7f" + (SERVER_FRAME_BYTES_MAX + 1).to_bytes(8, "big"), frame(0, b"no first fragment")]
)
async def test_what_no_server_may_send_ends_the_socket(wrong: bytes) -> None:
    socket, transport = connect()
    await shake_hands(socket, transport)
    _, reading = await read(socket, wrong, 1 << 20)
    assert await reading is None and transport.is_aborted


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 503 No\r\nRetry-After: 1\r\n\r\n", b"HTTP/1.1 101 Yes\r\n\r\n", b"x" * 20000]
)
async def test_a_refused_handshake_is_an_os_error(answer: bytes) -> None:
    socket, transport = connect()
    shaking = asyncio.create_task(socket.shake_hands("host:1", "/", "wayhold.v1.msgpack"))
    await asyncio.sleep(0)
    socket.data_received(answer)
    with pytest.raises(OSError):
        await shaking
    assert transport.is_aborted


async def test_a_silent_socket_tells_neither_side_anything() -> None:
    link = Link(random.Random(1))
    socket, transport = connect(link)
    await shake_hands(socket, transport)
    heard, reading = await read(socket, frame(2, b"before"), 99)
    link.forget_sockets()
    socket.data_received(frame(2, b"after"))
    socket.write(b"lost", False)
    socket.connection_lost(None)
    await asyncio.sleep(0)
    assert heard == [b"before"] and not transport.sent and not reading.done()
    socket.abort()
    assert await reading is None and not transport.is_aborted
