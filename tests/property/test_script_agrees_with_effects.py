"""
`apply_updates.lua` against the reference of what ops do (`protocol.state.apply_ops`), on a real Redis-compatible
server.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persistence.hot.head import unpack_head
from persistence.hot.shapes import Outcome
from protocol.effects import compile_update
from protocol.errors import VoidUpdate
from protocol.state import apply_ops, state_size
from tests.stores.conftest import Stores, stores  # noqa: F401

names = st.sampled_from(["inventory", "collectibles", "flags", "mood", "level", "bag", "distance_meters"])
paths = st.one_of(names, st.builds("{}.{}".format, names, st.sampled_from(["a", "a.b", "é"])))
numbers = st.one_of(st.integers(-10, 10), st.sampled_from([0.1, 1.2, -0.000001, 8_999_999_999, -9_000_000_000]))
members = st.sampled_from(["lamp", "x.y", "ключ"])
effects = st.one_of(
    st.builds(
        lambda p, v: {"op": "set", "path": p, "value": v},
        paths,
        st.one_of(numbers, members, st.just([]), st.just({"k": [1]})),
    ),
    st.builds(lambda p: {"op": "unset", "path": p}, paths),
    st.builds(lambda op, p, v: {"op": op, "path": p, "value": v}, st.sampled_from(["incr", "max"]), paths, numbers),
    st.builds(lambda op, p, v: {"op": op, "path": p, "value": v}, st.sampled_from(["add", "remove"]), names, members),
)
events = st.one_of(
    st.none(),
    st.builds(
        lambda kind, content, count: {
            "type": kind,
            "content_id": content,
            "data": {"count": count, "distance_traveled": 1.5},
        },
        st.sampled_from(["quest_started", "quest_completed", "item_collected", "waypoint_visited"]),
        members,
        st.integers(1, 3),
    ),
)
updates = st.lists(st.tuples(events, st.lists(effects, min_size=1, max_size=6)), min_size=1, max_size=8)


@pytest.mark.timeout(120)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=updates, in_one_call=st.booleans())
async def test_script_and_reference_make_the_same_state(stores: Stores, plan: list[Any], in_one_call: bool) -> None:  # noqa: F811
    player = stores.player(user_id=str(uuid.uuid4()))
    await player.hello()
    expected: dict[str, str | bytes] = {}
    void_codes = {}
    made = []
    for seq, (event, some) in enumerate(plan, 1):
        made.append(player.make(event, some))
        try:
            apply_ops(expected, compile_update(event, some).ops)
        except VoidUpdate as void:
            void_codes[seq] = int(void.code)
    told = {}
    for call in [made] if in_one_call else [[update] for update in made]:
        verdict = await player.send(*call)
        assert verdict.outcome is Outcome.OK
        told.update({seq: code for seq, code, _ in verdict.voids})
    assert told == void_codes
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None
    assert progress.fields == {name: v.encode() if isinstance(v, str) else v for name, v in expected.items()}
    head = unpack_head(await stores.hot._client.hget(stores.hot._keys.progress(player.key), "head"))
    assert (head.state_fields, head.state_bytes) == state_size(expected)
