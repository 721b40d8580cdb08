"""A state goes to its document and back without a change, its size is what it says, and kinds never clash."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.effects import compile_update
from protocol.errors import VoidUpdate
from protocol.state import apply_ops, as_stored, document, join_state, join_stored, split_state, state_size
from protocol.values import ValueRefused
from tests.property.made_values import anything, good_effects, good_events, names, paths, values

updates = st.lists(
    st.tuples(good_events | st.none(), st.lists(good_effects, min_size=1, max_size=3)), min_size=1, max_size=8
)


def state_after(plan: list[Any]) -> dict[str, str | bytes]:
    fields: dict[str, str | bytes] = {}
    for event, effects in plan:
        try:
            apply_ops(fields, compile_update(event, effects).ops)
        except VoidUpdate:
            pass
    return fields


@given(updates)
def test_a_state_comes_back_from_its_document(plan: list[Any]) -> None:
    fields = state_after(plan)
    state_json, kinds_json = join_state(fields)
    assert split_state(state_json, kinds_json) == fields
    assert json.loads(state_json) == document(fields)


@given(updates)
def test_a_stored_hash_is_joined_without_what_is_no_part_of_the_state(plan: list[Any]) -> None:
    fields = state_after(plan)
    ours = {b"head": b"\xff\0", b"copy": b"c", b"accepted:device": b"1", b"saved:m:x.y": b"1"}
    assert join_stored(as_stored(fields) | ours) == join_state(fields)


@pytest.mark.parametrize("field", [b"m:no_dot", b"x:unknown", b"v:\xff", b"m:inventory.\xff", b"c:text"])
def test_a_hash_that_no_op_could_have_made_is_refused(field: bytes) -> None:
    with pytest.raises(ValueError):
        join_stored({b"s:inventory": b"", field: b"no number"})


@given(updates)
def test_kinds_are_written_only_where_the_default_reading_is_wrong(plan: list[Any]) -> None:
    fields = state_after(plan)
    state_json, kinds_json = join_state(fields)
    try:
        read_without = split_state(state_json)
    except ValueRefused:
        read_without = {}  # an array value that could not even be a set
    assert (read_without == fields) == (kinds_json == "{}")


@given(updates)
def test_fields_may_be_text_or_bytes(plan: list[Any]) -> None:
    """A store may answer either."""
    fields = state_after(plan)
    as_text: dict[str, str | bytes] = {
        name: stored.decode() if isinstance(stored, bytes) else stored for name, stored in fields.items()
    }
    assert join_state(as_text) == join_state(fields)
    assert document(as_text) == document(fields)
    assert state_size(as_text) == state_size(fields)
    ops = compile_update(None, [{"op": "incr", "path": "fresh", "value": 1}]).ops
    apply_ops(as_text, ops)
    apply_ops(fields, ops)
    assert join_state(as_text) == join_state(fields)


@given(updates)
def test_no_path_is_ever_two_kinds(plan: list[Any]) -> None:
    fields = state_after(plan)
    kinds: dict[str, set[str]] = {}
    for field in fields:
        prefix, path = field[0], field[2:]
        name, dot, _ = path.partition(".")
        if prefix == "m":
            kinds.setdefault(name, set()).add("set")
        elif dot:
            kinds.setdefault(name, set()).add("group")
            kinds.setdefault(path, set()).add(prefix)
        else:
            kinds.setdefault(name, set()).add({"s": "set", "g": "group"}.get(prefix, prefix))
    assert all(len(found) == 1 for found in kinds.values())
    # A mark stands wherever something hangs on it.
    for name, found in kinds.items():
        if found == {"set"}:
            assert f"s:{name}" in fields
        if found == {"group"}:
            assert f"g:{name}" in fields


@given(
    st.dictionaries(names | st.text(max_size=8), values | anything), st.dictionaries(paths, st.sampled_from("vcsgx"))
)
@example({"current_location": [10**400]}, {"current_location": "v"})  # once an OverflowError
def test_any_document_is_a_state_or_refused(state: Any, kinds: dict[str, str]) -> None:
    """Somebody may have edited the row by hand: a clear refusal, never a wrong state."""
    try:
        state_json = json.dumps(state)
    except (TypeError, ValueError):
        return
    try:
        fields = split_state(state_json, json.dumps(kinds))
    except ValueRefused:
        return
    again_json, again_kinds = join_state(fields)
    assert split_state(again_json, again_kinds) == fields
