"""The client's mirror does to a document what the server does to fields."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from persistence.actions.shapes import compile_step, effects_of
from protocol.client.state_mirror import apply_effects, apply_op
from protocol.effects import compile_update
from protocol.errors import VoidUpdate
from protocol.state import apply_ops, document

names = st.sampled_from(["inventory", "flags", "xp", "title", "route", "collectibles", "distance_meters"])
paths = st.one_of(names, st.builds("{}.{}".format, st.sampled_from(["flags", "bag"]), st.sampled_from(["a", "b.c"])))
amounts = st.one_of(st.integers(-5, 5), st.floats(-3, 3).map(lambda value: round(value, 7)))
items = st.sampled_from(["lamp", "rope", "brass_key"])
effect = st.one_of(
    st.fixed_dictionaries({"op": st.sampled_from(["add", "remove"]), "path": names, "value": items}),
    st.fixed_dictionaries({"op": st.sampled_from(["incr", "max"]), "path": paths, "value": amounts}),
    st.fixed_dictionaries(
        {"op": st.just("set"), "path": paths, "value": st.one_of(st.booleans(), st.just([1, 2]), items)}
    ),
    st.fixed_dictionaries({"op": st.just("unset"), "path": paths}),
)
events = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["quest_started", "quest_completed", "item_collected", "waypoint_visited", "other"]
            ),
            "content_id": items,
            "data": st.fixed_dictionaries({}, optional={"distance_traveled": amounts, "count": amounts}),
        }
    ),
)
updates = st.lists(st.tuples(events, st.lists(effect, min_size=1, max_size=4)), max_size=12)


@given(updates)
def test_own_updates_and_pushes_leave_the_state_of_the_server(made: list[tuple[Any, list[dict[str, Any]]]]) -> None:
    fields: dict[str, Any] = {}
    own: dict[str, Any] = {}
    pushed: dict[str, Any] = {}
    for event, effects in made:
        try:
            compiled = compile_update(event, effects)
            apply_ops(fields, compiled.ops)
        except VoidUpdate:
            continue
        for op in compiled.ops:
            apply_op(own, op)
        apply_effects(pushed, effects_of(compile_step(event, effects)))
        assert own == document(fields)
        assert pushed == document(fields)
