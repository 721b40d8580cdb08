"""What is special about single frames. Golden and bad frames are vectors: see tests/contract."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from protocol.errors import ErrorCode, FrameError
from protocol.frames import Batch, Hello, Query, Update, parse_client_frame, parse_server_frame

HELLO: dict[str, Any] = {"t": "hello", "experience": "e", "device": "d", "at": 0, "made": 0, "saved": 0}


def parse_hello(**more: Any) -> Hello:
    frame = parse_client_frame({**HELLO, **more})
    assert isinstance(frame, Hello)
    return frame


@pytest.mark.parametrize("inside", [None, 5, "x", [], {}, [{}], {"type": 7}, b"", float("nan")])
def test_nothing_inside_an_update_makes_it_an_error(inside: Any) -> None:
    """An error would stand in the way of every update behind it; what is wrong inside makes the update void."""
    frame = {"t": "update", "seq": 5, "event": inside, "effects": inside, "durable": inside, "skip": inside}
    assert parse_client_frame(frame) == Update(5, inside, inside, False, False)
    assert parse_client_frame({"t": "batch", "updates": [frame]}) == Batch([Update(5, inside, inside, False, False)])


def test_only_true_is_true() -> None:
    for nearly in (1, "true", 1.0, [True]):
        assert parse_client_frame({"t": "update", "seq": 1, "skip": nearly, "durable": nearly}) == Update(1)
    assert parse_client_frame({"t": "update", "seq": 1, "skip": True, "durable": True}) == Update(
        1, durable=True, skip=True
    )


def test_the_quick_way_reads_an_update_as_a_model_would() -> None:
    adapter = TypeAdapter(Update)
    frame = {"seq": 3, "event": {"type": "a"}, "effects": [{"op": "unset", "path": "a"}], "durable": True}
    assert parse_client_frame({"t": "update", **frame}) == adapter.validate_python(frame)


def test_a_client_description_is_never_a_reason_to_refuse() -> None:
    assert parse_hello(client="unity/1.4\n\x1b[31m").client == "unity/1.4[31m"
    assert parse_hello(client="x" * 500).client == "x" * 200
    assert parse_hello(client={"name": "unity"}).client is None


def test_null_is_the_same_as_absent() -> None:
    hello = parse_hello(token=None, resume=None, seen=None)
    assert (hello.token, hello.resume, hello.seen) == (None, None, None)
    query = parse_client_frame({"t": "query", "id": "q", "of": "state", "args": None})
    assert isinstance(query, Query) and query.args.limit is None


def test_a_limit_past_the_most_is_the_most() -> None:
    query = parse_client_frame({"t": "query", "id": "q", "of": "history", "args": {"limit": 10**12}})
    assert isinstance(query, Query) and query.args.limit == 100


def test_the_answer_to_a_hostile_frame_is_short_and_quotes_nothing_of_it() -> None:
    hostile = {**HELLO, "device": "\x1b[31mred", **{f"field{n}": "x" * 100 for n in range(500)}}
    with pytest.raises(FrameError) as refused:
        parse_client_frame(hostile)
    assert len(refused.value.message) <= 200
    assert "red" not in refused.value.message


def test_a_frame_from_a_newer_gateway_is_told_apart_from_a_broken_one() -> None:
    for frame, code in (
        ({"t": "confetti"}, ErrorCode.UNKNOWN_TYPE),
        ({}, ErrorCode.BAD_FRAME),
        ({"t": "ack", "seq": "1"}, ErrorCode.INVALID_MESSAGE),
    ):
        with pytest.raises(FrameError) as refused:
            parse_server_frame(frame)
        assert refused.value.code == code
