"""The algebra of effects: whatever an update holds, it is compiled or void, done whole or not at all."""

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from protocol.effects import CompiledUpdate, compile_update
from protocol.errors import ErrorCode, VoidUpdate
from protocol.state import apply_ops, document
from tests.property.made_values import (
    anything,
    broken_effects,
    broken_events,
    counter_numbers,
    good_effects,
    good_events,
    members,
)

VOID_CODES = {ErrorCode.INVALID_MESSAGE, ErrorCode.TOO_LARGE, ErrorCode.INVALID_EFFECT}


def compiled(event: Any, effects: Any) -> CompiledUpdate | VoidUpdate:
    try:
        return compile_update(event, effects)
    except VoidUpdate as refused:
        return refused


@given(good_events | broken_events | anything, st.lists(good_effects | broken_effects | anything) | anything)
def test_any_update_is_compiled_or_void(event: Any, effects: Any) -> None:
    outcome = compiled(event, effects)
    if isinstance(outcome, VoidUpdate):
        assert outcome.code in VOID_CODES
        assert len(outcome.message) <= 200
        return
    # What was compiled can be stored: it is JSON in UTF-8 without NUL, and so is every op.
    for written in (outcome.data_json, outcome.effects_json or b"[]"):
        assert "\\u0000" not in written.decode().replace("\\\\", "")
        json.loads(written)
    for _, path, name, *rest in outcome.ops:
        assert path == name or path.startswith(f"{name}.")
        for arg in rest:
            assert isinstance(arg, str | int | bytes) and not isinstance(arg, bool)
        (path + name).encode()
    fields: dict[str, str | bytes] = {}
    try:
        apply_ops(fields, outcome.ops)
    except VoidUpdate as refused:
        assert refused.code in VOID_CODES
        assert fields == {}


@given(good_events | st.none(), st.lists(good_effects, min_size=1, max_size=6))
def test_compiling_leaves_what_the_client_sent_alone(event: Any, effects: Any) -> None:
    before = repr((event, effects))
    compiled(event, effects)
    assert repr((event, effects)) == before


@given(st.lists(good_effects, min_size=1, max_size=6))
def test_the_effects_written_down_do_the_same_again(effects: Any) -> None:
    """`effects_json` is what the cold store keeps of an update without an event: it must say everything."""
    first = compiled(None, effects)
    if isinstance(first, VoidUpdate):
        return
    second = compile_update(None, json.loads(first.effects_json))
    assert second.ops == first.ops
    assert second.effects_json == first.effects_json


@given(st.lists(counter_numbers, min_size=1, max_size=4))
def test_the_order_of_additions_does_not_matter(numbers: list[Any]) -> None:
    results = set()
    for order in itertools.permutations(numbers):
        fields: dict[str, str | bytes] = {}
        try:
            for number in order:
                apply_ops(fields, compile_update(None, [{"op": "incr", "path": "xp", "value": number}]).ops)
        except VoidUpdate:
            continue  # it left the bounds on the way
        results.add(fields["c:xp"])
    assert len(results) <= 1


@given(st.lists(st.tuples(st.sampled_from(["add", "remove"]), members), min_size=1))
def test_a_set_is_a_set(steps: list[tuple[str, str]]) -> None:
    model: set[str] = set()
    fields: dict[str, str | bytes] = {}
    for op, member in steps:
        model.add(member) if op == "add" else model.discard(member)
        apply_ops(fields, compile_update(None, [{"op": op, "path": "badges", "value": member}]).ops)
    assert document(fields) == {"badges": sorted(model)}


@given(st.lists(good_effects, min_size=1, max_size=16))
def test_doing_a_void_update_and_not_doing_it_is_the_same(effects: list[Any]) -> None:
    whole: dict[str, str | bytes] = {}
    outcome = compiled(None, effects)
    if isinstance(outcome, VoidUpdate):
        return
    try:
        apply_ops(whole, outcome.ops)
        done = True
    except VoidUpdate:
        done = False
        assert whole == {}
    # One at a time ends in the same state, or is refused somewhere on the way.
    single: dict[str, str | bytes] = {}
    try:
        for op in outcome.ops:
            apply_ops(single, [op])
        assert done and single == whole
    except VoidUpdate:
        assert not done
