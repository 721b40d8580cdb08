"""Whatever the bytes are: a map or a FrameError, in bounded time; and what was written reads back."""

import math
import time
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import frames
from protocol.codec import JSON, MSGPACK, Codec
from protocol.errors import ErrorCode, FrameError
from protocol.frames import parse_client_frame, parse_server_frame
from protocol.limits import FRAME_BYTES_MAX, UPDATE_BYTES_MAX
from tests.contract.vectors import load_vectors
from tests.property.made_values import anything, clean_text, values

GOLDEN = load_vectors("frames.json")
CODECS = {"msgpack": MSGPACK, "json": JSON}


def take(codec: Codec, data: bytes | str) -> None:
    """Decode and parse; the only way out but a frame is a FrameError with one of the codes for it."""
    try:
        frame = codec.decode(data)
        assert type(frame) is dict
        parse_client_frame(frame)
    except FrameError as refused:
        assert refused.code in (
            ErrorCode.BAD_FRAME,
            ErrorCode.UNKNOWN_TYPE,
            ErrorCode.INVALID_MESSAGE,
            ErrorCode.TOO_LARGE,
        )
        assert len(refused.message) <= 200
        refused.message.encode()


@given(st.binary(max_size=200), st.sampled_from(sorted(CODECS)))
def test_any_bytes(data: bytes, codec: str) -> None:
    take(CODECS[codec], data)


@given(st.text(max_size=200) | st.text(alphabet='{}[]",:tseqid0123456789\\u d8', max_size=80))
def test_any_text(text: str) -> None:
    take(JSON, text)


@given(
    st.sampled_from(GOLDEN["client"] + GOLDEN["server"]),
    st.sampled_from(sorted(CODECS)),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from("xid")), max_size=4),
    st.integers(0, 10_000),
)
def test_damaged_frames(vector: dict[str, Any], codec: str, damage: list[tuple[int, int, str]], cut: int) -> None:
    data = bytearray(bytes.fromhex(vector["msgpack"]) if codec == "msgpack" else vector["json"].encode())
    for position, byte, how in damage:
        at = position % len(data)
        if how == "x":
            data[at] = byte
        elif how == "i":
            data.insert(at, byte)
        elif len(data) > 1:
            del data[at]
    take(CODECS[codec], bytes(data[: cut % (2 * len(data)) + 1]))


@given(st.dictionaries(st.sampled_from(["t", "seq", "id", "updates", "at", "token", "of", "args"]), anything))
def test_any_map_is_a_frame_or_refused(frame: dict[str, Any]) -> None:
    for parse in (parse_client_frame, parse_server_frame):
        try:
            parse(frame)
        except FrameError as refused:
            assert len(refused.message) <= 200


@given(
    st.sampled_from([vector["frame"] for vector in GOLDEN["client"]]),
    st.dictionaries(st.sampled_from(["t", "seq", "id", "updates", "at", "token", "of", "args", "resume"]), anything),
)
def test_golden_frames_with_a_field_gone_wrong(frame: dict[str, Any], change: dict[str, Any]) -> None:
    try:
        parse_client_frame({**frame, **change})
    except FrameError as refused:
        assert len(refused.message) <= 200


@given(st.dictionaries(clean_text, values, max_size=5))
def test_both_codecs_read_what_they_wrote(frame: dict[str, Any]) -> None:
    assert MSGPACK.decode(MSGPACK.encode(frame)) == frame
    assert JSON.decode(JSON.encode(frame)) == frame
    assert JSON.decode(JSON.encode(frame).decode()) == frame


@given(st.integers(1, 2**53), st.sampled_from(["event", "a"]), st.binary(max_size=20))
def test_a_broken_frame_still_names_its_seq_when_that_came_first(seq: int, field: str, rest: bytes) -> None:
    head = msgpack.packb({"t": "update", "seq": seq, field: 0})[:-1]
    with pytest.raises(FrameError) as refused:
        MSGPACK.decode(head + b"\xc1" + rest)
    assert refused.value.seq == seq
    with pytest.raises(FrameError) as refused:
        JSON.decode(b'{"t":"update","seq":%d,"%b":\xff' % (seq, field.encode()) + rest)
    assert refused.value.seq == seq


def nested(opening: bytes, depth: int) -> bytes:
    return b"\x82\xa3seq\x05\xa1x" + opening * depth


HOSTILE: dict[str, tuple[Codec, bytes]] = {
    "fixarrays, 64 Ki deep": (MSGPACK, nested(b"\x91", 65_000)),
    "array16 headers, each claiming much": (MSGPACK, nested(b"\xdc\x3f\xff", 20_000)),
    "array32 headers, each claiming much": (MSGPACK, nested(b"\xdd\x00\x00\x3f\xff", 12_000)),
    "map16 headers": (MSGPACK, nested(b"\xde\x1f\xff\xa1a", 12_000)),
    "few array16 headers, then scalars": (MSGPACK, nested(b"\xdc\x3f\xff", 15) + b"\x00" * 60_000),
    "array16 headers hidden in a text": (
        MSGPACK,
        msgpack.packb({"t": "leave", "x": "ܐ" * 16_000}),
    ),
    "empty maps": (MSGPACK, b"\x82\xa1t\xa5leave\xa1x\xdc\x3f\xff" + b"\x80" * 0x3FFF),
    "many keys": (MSGPACK, msgpack.packb({f"{n:x}": n for n in range(8_000)})),
    "brackets, 64 Ki deep": (JSON, b"[" * 65_000),
    "braces, 64 Ki deep": (JSON, b'{"seq":5,"x":' + b'{"":' * 16_000),
    "a number of 64 Ki digits": (JSON, b'{"seq":' + b"1" * 65_000 + b"}"),
    "a float of 64 Ki digits": (JSON, b'{"at":0.' + b"1" * 65_000 + b"}"),
    "spaces": (JSON, b'{"seq"' + b" " * 65_000 + b":x"),
    "spaces before a comma, again and again": (JSON, (b'{"seq":5' + b" " * 3_000 + b",") * 20),
    "escapes": (JSON, b'{"a":"' + b"\\u0041" * 10_000 + b'"}'),
    "quotes that never close": (JSON, b'{"a' * 20_000),
    "keys, all the same": (JSON, b"{" + b'"a":1,' * 10_000 + b'"a":1}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frames_cost_little(name: str) -> None:
    """Each of these once made some decoder take seconds or hundreds of megabytes for a frame of 64 KiB."""
    codec, data = HOSTILE[name]
    assert len(data) <= FRAME_BYTES_MAX
    take(codec, data)
    started = time.perf_counter()
    take(codec, data)
    took_s = time.perf_counter() - started
    assert took_s < 0.25, f"{took_s * 1000:.0f} ms"
    tracemalloc.start()
    try:
        take(codec, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20, f"{peak / 2**20:.1f} MiB"


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_sizes_are_exact_to_the_byte(codec: Codec) -> None:
    def frame_of(size: int, kind: str) -> bytes:
        frame = {"t": kind, "seq": 5, "pad": "x" * 40_000}
        short = len(codec.encode(frame)) - 40_000
        frame["pad"] = "x" * (size - short)
        written = codec.encode(frame)
        assert len(written) == size
        return written

    assert codec.decode(frame_of(FRAME_BYTES_MAX, "ping"))["seq"] == 5
    assert codec.decode(frame_of(UPDATE_BYTES_MAX, "update"))["seq"] == 5
    with pytest.raises(FrameError) as refused:
        codec.decode(frame_of(UPDATE_BYTES_MAX + 1, "update"))
    assert (refused.value.code, refused.value.seq) == (ErrorCode.TOO_LARGE, 5)
    with pytest.raises(FrameError) as refused:
        codec.decode(frame_of(FRAME_BYTES_MAX + 1, "ping"))
    assert refused.value.code == ErrorCode.TOO_LARGE


def test_text_is_measured_in_bytes() -> None:
    with pytest.raises(FrameError) as refused:
        JSON.decode('{"t":"ping","pad":"' + "é" * 33_000 + '"}')
    assert refused.value.code == ErrorCode.TOO_LARGE


def test_a_failed_encode_leaves_the_codec_as_it_was() -> None:
    """The packer is reused: what a failed frame left in it must not end up in the next one."""
    good = {"t": "saved", "seq": 5}
    for codec in (MSGPACK, JSON):
        expected = codec.encode(good)
        for bad in ({"a": object()}, {"a": 2**70} if codec is MSGPACK else {"a": math.nan}, {"a": [1, {"b": {1, 2}}]}):
            with pytest.raises((TypeError, ValueError, OverflowError)):
                codec.encode(bad)
            assert codec.encode(good) == expected


numbers = st.one_of(st.integers(0, 300), st.integers(2**32 - 3, 2**32 + 3), st.integers(0, 2**53))


@given(seq=numbers, version=numbers, saved=numbers)
@pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=["msgpack", "json"])
def test_the_short_way_to_an_ack_says_what_the_long_way_says(codec: Codec, seq: int, version: int, saved: int) -> None:
    said = codec.decode(codec.encode_ack(seq, version, saved))
    assert said == frames.ack(seq, version, saved)
    assert list(said) == list(frames.ack(seq, version, saved))
    assert len(codec.encode_ack(seq, version, saved)) < 126


@given(seq=numbers, version=numbers, saved=numbers)
def test_the_short_way_of_reading_an_ack_reads_what_the_short_way_of_writing_wrote(
    seq: int, version: int, saved: int
) -> None:
    short = MSGPACK.decode_ack(MSGPACK.encode_ack(seq, version, saved))
    assert short == ((seq, version, saved) if max(seq, version, saved) < 2**32 else None)


def test_what_is_no_plain_ack_is_not_read_as_one() -> None:
    for frame in ({"t": "saved", "seq": 1}, {"t": "push", "n": 1, "kind": "k" * 20, "data": {}}, frames.ack(1, 2, 3)):
        assert MSGPACK.decode_ack(MSGPACK.encode(frame)) is None
    whole = MSGPACK.encode_ack(1, 2, 3)
    for at in (*range(12), *range(16, 25), *range(29, 36)):
        assert MSGPACK.decode_ack(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :]) is None


@given(seq=numbers, fields=st.dictionaries(st.text(max_size=9), st.integers(0, 2**40) | st.text(), max_size=13))
def test_an_update_around_its_packed_body_is_the_update_packed_at_once(seq: int, fields: dict[str, Any]) -> None:
    body = {name: value for name, value in fields.items() if name not in ("t", "seq")}
    whole = MSGPACK.encode({"t": "update", "seq": seq, **body})
    assert MSGPACK.encode_update(seq, MSGPACK.encode(body)) == whole
