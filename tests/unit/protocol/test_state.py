"""The bounds of a state, and documents that no op has made."""

from typing import Any

import pytest

from protocol.effects import compile_update
from protocol.errors import ErrorCode, VoidUpdate
from protocol.limits import STATE_BYTES_MAX, STATE_FIELDS_MAX
from protocol.state import apply_ops, document, join_state, split_state, state_size
from protocol.values import ValueRefused

Fields = dict[str, str | bytes]


def apply(fields: Fields, *effects: dict[str, Any]) -> None:
    apply_ops(fields, compile_update(None, list(effects)).ops)


def add(path: str, member: str) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": member}


def put(path: str, value: Any) -> dict[str, Any]:
    return {"op": "set", "path": path, "value": value}


def refused_code(fields: Fields, *effects: dict[str, Any]) -> ErrorCode:
    before = dict(fields)
    with pytest.raises(VoidUpdate) as refused:
        apply(fields, *effects)
    assert fields == before
    return refused.value.code


def full_of_fields() -> Fields:
    fields: Fields = {"s:badges": b""}
    fields |= {f"m:badges.{n}": b"" for n in range(STATE_FIELDS_MAX - 1)}
    return fields


def full_of_bytes() -> Fields:
    """Exactly 64 KiB: 32 values, each two characters of prefix, three of path, and the rest in quotes."""
    return {f"v:a{n:02}": b'"' + b"x" * (2048 - 5 - 2) + b'"' for n in range(32)}


def test_a_state_holds_4000_fields_and_no_more() -> None:
    fields = full_of_fields()
    assert state_size(fields)[0] == STATE_FIELDS_MAX
    assert refused_code(fields, add("badges", "one more")) == ErrorCode.TOO_LARGE
    apply(fields, add("badges", "7"))  # there already
    apply(fields, {"op": "remove", "path": "badges", "value": "7"}, add("badges", "another"))
    assert state_size(fields)[0] == STATE_FIELDS_MAX


def test_a_new_group_costs_two_fields() -> None:
    fields = full_of_fields()
    apply(fields, {"op": "remove", "path": "badges", "value": "7"})
    assert refused_code(fields, put("flags.a", True)) == ErrorCode.TOO_LARGE
    apply(fields, put("a", True))


def test_a_state_holds_64_kib_to_the_byte() -> None:
    fields = full_of_bytes()
    assert state_size(fields)[1] == STATE_BYTES_MAX
    assert refused_code(fields, put("a00", "x" * 2042)) == ErrorCode.TOO_LARGE
    apply(fields, put("a00", "y" * 2041))
    assert state_size(fields)[1] == STATE_BYTES_MAX


def test_bytes_are_counted_in_utf_8() -> None:
    fields: Fields = {}
    apply(fields, put("flags.é", "é"))
    assert state_size(fields) == (2, len("v:flags.é".encode()) + len('"é"'.encode()) + len("g:flags"))


def test_only_the_end_of_an_update_is_measured() -> None:
    fields = full_of_bytes()
    apply(fields, put("b", "x" * 1000), {"op": "unset", "path": "b"})
    assert state_size(fields)[1] == STATE_BYTES_MAX


def test_a_state_past_a_bound_may_shrink_but_not_grow() -> None:
    """A later version may lower a bound: players above it must be able to go on."""
    fields = full_of_fields() | {"m:badges.x": b"", "m:badges.y": b"", "c:xp": b"1"}
    apply(fields, {"op": "remove", "path": "badges", "value": "x"})
    apply(fields, {"op": "incr", "path": "xp", "value": 5})
    assert refused_code(fields, add("badges", "z")) == ErrorCode.TOO_LARGE


def test_an_empty_state() -> None:
    assert join_state({}) == ("{}", "{}")
    assert split_state("{}", "{}") == split_state("{}") == {}
    assert document({}) == {}
    assert state_size({}) == (0, 0)


def test_kinds_say_what_json_cannot() -> None:
    fields: Fields = {}
    apply(fields, put("route", ["a"]), put("room", {"id": 1}), put("age", 7), put("name", "Ann"), put("flags.n", 5))
    assert join_state(fields) == (
        '{"age":7,"flags":{"n":5},"name":"Ann","room":{"id":1},"route":["a"]}',
        '{"age":"v","flags.n":"v","room":"v","route":"v"}',
    )


def test_a_kind_may_be_said_where_it_is_the_default() -> None:
    assert split_state('{"badges":["a"],"xp":1.5,"rooms":{}}', '{"badges":"s","xp":"c","rooms":"g"}') == split_state(
        '{"badges":["a"],"xp":1.5,"rooms":{}}'
    )


@pytest.mark.parametrize(
    ("state", "kinds"),
    [
        ("[]", "{}"),
        ("{", "{}"),
        ("{}", "[]"),
        ('{"Bad name":1}', "{}"),
        ('{"a.b":1}', "{}"),
        ('{"badges":[1]}', "{}"),
        ('{"badges":["a","a"]}', "{}"),
        ('{"badges":[""]}', "{}"),
        ('{"inventory":{"lamp":1}}', "{}"),
        ('{"inventory":["lamp"]}', '{"inventory":"v"}'),
        ('{"distance_meters":"far"}', "{}"),
        ('{"xp":9000000001}', "{}"),
        ('{"xp":0.0000001}', "{}"),
        ('{"xp":1e400}', "{}"),
        ('{"rooms":{"":1}}', "{}"),
        ('{"xp":1}', '{"xp":"g"}'),
        ('{"xp":1}', '{"xp":"z"}'),
        ('{"xp":1}', '{"xp":["v"]}'),
        ('{"note":"\\u0000"}', "{}"),
        ('{"note":NaN}', "{}"),
    ],
)
def test_a_document_that_no_op_has_made_is_refused(state: str, kinds: str) -> None:
    with pytest.raises(ValueRefused):
        split_state(state, kinds)


def test_fields_that_are_no_part_of_a_state_are_refused() -> None:
    with pytest.raises(ValueRefused):
        join_state({"version": b"5"})
