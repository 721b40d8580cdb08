"""Every golden frame is read and written as the vectors say; every bad one gets the error they name."""

from typing import Any

import msgpack
import pytest

from protocol import frames
from protocol.codec import JSON, MSGPACK, codec_for, codec_named
from protocol.errors import FrameError
from protocol.frames import Batch, Update, parse_client_frame, parse_server_frame
from tests.contract.vectors import load_vectors

VECTORS = load_vectors("frames.json")


def named(vectors: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


@named(VECTORS["client"] + VECTORS["server"])
def test_both_codecs_read_and_write_a_golden_frame(vector: dict[str, Any]) -> None:
    assert JSON.decode(vector["json"]) == vector["frame"]
    assert JSON.decode(vector["json"].encode()) == vector["frame"]
    assert MSGPACK.decode(bytes.fromhex(vector["msgpack"])) == vector["frame"]
    assert JSON.encode(vector["frame"]).decode() == vector["json"]
    assert MSGPACK.encode(vector["frame"]).hex() == vector["msgpack"]


@named(VECTORS["client"])
def test_a_golden_client_frame_is_parsed(vector: dict[str, Any]) -> None:
    frame = vector["frame"]
    parsed = parse_client_frame(frame)
    match parsed:
        case Update():
            assert parsed == read_update(frame)
        case Batch():
            assert parsed.updates == [read_update(one) for one in frame["updates"]]
        case _:
            assert parsed.t == frame["t"]
            assert_fields_are_kept(parsed.model_dump(exclude_unset=True, by_alias=True), frame)


@named(VECTORS["server"])
def test_a_golden_server_frame_is_parsed(vector: dict[str, Any]) -> None:
    parsed = parse_server_frame(vector["frame"])
    assert parsed.model_dump(exclude_unset=True) == vector["frame"]


@named(VECTORS["bad"])
def test_a_bad_frame_gets_its_error_and_no_other(vector: dict[str, Any]) -> None:
    codec = codec_named(vector["codec"])
    data = vector["json"] if "json" in vector else bytes.fromhex(vector["msgpack"])
    with pytest.raises(FrameError) as refused:
        parse_client_frame(codec.decode(data))
    assert refused.value.code == vector["error"]
    assert refused.value.seq == vector.get("seq")
    assert refused.value.id == vector.get("id")
    assert len(refused.value.message) <= 200


def test_every_frame_type_has_golden_frames() -> None:
    assert {vector["frame"]["t"] for vector in VECTORS["client"]} == frames.CLIENT_FRAME_TYPES
    assert {vector["frame"]["t"] for vector in VECTORS["server"]} == frames.SERVER_FRAME_TYPES


def test_the_builders_build_what_the_models_read() -> None:
    """The gateway sends plain dicts; each builder's every form is one that `parse_server_frame` takes and keeps."""
    built = [
        frames.welcome(
            session_id="7d444840-9dc0-41d2-8f5a-1c0de5f1b0aa",
            session_token="r.1",
            expires_s=3600.0,
            resumed=False,
            reason="new",
            accepted=3,
            saved=2,
            voids=[(3, 106, "no")],
            state={"xp": 1},
            version=4,
            heartbeat_s=20,
            window=256,
            limits={"effects_max": 16},
            server_time=1,
        ),
        frames.ack(5, 6, 4),
        frames.ack(5, 6, 4, [(5, 102, "no")]),
        frames.ack(5, 6, 4, iter([(5, 102, "no")])),
        frames.saved(4),
        frames.push(1, "message", {"text": "hi"}),
        frames.push(1, "state", {"effects": [], "version": 2}, after=7),
        frames.resync("behind", 5, 4, {"xp": 1}, 9, [(5, 105, "no")]),
        frames.stream_reset(3, "device_behind"),
        frames.result("q1", {"visited": False}),
        frames.error(frames.ErrorCode.BAD_FRAME, "no"),
        frames.error(frames.ErrorCode.SEQUENCE_GAP, "no", seq=5, expected=3),
        frames.error(frames.ErrorCode.OVERLOADED, "no", seq=5, retry_after_ms=0),
        frames.error(frames.ErrorCode.INVALID_MESSAGE, "no", id="q1"),
        frames.drain(15_000),
        frames.bye(4001, 800),
        frames.bye(4299),
        frames.pong(-1, 2),
        frames.pong(1, 2, 0),
        frames.left(True),
        frames.refreshed(900.5),
        frames.suspended(3600),
    ]
    for frame in built:
        assert parse_server_frame(frame).model_dump(exclude_unset=True) == frame
        assert MSGPACK.decode(MSGPACK.encode(frame)) == frame
        assert JSON.decode(JSON.encode(frame)) == frame
    assert {frame["t"] for frame in built} == frames.SERVER_FRAME_TYPES


def test_an_ack_is_small() -> None:
    assert len(MSGPACK.encode(frames.ack(1_000_000, 1_000_000, 1_000_000))) <= 48


def test_json_is_the_codec_where_none_of_ours_was_offered() -> None:
    assert codec_for("wayhold.v1.msgpack") is MSGPACK
    assert codec_for("wayhold.v1.json") is JSON
    assert codec_for(None) is JSON
    assert codec_for("graphql-ws") is JSON


def test_msgpack_integers_of_any_width_are_the_same_number() -> None:
    """Clients in other languages may write a small number wide."""
    narrow = {"t": "update", "seq": 5, "event": {"type": "a"}}
    wide = bytes.fromhex("83a174a6757064617465a3736571cf0000000000000005a56576656e7481a474797065a161")
    assert MSGPACK.decode(wide) == narrow == msgpack.unpackb(wide)


def read_update(frame: dict[str, Any]) -> Update:
    return Update(
        frame["seq"],
        frame.get("event"),
        frame.get("effects"),
        frame.get("durable") is True,
        frame.get("skip") is True,
    )


def assert_fields_are_kept(parsed: dict[str, Any], frame: dict[str, Any]) -> None:
    for name, value in parsed.items():
        if isinstance(value, dict):
            assert_fields_are_kept(value, frame[name])
        else:
            assert value == frame[name]
