"""
Bad frames of every class: each gets its documented error, void or close, costs nobody else anything, and leaves the
session that sent it able to play on. The letters and numbers are those of the catalogue of bad input; the classes of
handshakes and WebSocket frames (B01 to B41) are tried in tests/unit/sockets.
"""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import msgpack
import pytest

from protocol.closes import CloseCode
from protocol.errors import ErrorCode
from tests.integration.gateway_rig import Bare, Rig, hello_frame, new_user, run_rig, token, update_frame

GOOD = update_frame(1)
EVENT = {"type": "waypoint_visited", "content_id": "w"}


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


MSGPACK_BROKEN: dict[str, bytes] = {
    "B42 empty": b"",
    "B42 truncated": pack(GOOD)[:-3],
    "B42 trailing bytes": pack(GOOD) + b"\x00",
    "B42 two documents": pack(GOOD) * 2,
    "B43 array": pack([1]),
    "B43 number": pack(7),
    "B43 nil": pack(None),
    "B44 0xc1": b"\x81\xa1t\xc1",
    "B44 ext": b"\x81\xa1t" + msgpack.packb(msgpack.ExtType(5, b"abcd")),
    "B44 ext without bytes": b"\x81\xa1t\xc7\x00\x05",
    "B44 timestamp": b"\x81\xa1t" + msgpack.packb(msgpack.Timestamp(1)),
    "B45 array of 4 Gi": b"\x81\xa1t\xdd\xff\xff\xff\xff",
    "B45 map of 4 Gi": b"\xdf\xff\xff\xff\xff",
    "B45 text of 4 Gi": b"\x81\xa1t\xdb\xff\xff\xff\xff",
    "B45 bin of 4 Gi": b"\x81\xa1t\xc6\xff\xff\xff\xff",
    "B46 nested 10,000 deep": b"\x91" * 10_000,
    "B46 array headers that claim much": b"\xdc\x40\x00" * 3000,
    "B47 endless maps": pack([{}] * 60_000)[:60_000],
    "B49 int as key": pack({1: "x", "t": "ping"}),
    "B49 nil as key": b"\x81\xc0\x01",
    "B59 bytes as t": b"\x81\xa1t\xc4\x04ping",
}

JSON_BROKEN: dict[str, bytes] = {
    "B42 empty": b"",
    "B42 truncated": b'{"t":"ping"',
    "B42 two documents": b"{}{}",
    "B43 array": b"[1]",
    "B43 number": b"7",
    "B43 null": b"null",
    "B46 nested": b'{"t":' * 5000,
    "B51 NaN": b'{"t":"ping","at":NaN}',
    "B51 Infinity": b'{"t":"ping","at":-Infinity}',
    "B54 raw control character": b'{"t":"pi\x01ng"}',
    "B56 BOM": b'\xef\xbb\xbf{"t":"ping","at":1}',
    "B56 comment": b'{"t":"ping","at":1/*x*/}',
    "B56 single quotes": b"{'t':'ping'}",
}

ENVELOPES: dict[str, tuple[dict[str, Any], ErrorCode]] = {
    "no t": ({"seq": 1}, ErrorCode.BAD_FRAME),
    "t is a number": ({"t": 5}, ErrorCode.BAD_FRAME),
    "B60 unknown type": ({"t": "teleport"}, ErrorCode.UNKNOWN_TYPE),
    "B60 a frame of ours": ({"t": "welcome"}, ErrorCode.UNKNOWN_TYPE),
    "B61 no seq": ({"t": "update", "event": EVENT}, ErrorCode.INVALID_MESSAGE),
    "B61 seq 0": (update_frame(0), ErrorCode.INVALID_MESSAGE),
    "B61 negative seq": (update_frame(-1), ErrorCode.INVALID_MESSAGE),
    "B61 float seq": ({"t": "update", "seq": 1.0, "event": EVENT}, ErrorCode.INVALID_MESSAGE),
    "B61 bool seq": ({"t": "update", "seq": True, "event": EVENT}, ErrorCode.INVALID_MESSAGE),
    "B61 text seq": ({"t": "update", "seq": "1", "event": EVENT}, ErrorCode.INVALID_MESSAGE),
    "B64 gap": (update_frame(3), ErrorCode.SEQUENCE_GAP),
    "B65 huge seq": (update_frame(2**53), ErrorCode.SEQUENCE_GAP),
    "B65 seq beyond 2^53": (update_frame(2**53 + 1), ErrorCode.INVALID_MESSAGE),
    "B68 hello twice": (hello_frame(new_user()), ErrorCode.NOT_IN_SESSION),
    "empty batch": ({"t": "batch", "updates": []}, ErrorCode.INVALID_MESSAGE),
    "batch is no array": ({"t": "batch", "updates": {"a": 1}}, ErrorCode.INVALID_MESSAGE),
    "batch of numbers": ({"t": "batch", "updates": [1]}, ErrorCode.INVALID_MESSAGE),
    "batch of 201": ({"t": "batch", "updates": [{"seq": 1}] * 201}, ErrorCode.TOO_LARGE),
    "ping without at": ({"t": "ping"}, ErrorCode.INVALID_MESSAGE),
    "ping at noon": ({"t": "ping", "at": "noon"}, ErrorCode.INVALID_MESSAGE),
    "suspend for ever": ({"t": "suspend", "expected_s": -1}, ErrorCode.INVALID_MESSAGE),
    "query without id": ({"t": "query", "of": "state"}, ErrorCode.INVALID_MESSAGE),
    "query of secrets": ({"t": "query", "id": "1", "of": "passwords"}, ErrorCode.INVALID_MESSAGE),
    "refresh without token": ({"t": "refresh"}, ErrorCode.INVALID_MESSAGE),
    "B86 refresh with an expired token": (
        {"t": "refresh", "token": token(new_user(), ttl_s=-100)},
        ErrorCode.UNAUTHENTICATED,
    ),
    "an update of 40 KiB": (update_frame(1, event={"type": "x", "data": {"a": "x" * 40_000}}), ErrorCode.TOO_LARGE),
}

VOIDS: dict[str, tuple[dict[str, Any], ErrorCode]] = {
    "nothing in it": ({}, ErrorCode.INVALID_MESSAGE),
    "event is text": ({"event": "x"}, ErrorCode.INVALID_MESSAGE),
    "B48 an effect for everything": ({"effects": [{"op": "add", "path": "a", "value": "b"}] * 17}, ErrorCode.TOO_LARGE),
    "B52 2^64": ({"effects": [{"op": "set", "path": "a", "value": 2**63}]}, ErrorCode.INVALID_EFFECT),
    "B54 NUL": ({"effects": [{"op": "set", "path": "a", "value": "a\x00b"}]}, ErrorCode.INVALID_EFFECT),
    "B54 NUL in a key": ({"effects": [{"op": "set", "path": "a", "value": {"a\x00": 1}}]}, ErrorCode.INVALID_EFFECT),
    "B55 depth 17": ({"effects": [{"op": "set", "path": "a", "value": nested(17)}]}, ErrorCode.INVALID_EFFECT),
    "B57 key of 129": ({"effects": [{"op": "set", "path": "a." + "k" * 129, "value": 1}]}, ErrorCode.INVALID_EFFECT),
    "B70 type of 51": ({"event": {"type": "x" * 51}}, ErrorCode.INVALID_MESSAGE),
    "B70 empty type": ({"event": {"type": ""}}, ErrorCode.INVALID_MESSAGE),
    "B70 content_id of 256": ({"event": {"type": "x", "content_id": "c" * 256}}, ErrorCode.INVALID_MESSAGE),
    "B71 lat 90.0001": ({"event": {"type": "x", "lat": 90.0001}}, ErrorCode.INVALID_MESSAGE),
    "B71 lat is text": ({"event": {"type": "x", "lat": "12"}}, ErrorCode.INVALID_MESSAGE),
    "B71 lat is true": ({"event": {"type": "x", "lat": True}}, ErrorCode.INVALID_MESSAGE),
    "B72 yesterday": ({"event": {"type": "x", "at": "yesterday"}}, ErrorCode.INVALID_MESSAGE),
    "B73 text as amount": ({"effects": [{"op": "incr", "path": "a", "value": "1"}]}, ErrorCode.INVALID_EFFECT),
    "B73 a counter beyond its range": (
        {"effects": [{"op": "incr", "path": "a", "value": 10**10}]},
        ErrorCode.INVALID_EFFECT,
    ),
    "B74 a value of 9 KiB": ({"effects": [{"op": "set", "path": "a", "value": "x" * 9000}]}, ErrorCode.TOO_LARGE),
    "B75 __proto__": ({"effects": [{"op": "set", "path": "__proto__", "value": 1}]}, ErrorCode.INVALID_EFFECT),
    "B75 empty name": ({"effects": [{"op": "set", "path": ".a", "value": 1}]}, ErrorCode.INVALID_EFFECT),
    "B75 empty key": ({"effects": [{"op": "set", "path": "a.", "value": 1}]}, ErrorCode.INVALID_EFFECT),
    "B76 unknown op": ({"effects": [{"op": "drop", "path": "a", "value": 1}]}, ErrorCode.INVALID_EFFECT),
    "no content_id": ({"event": {"type": "waypoint_visited"}}, ErrorCode.INVALID_MESSAGE),
}

ODD_BUT_FINE: dict[str, dict[str, Any]] = {
    "B50 unknown fields": {"event": EVENT | {"colour": "red"}, "colour": "red"},
    "B72 year 1": {"event": EVENT | {"at": -62_135_596_800_000}},
    "B72 year 10000": {"event": EVENT | {"at": 253_402_300_800_000}},
    "B72 seconds for milliseconds": {"event": EVENT | {"at": round(time.time())}},
    "B78 SQL": {"event": {"type": "x'; drop table users; --", "content_id": "' or 1=1"}},
    "B78 Lua": {"event": {"type": "x", "content_id": "]] redis.call('FLUSHALL') --[["}},
    "B78 line ends and ANSI": {"effects": [{"op": "set", "path": "a", "value": "a\r\n\x1b[31mb"}]},
    "B78 HTML": {"effects": [{"op": "add", "path": "names", "value": "<script>alert(1)</script>"}]},
    "B78 a dot in a key": {"effects": [{"op": "set", "path": "flags.a.b.c", "value": True}]},
    "a distance that is none": {"event": EVENT | {"data": {"distance_traveled": -5}}},
    "unicode": {"event": {"type": "ünï", "content_id": "日本語 🎈"}},
}


async def send_raw(bare: Bare, data: bytes) -> None:
    await bare.socket.send(data, text=bare.codec.is_text)


async def check_canary(canary: Bare, seq: int) -> None:
    started = time.monotonic()
    assert (await canary.accept(seq))["seq"] == seq
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("codec", ["msgpack", "json"])
async def test_frames_that_cannot_be_decoded_get_error_100(redis_url: str, database_url: str, codec: str) -> None:
    broken = MSGPACK_BROKEN if codec == "msgpack" else JSON_BROKEN
    async with run_rig(redis_url, database_url) as rig, rig.player() as canary:
        for number, (name, data) in enumerate(broken.items(), 1):
            async with rig.player(codec=codec) as bare:
                started = time.monotonic()
                await send_raw(bare, data)
                error = await bare.expect("error")
                assert error["code"] == ErrorCode.BAD_FRAME, (name, error)
                assert len(json.dumps(error)) < 400, name
                assert time.monotonic() - started < 0.5, name
                assert (await bare.accept(1))["seq"] == 1, name
            await check_canary(canary, number)
        assert rig.node.tally.errors[100] == len(broken)


@pytest.mark.parametrize("codec", ["msgpack", "json"])
async def test_frames_with_a_bad_envelope_get_their_error(redis_url: str, database_url: str, codec: str) -> None:
    async with run_rig(redis_url, database_url) as rig, rig.player() as canary:
        for number, (name, (sent, code)) in enumerate(ENVELOPES.items(), 1):
            async with rig.player(codec=codec) as bare:
                await bare.send(sent)
                error = await bare.expect("error")
                assert error["code"] == code and error["name"] == code.name, (name, error)
                assert (await bare.accept(1))["seq"] == 1, name
            await check_canary(canary, number)


@pytest.mark.parametrize("codec", ["msgpack", "json"])
async def test_updates_that_mean_nothing_are_void_and_do_not_block_their_stream(
    redis_url: str, database_url: str, codec: str
) -> None:
    async with run_rig(redis_url, database_url) as rig, rig.player(codec=codec) as bare:
        for seq, (name, (fields, code)) in enumerate(VOIDS.items(), 1):
            await bare.send({"t": "update", "seq": seq} | fields)
            ack = await bare.expect("ack")
            assert [(void["seq"], void["code"]) for void in ack.get("void", [])] == [(seq, code)], (name, ack)
        await bare.send({"t": "query", "id": "q", "of": "state"})
        assert (await bare.expect("result"))["data"]["state"] == {}


@pytest.mark.parametrize("codec", ["msgpack", "json"])
async def test_odd_but_allowed_updates_are_taken(redis_url: str, database_url: str, codec: str) -> None:
    async with run_rig(redis_url, database_url) as rig, rig.player(codec=codec) as bare:
        for seq, (name, fields) in enumerate(ODD_BUT_FINE.items(), 1):
            await bare.send({"t": "update", "seq": seq} | fields)
            ack = await bare.expect("ack")
            assert "void" not in ack, (name, ack)


async def test_a_state_that_would_grow_too_large_stays_as_it_was(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url) as rig, rig.player() as bare:
        seq = 0
        ack: dict[str, Any] = {}
        while "void" not in ack:
            seq += 1
            ack = await bare.accept(seq, effects=[{"op": "set", "path": f"v{seq}", "value": "x" * 8000}])
            assert seq < 20
        assert ack["void"][0]["code"] == ErrorCode.TOO_LARGE
        await bare.send({"t": "query", "id": "q", "of": "state"})
        assert len((await bare.expect("result"))["data"]["state"]) == seq - 1
        assert "void" not in await bare.accept(seq + 1, effects=[{"op": "set", "path": "v1", "value": "y"}])


async def test_bad_hellos_get_an_error_and_may_be_said_again(redis_url: str, database_url: str) -> None:
    bad = {
        "no experience": {"experience": None},
        "experience with a slash": {"experience": "a/b"},
        "experience of 101": {"experience": "x" * 101},
        "empty device": {"device": ""},
        "device of 65": {"device": "d" * 65},
        "device with a line end": {"device": "a\nb"},
        "negative made": {"made": -1},
        "saved is text": {"saved": "0"},
        "no at": {"at": None},
        "B86 token of 5 KiB": {"token": "x" * 5000},
        "resume is text": {"resume": "x"},
    }
    async with run_rig(redis_url, database_url) as rig, rig.bare() as bare:
        for name, fields in bad.items():
            await bare.send(hello_frame(new_user(), **fields))
            error = await bare.expect("error")
            assert error["code"] == ErrorCode.INVALID_MESSAGE, (name, error)
        await bare.hello(user_id=new_user())


async def test_a_foreign_or_broken_resume_token_starts_a_new_session(rig_pair: tuple[Rig, Bare]) -> None:
    rig, victim = rig_pair
    stolen = victim.resume()
    tokens = {
        "another player's": (stolen, "unknown"),
        "a changed letter": (stolen | {"token": stolen["token"][:-2] + "AA"}, "unknown"),
        "of another session": (stolen | {"session": new_user()}, "unknown"),
        "garbage": ({"session": "x", "token": "y"}, "unknown"),
    }
    for name, (resume, reason) in tokens.items():
        async with rig.bare() as bare:
            welcome = await bare.hello(user_id=new_user(), resume=resume)
            assert welcome["resumed"] is False and welcome["reason"] == reason, name
            assert welcome["session"]["id"] != stolen["session"]
    assert (await victim.accept(1))["seq"] == 1


@pytest.fixture
async def rig_pair(redis_url: str, database_url: str) -> Any:
    async with run_rig(redis_url, database_url) as rig, rig.player() as victim:
        yield rig, victim


async def test_again_and_again_bad_frames_end_the_connection_for_good(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url) as rig, rig.player() as canary, rig.player() as bare:
        for _ in range(20):
            await send_raw(bare, b"\xc1")
        assert (await bare.wait_for("bye"))["code"] == CloseCode.PROTOCOL_ERROR
        assert await bare.close_code() == CloseCode.PROTOCOL_ERROR
        await check_canary(canary, 1)


@pytest.mark.parametrize("kind", ["B39 native pings", "B40 pings", "B40 repeats"])
async def test_a_flood_is_ended_resumably_and_the_canary_is_fine(redis_url: str, database_url: str, kind: str) -> None:
    async with run_rig(redis_url, database_url) as rig, rig.player() as canary, rig.player() as bare:
        await bare.accept(1)
        data = {
            "B39 native pings": b"\x89\x80\0\0\0\0",
            "B40 pings": _masked(pack({"t": "ping", "at": 1})),
            "B40 repeats": _masked(pack(update_frame(1))),
        }[kind]
        bare.socket.transport.write(data * 10_000)
        await check_canary(canary, 1)
        assert await bare.close_code() == CloseCode.RATE_LIMITED
        await check_canary(canary, 2)


def _masked(payload: bytes) -> bytes:
    """A frame masked with zeros: legal, and quick to make."""
    length = len(payload)
    header = bytes((0x82, 128 | length)) if length < 126 else b"\x82\xfe" + struct.pack("!H", length)
    return header + b"\0\0\0\0" + payload
