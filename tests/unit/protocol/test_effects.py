"""What compiling gives besides ops. What each effect does is in the vectors: see tests/contract."""

import math
import time
from typing import Any

import pytest

from protocol import effects as effects_module
from protocol.effects import compile_update
from protocol.errors import ErrorCode, VoidUpdate

VISIT = {
    "type": "waypoint_visited",
    "content_id": "8_inter",
    "data": {"time_spent": 120, "distance_traveled": 1.2},
    "at": 1761300000000,
    "lat": 37,
    "lng": -122.547701,
}


def void_code(event: Any, effects: Any) -> ErrorCode:
    with pytest.raises(VoidUpdate) as refused:
        compile_update(event, effects)
    return refused.value.code


def test_a_compiled_update_says_everything_an_entry_needs() -> None:
    update = compile_update(
        VISIT,
        [
            {"op": "set", "path": "mood", "value": {"b": 1, "a": [True, None, "é"]}, "why": "ignored"},
            {"op": "incr", "path": "xp", "value": 5},
            {"op": "incr", "path": "xp", "value": 2.50},
            {"op": "add", "path": "badges", "value": 'a"b'},
            {"op": "unset", "path": "flags.a.b", "value": "ignored"},
        ],
    )
    assert update.event_type == "waypoint_visited"
    assert update.content_id == "8_inter"
    assert update.data_json == b'{"distance_traveled":1.2,"time_spent":120}'
    assert (update.at_ms, update.lat, update.lng) == (1761300000000, 37.0, -122.547701)
    assert isinstance(update.lat, float)
    assert (
        update.effects_json.decode() == '[{"op":"set","path":"mood","value":{"a":[true,null,"é"],"b":1}},'
        '{"op":"incr","path":"xp","value":5},{"op":"incr","path":"xp","value":2.5},'
        '{"op":"add","path":"badges","value":"a\\"b"},{"op":"unset","path":"flags.a.b"}]'
    )
    assert update.ops == [
        ("add", "visited_waypoints", "visited_waypoints", "8_inter"),
        ("set", "current_location", "current_location", b'"8_inter"'),
        ("incr", "distance_meters", "distance_meters", 1_200_000),
        ("set", "mood", "mood", '{"a":[true,null,"é"],"b":1}'.encode()),
        ("incr", "xp", "xp", 5_000_000),
        ("incr", "xp", "xp", 2_500_000),
        ("add", "badges", "badges", 'a"b'),
        ("unset", "flags.a.b", "flags", ""),
    ]


def test_an_update_without_an_event_has_no_event_parts() -> None:
    update = compile_update(None, [{"op": "incr", "path": "xp", "value": 1}])
    assert (update.event, update.event_type, update.content_id, update.data_json) == (None, None, None, b"{}")
    assert (update.at_ms, update.lat, update.lng) == (None, None, None)


def test_an_update_without_effects_has_no_effects_json() -> None:
    for none in (None, []):
        assert compile_update({"type": "dragon_seen"}, none).effects_json == b""


def test_ops_of_a_quest_and_of_a_counted_item() -> None:
    assert compile_update({"type": "quest_started", "content_id": "q"}, None).ops == [
        ("add_unless", "active_quests", "active_quests", "q", "completed_quests")
    ]
    assert compile_update({"type": "item_collected", "content_id": "a.b", "data": {"count": 2}}, None).ops == [
        ("incr", "collectibles.a.b", "collectibles", 2_000_000)
    ]


@pytest.mark.parametrize("kind", ["achievement_unlocked", "experience_completed", "dragon_seen"])
def test_events_that_leave_the_state_alone_have_no_ops(kind: str) -> None:
    assert compile_update({"type": kind, "content_id": "a"}, None).ops == []


def test_a_broken_distance_is_kept_as_null() -> None:
    """A GPS that gives NaN once made JSON that Postgres refuses; the waypoint must count all the same."""
    update = compile_update({**VISIT, "data": {"distance_traveled": float("nan"), "time_spent": 3}}, None)
    assert update.data_json == b'{"distance_traveled":null,"time_spent":3}'
    assert [op[0] for op in update.ops] == ["add", "set"]
    full = {"distance_traveled": float("inf"), "x": [0] * 4094}
    assert compile_update({**VISIT, "data": full}, None).data_json.startswith(b'{"distance_traveled":null,')
    # Another event type gives that name no meaning, so there NaN is what it is everywhere.
    assert (
        void_code({"type": "dragon_seen", "data": {"distance_traveled": float("nan")}}, None)
        == ErrorCode.INVALID_MESSAGE
    )


def test_a_time_that_nothing_could_hold_is_the_furthest_that_can() -> None:
    assert compile_update({"type": "a", "at": 10**400}, None).at_ms == 2**53
    assert compile_update({"type": "a", "at": -(10**400)}, None).at_ms == -(2**53)


def test_an_update_is_measured_as_json_too() -> None:
    """msgpack writes a small float in 5 bytes and JSON in 20: what is stored is what must be bounded."""
    assert compile_update({"type": "a", "data": {"x": "y" * 32_760}}, None).data_json
    assert void_code({"type": "a", "data": {"x": "y" * 32_761}}, None) == ErrorCode.TOO_LARGE
    large = [{"op": "set", "path": f"p{n}", "value": "x" * 8_000} for n in range(5)]
    assert void_code(None, large) == ErrorCode.TOO_LARGE


def test_messages_point_at_the_effect_and_quote_nothing() -> None:
    with pytest.raises(VoidUpdate) as refused:
        compile_update(None, [{"op": "incr", "path": "xp", "value": 1}, {"op": "incr", "path": "\x1b[31m", "value": 1}])
    assert refused.value.message.startswith("effects[1]: path: ")
    assert "\x1b" not in refused.value.message


def test_nobody_can_fill_the_cache_of_paths_with_large_texts() -> None:
    before = len(effects_module._targets)
    for path in ("x" * 30_000, "flags." + "k" * 30_000, "BAD", "inventory.a"):
        assert void_code(None, [{"op": "set", "path": path, "value": 1}]) == ErrorCode.INVALID_EFFECT
    assert void_code(None, [{"op": "x" * 30_000, "path": "a", "value": 1}]) == ErrorCode.INVALID_EFFECT
    assert len(effects_module._targets) == before


@pytest.mark.parametrize("surrogate", ["\ud800", "a\udfff"])
def test_lone_surrogates_are_void_wherever_they_are(surrogate: str) -> None:
    """No decoder lets them through; a caller in this process might."""
    assert void_code({"type": surrogate}, None) == ErrorCode.INVALID_MESSAGE
    assert void_code({"type": "a", "content_id": surrogate}, None) == ErrorCode.INVALID_MESSAGE
    assert void_code({"type": "a", "data": {surrogate: 1}}, None) == ErrorCode.INVALID_MESSAGE
    assert void_code(None, [{"op": "set", "path": "a", "value": surrogate}]) == ErrorCode.INVALID_EFFECT
    assert void_code(None, [{"op": "set", "path": f"a.{surrogate}", "value": 1}]) == ErrorCode.INVALID_EFFECT
    assert void_code(None, [{"op": "add", "path": "a", "value": surrogate}]) == ErrorCode.INVALID_EFFECT


def test_items_are_bounded_over_a_whole_update() -> None:
    """A hostile client pays one byte for an item, and 32,000 of them once held the event loop for 35 ms."""
    event = {"type": "a", "data": {"x": [0] * 2000}}
    half = {"op": "set", "path": "a", "value": [0] * 2095}
    assert compile_update(event, [half]).ops
    assert void_code(event, [{**half, "value": [0] * 2096}]) == ErrorCode.TOO_LARGE
    assert void_code(event, [half, {"op": "set", "path": "b", "value": {"a": 1}}]) == ErrorCode.TOO_LARGE
    assert void_code({"type": "a", "data": {"x": [0] * 4096}}, None) == ErrorCode.TOO_LARGE
    assert compile_update(None, [{"op": "set", "path": "a", "value": [0] * 4095}]).ops


def test_one_hostile_update_costs_little() -> None:
    hostile: dict[str, Any] = {"type": "a", "data": {"x": [[] for _ in range(16_000)], "y": [0] * 16_000}}
    many = {"type": "a", "data": {str(n): [[]] for n in range(8_000)}}
    lost = {"type": "waypoint_visited", "content_id": "a", "data": {**hostile["data"], "distance_traveled": math.nan}}
    for event in (hostile, many, lost):
        started = time.perf_counter()
        assert void_code(event, None) == ErrorCode.TOO_LARGE
        assert time.perf_counter() - started < 0.05


def test_the_cache_of_paths_is_bounded_and_never_in_the_way() -> None:
    for number in range(effects_module._TARGETS_MAX + 10):
        compile_update(None, [{"op": "incr", "path": f"collectibles.made_up_{number}", "value": 1}])
        assert len(effects_module._targets) <= effects_module._TARGETS_MAX
    assert compile_update(None, [{"op": "add", "path": "inventory", "value": "lamp"}]).ops == [
        ("add", "inventory", "inventory", "lamp")
    ]
