"""
Values and states through a real JSONB column: what comes back is, byte for byte, what went in.

Redis holds the bytes, Postgres a parsed form. A hydrate that gave other bytes would show as a difference between two
copies of one state that never diverged.
"""

import asyncio
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocol.effects import compile_update
from protocol.errors import VoidUpdate
from protocol.state import apply_ops, join_state, split_state
from protocol.values import canonical_json, parse_json
from tests.property.made_values import anything, good_effects, good_events, values

BATCH = st.lists(values, min_size=1, max_size=40)
PLANS = st.lists(
    st.lists(st.tuples(good_events | st.none(), st.lists(good_effects, min_size=1, max_size=3)), max_size=6),
    min_size=1,
    max_size=10,
)
ROUGH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def through_jsonb(database_url: str) -> Any:
    """Text in, JSONB's text out, many at a time; one connection for a whole test."""
    runner = asyncio.Runner()
    connection = runner.run(asyncpg.connect(database_url, timeout=10))

    def send(texts: list[str]) -> list[str]:
        async def ask() -> list[str]:
            rows = await connection.fetch(
                "SELECT one::jsonb::text AS back FROM unnest($1::text[]) WITH ORDINALITY AS t(one, n) ORDER BY n",
                texts,
                timeout=10,
            )
            return [row["back"] for row in rows]

        return runner.run(ask())

    yield send
    runner.run(connection.close(timeout=5))
    runner.close()


@ROUGH
@given(BATCH)
@example([0.0, -0.0, 5.0, 1e15, 1e16, 1.5e16, -1e16, 2.0**62, 2.0**63, -(2.0**63), 2.0**64, 1e22, 1e23, 1e308])
@example([1e-5, 1e-6, 1e-7, 5e-324, 0.1, 1 / 3, 123456789.123456789, 9007199254740993, 2**63 - 1, -(2**63)])
@example([{"b": 1, "a": 2, "aa": 3}, {"": {"": []}}, "\\u0000", "\x01\x1f\x7f", "\U0001f5dd", {"\\u0000": 1}])
def test_values_survive_jsonb_byte_for_byte(through_jsonb: Any, batch: list[Any]) -> None:
    written = [canonical_json(value).decode() for value in batch]
    assert [canonical_json(parse_json(back)).decode() for back in through_jsonb(written)] == written


@ROUGH
@given(PLANS)
def test_states_survive_jsonb_field_for_field(through_jsonb: Any, plans: list[Any]) -> None:
    states: list[dict[str, Any]] = []
    for plan in plans:
        fields: dict[str, Any] = {}
        for event, effects in plan:
            try:
                apply_ops(fields, compile_update(event, effects).ops)
            except VoidUpdate:
                pass
        states.append(fields)
    joined = [join_state(fields) for fields in states]
    back_states = through_jsonb([state for state, _ in joined])
    back_kinds = through_jsonb([kinds for _, kinds in joined])
    assert [split_state(*back) for back in zip(back_states, back_kinds, strict=True)] == states


@ROUGH
@given(st.lists(good_events, max_size=5), st.lists(st.lists(anything, max_size=3), max_size=5))
def test_whatever_was_compiled_postgres_takes(through_jsonb: Any, events: list[Any], rough: list[Any]) -> None:
    """Everything a row would refuse is refused before it is accepted; afterwards it would be a dead letter."""
    taken: list[str] = []
    for event in [*events, *({"type": "x", "data": {"rough": one}} for one in rough)]:
        try:
            compiled = compile_update(event, [{"op": "set", "path": "mood", "value": event["data"]}])
        except VoidUpdate:
            continue
        taken += [compiled.data_json.decode(), compiled.effects_json.decode()]
    back = through_jsonb(taken)
    assert [canonical_json(parse_json(one)) for one in back] == [canonical_json(parse_json(one)) for one in taken]


def test_the_largest_counters_keep_their_last_place(through_jsonb: Any) -> None:
    fields = {"c:a": b"8999999999999999", "c:b": b"-8999999999999999", "g:g": b"", "c:g.k": b"8999999999999998"}
    state, kinds = join_state(fields)
    assert kinds == "{}"
    assert split_state(*through_jsonb([state, kinds])) == fields
