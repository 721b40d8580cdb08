"""The short way for whole frames and the library's way for all others must be one behaviour."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.sockets import player_socket
from protocol.limits import FRAME_BYTES_MAX
from tests.unit.sockets.socket_rig import Raw, frame, run_sockets

LENGTHS = [*range(132), 255, 256, 4095, 65_534, 65_535, FRAME_BYTES_MAX]


def payload_of(length: int) -> bytes:
    return bytes(index * 7 % 256 for index in range(min(length, 251))) * (length // 251 + 1)


async def expect_echo(raw: Raw, payload: bytes) -> None:
    assert await raw.read_frame() == (2, payload)


async def test_every_length_comes_through_whole() -> None:
    async with run_sockets() as rig, rig.opened() as raw:
        for length in LENGTHS:
            payload = payload_of(length)[:length]
            await raw.send(frame(payload))
            await expect_echo(raw, payload)


async def test_bytes_that_dribble_in_one_by_one_make_the_same_frames() -> None:
    payloads = [b"", b"a", payload_of(125)[:125], payload_of(126)[:126], payload_of(300)[:300]]
    stream = b"".join(
        frame(p) + frame(b"ping", opcode=9) + frame(p, fin=False) + frame(b"tail", opcode=0) for p in payloads
    )
    async with run_sockets() as rig, rig.opened() as raw:
        for index in range(len(stream)):
            await raw.send(stream[index : index + 1])
            if index % 16 == 0:
                await asyncio.sleep(0)
        expected = [part for p in payloads for part in (p, p + b"tail")]
        await raw.echo.until(lambda echo: len(echo.received) == len(expected))
        assert raw.echo.received == expected


@pytest.mark.parametrize("seed", range(6))
async def test_any_mix_of_frames_cut_anywhere_makes_the_same_messages(seed: int) -> None:
    rng = random.Random(seed)
    expected: list[bytes] = []
    stream = b""
    for _ in range(60):
        payload = rng.randbytes(rng.choice([0, 1, 5, 125, 126, 127, 1000, 20_000]))
        if rng.random() < 0.5:
            stream += frame(payload)
        else:
            cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.randrange(1, 4)))
            parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
            for index, part in enumerate(parts):
                if rng.random() < 0.4:
                    stream += frame(b"x" * rng.randrange(126), opcode=rng.choice([9, 10]))
                stream += frame(part, opcode=2 if index == 0 else 0, fin=index == len(parts) - 1)
        expected.append(payload)
    async with run_sockets() as rig, rig.opened() as raw:
        raw.echo.echoes = False
        reading = asyncio.create_task(raw.read_end())
        at = 0
        while at < len(stream):
            step = rng.choice([1, 2, 3, 7, 100, 5000, 70_000])
            await raw.send(stream[at : at + step])
            at += step
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        await raw.echo.until(lambda echo: len(echo.received) == len(expected))
        assert raw.echo.received == expected
        reading.cancel()


async def test_a_ping_between_fragments_is_answered_at_once() -> None:
    async with run_sockets() as rig, rig.opened() as raw:
        await raw.send(frame(b"one ", fin=False) + frame(b"are you there", opcode=9))
        assert await raw.read_frame() == (10, b"are you there")
        await raw.send(frame(b"two", opcode=0))
        await expect_echo(raw, b"one two")
        await raw.send(frame(b"whole"))
        await expect_echo(raw, b"whole")


async def test_an_unsolicited_pong_is_ignored() -> None:
    async with run_sockets() as rig, rig.opened() as raw:
        await raw.send(frame(b"", opcode=10) + frame(b"x"))
        await expect_echo(raw, b"x")


async def test_no_library_object_is_kept_while_nothing_but_whole_frames_come() -> None:
    """The memory of an idle connection depends on it."""
    async with run_sockets() as rig, rig.opened() as raw:
        for data in (frame(b"x"), frame(b"", opcode=9) + frame(b"x"), frame(b"", fin=False) + frame(b"x", opcode=0)):
            await raw.send(data)
            while (await raw.read_frame())[0] != 2:
                pass
            (player,) = rig.server._sockets
            assert player._protocol is None and player._tail is None and player._parts is None


async def test_reading_stands_still_while_paused_even_for_what_has_arrived() -> None:
    async with run_sockets() as rig, rig.opened() as raw:
        raw.echo.pause_after = 3
        await raw.send(b"".join(frame(b"%d" % index) for index in range(10)))
        for index in range(3):
            await expect_echo(raw, b"%d" % index)
        await raw.send(frame(b"10"))
        await asyncio.sleep(0.05)
        assert len(raw.echo.received) == 3
        raw.echo.wire.resume_reading()
        for index in range(3, 11):
            await expect_echo(raw, b"%d" % index)


BROKEN = {
    "B20 unmasked": (b"\x82\x01x", 1002),
    "B20 unmasked, two bytes are enough": (b"\x82\x05", 1002),
    "B21 reserved bit": (frame(b"x", rsv=4), 1002),
    "B22 opcode 3": (frame(b"x", opcode=3), 1002),
    "B22 opcode 11": (frame(b"x", opcode=11), 1002),
    "B23 lone continuation": (frame(b"x", opcode=0), 1002),
    "B24 data frame inside fragments": (frame(b"x", fin=False) + frame(b"y"), 1002),
    "B25 ping of 126 bytes": (frame(b"x" * 126, opcode=9), 1002),
    "B26 fragmented ping": (frame(b"x", opcode=9, fin=False), 1002),
    "B29 one byte too many": (frame(b"x" * (FRAME_BYTES_MAX + 1)), 1009),
    "B29 header alone": (frame(b"x" * (FRAME_BYTES_MAX + 1))[:14], 1009),
    "B30 a claim of 2^63": (b"\x82\xff\x7f" + b"\xff" * 7, 1009),
    "B31 fragments over the limit": (frame(b"x" * 60_000, fin=False) + frame(b"x" * 10_000, opcode=0), 1009),
    "B33 close code 999": (frame((999).to_bytes(2, "big"), opcode=8), 1002),
    "B33 close code 1005": (frame((1005).to_bytes(2, "big"), opcode=8), 1002),
    "B33 close of one byte": (frame(b"\x03", opcode=8), 1002),
    "B33 close reason is no text": (frame((1000).to_bytes(2, "big") + b"\xff", opcode=8), 1007),
    "B35 HTTP on an open socket": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1002),
    "B41 text on msgpack": (frame(b"{}", opcode=1), 1003),
    "B41 text in fragments on msgpack": (frame(b"{", opcode=1, fin=False), 1003),
    "B32 endless fragments": (
        frame(b"x", fin=False) + frame(b"", opcode=0, fin=False) * (player_socket.FRAGMENTS_MAX + 1),
        1009,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_frames_close_only_their_own_socket(name: str) -> None:
    data, code = BROKEN[name]
    async with run_sockets() as rig, rig.opened() as canary, rig.opened() as raw:
        await raw.send(data)
        assert await raw.read_close() == code
        await raw.read_end()
        await raw.echo.until(lambda echo: echo.is_disconnected)
        assert raw.echo.received == [] and raw.echo.closes == [code]
        await canary.send(frame(b"still here"))
        await expect_echo(canary, b"still here")


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("B28 invalid UTF-8", frame(b"\xff\xfe", opcode=1), 1007),
        ("B28 a surrogate", frame(b"\xed\xa0\x80", opcode=1), 1007),
        ("B28 cut in a fragment", frame(b"\xc3", opcode=1, fin=False) + frame(b"", opcode=0), 1007),
        ("B41 binary on JSON", frame(b"{}"), 1003),
    ],
    ids=["B28 invalid UTF-8", "B28 a surrogate", "B28 cut in a fragment", "B41 binary on JSON"],  # masks are random
)
async def test_text_frames_are_text(name: str, data: bytes, code: int) -> None:
    async with run_sockets() as rig, rig.opened("wayhold.v1.json") as raw:
        await raw.send(frame("é".encode(), opcode=1))
        assert await raw.read_frame() == (1, "é".encode())
        await raw.send(data)
        assert await raw.read_close() == code


async def test_a_character_cut_between_fragments_is_text() -> None:
    async with run_sockets() as rig, rig.opened("wayhold.v1.json") as raw:
        await raw.send(frame(b"\xc3", opcode=1, fin=False) + frame(b"\xa9", opcode=0))
        assert await raw.read_frame() == (1, "é".encode())


async def test_a_close_is_answered_and_what_follows_it_is_ignored() -> None:
    async with run_sockets() as rig, rig.opened() as raw:
        await raw.send(frame((1000).to_bytes(2, "big") + b"bye", opcode=8) + frame(b"late"))
        assert await raw.read_frame() == (8, (1000).to_bytes(2, "big") + b"bye")
        await raw.read_end()
        await raw.echo.until(lambda echo: echo.is_disconnected)
        assert raw.echo.received == []


async def test_our_close_names_its_code_and_ends_although_the_peer_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(player_socket, "CLOSE_TIMEOUT_S", 0.3)
    async with run_sockets() as rig, rig.opened() as raw:
        raw.echo.wire.close(4001)
        opcode, payload = await raw.read_frame()
        assert opcode == 8 and payload == (4001).to_bytes(2, "big") + b"DRAINING"
        raw.echo.wire.send(b"too late")
        await raw.read_end()
        await raw.echo.until(lambda echo: echo.is_disconnected)


async def test_a_close_that_a_timer_makes_ends_although_the_peer_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made while the socket kept the instant of that timer, so nothing looked at it again."""
    monkeypatch.setattr(player_socket, "CLOSE_TIMEOUT_S", 0.3)
    async with run_sockets() as rig, rig.opened() as raw:
        raw.echo.closes_at_timer = 4100
        raw.echo.wire.schedule(0.0)
        assert await raw.read_close() == 4100
        await raw.read_end()
        await raw.echo.until(lambda echo: echo.is_disconnected)


async def test_our_close_ends_at_once_when_the_peer_answers() -> None:
    async with run_sockets() as rig, rig.opened() as raw:
        await raw.send(frame(b"x") + frame(b"half")[:3])
        await expect_echo(raw, b"x")
        raw.echo.wire.close(4201)
        assert await raw.read_close() == 4201
        await raw.send(frame(b"half")[3:] + frame((4201).to_bytes(2, "big"), opcode=8))
        await raw.read_end()
        await raw.echo.until(lambda echo: echo.is_disconnected)
        assert raw.echo.received == [b"x"]


async def test_a_stalled_reader_is_not_heard_and_is_cut_off_after_its_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player_socket, "SLOW_GRACE_S", 0.5)
    async with run_sockets() as rig, rig.opened() as raw, rig.opened() as canary:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw.echo.echoes = False
        (player,) = [one for one in rig.server._sockets if one._connection is raw.echo]
        while not player._congested_since:
            raw.echo.wire.send(b"x" * 30_000)
            await asyncio.sleep(0)
        await raw.echo.until(lambda echo: echo.is_disconnected)
        assert raw.echo.closes == [4002]
        await canary.send(frame(b"fine"))
        await expect_echo(canary, b"fine")


async def test_a_stalled_reader_does_not_pile_up_more_than_the_queue_allows() -> None:
    async with run_sockets(out_queue_bytes_max=200_000) as rig, rig.opened() as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (player,) = rig.server._sockets
        largest = 0
        for _ in range(5000):
            raw.echo.wire.send(b"x" * 10_000)
            largest = max(largest, player._transport.get_write_buffer_size())
            if raw.echo.closes:
                break
            await asyncio.sleep(0)
        assert raw.echo.closes == [4002]
        assert largest < 200_000 + 2 * 10_000


async def test_a_reader_that_catches_up_is_heard_again() -> None:
    async with run_sockets(out_queue_bytes_max=64 << 20) as rig, rig.opened() as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (player,) = rig.server._sockets
        count = 0
        while not player._congested_since:
            raw.echo.wire.send(b"x" * 60_000)
            count += 1
            await asyncio.sleep(0)
        await raw.send(frame(b"hello?"))
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count):
            assert len((await raw.read_frame())[1]) == 60_000
        await expect_echo(raw, b"hello?")


async def test_control_frames_count_as_frames() -> None:
    async with run_sockets() as rig, rig.opened() as raw:
        raw.echo.frames_max = 10
        await raw.send(frame(b"", opcode=9) * 50)
        assert await raw.read_close() == 4006
