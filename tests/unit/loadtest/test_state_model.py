"""The audit's model of the state: its own rules one by one, and held against the shared vectors and the real thing."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pytest

from loadtest.state_model import StateModel, list_differences, parse_document
from protocol.effects import VoidUpdate, compile_update
from protocol.state import apply_ops, join_state, state_size

VECTORS_FILE = Path(__file__).parents[3] / "protocol" / "vectors" / "effects.json"


def play(*updates: tuple[Any, Any]) -> tuple[StateModel, list[int | None]]:
    model = StateModel()
    return model, [model.apply(event, effects) for event, effects in updates]


def effects(*ops: tuple[Any, ...]) -> tuple[None, list[dict[str, Any]]]:
    names = ("op", "path", "value")
    return None, [dict(zip(names, op, strict=False)) for op in ops]


def test_a_walk_becomes_a_state() -> None:
    model, codes = play(
        ({"type": "waypoint_visited", "content_id": "b", "data": {"distance_traveled": 1.2}}, None),
        ({"type": "waypoint_visited", "content_id": "a", "data": {"distance_traveled": 0.1}}, None),
        ({"type": "quest_started", "content_id": "q"}, None),
        ({"type": "quest_completed", "content_id": "q"}, None),
        ({"type": "quest_started", "content_id": "q"}, None),
        ({"type": "item_collected", "content_id": "tools", "data": {"count": 2}}, None),
        ({"type": "item_collected", "content_id": "lamp"}, None),
        ({"type": "achievement_unlocked", "content_id": "first"}, None),
        ({"type": "experience_completed"}, [{"op": "set", "path": "flags.done", "value": True}]),
    )
    assert codes == [None] * 9
    assert model.document() == {
        "visited_waypoints": ["a", "b"],
        "current_location": "a",
        "distance_meters": Decimal("1.3"),
        "active_quests": [],
        "completed_quests": ["q"],
        "collectibles": {"tools": Decimal(2)},
        "inventory": ["lamp"],
        "flags": {"done": True},
    }
    assert model.achievements == {"first"} and model.is_completed


def test_tenths_add_up_exactly() -> None:
    model, _ = play(*[effects(("incr", "score", 0.1))] * 10)
    assert model.document() == {"score": Decimal(1)}


@pytest.mark.parametrize("distance", [None, -1, -0.5, float("nan"), float("inf"), "far", True])
def test_a_distance_that_is_none_adds_nothing_and_is_no_error(distance: Any) -> None:
    model, codes = play(
        ({"type": "waypoint_visited", "content_id": "a", "data": {"distance_traveled": distance}}, None)
    )
    assert codes == [None] and "distance_meters" not in model.document()


@pytest.mark.parametrize(
    ("update", "code"),
    [
        ((None, None), 102),
        ((None, []), 102),
        (({"type": "waypoint_visited"}, None), 102),
        (({"type": "x" * 51}, None), 102),
        (("walk", None), 102),
        (({"type": "note", "lat": 90.5}, None), 102),
        ((None, "effects"), 102),
        (effects(("grow", "a", 1)), 106),
        (effects(("incr", "inventory", 1)), 106),
        (effects(("set", "flags", 1)), 106),
        (effects(("add", "flags.x", "m")), 106),
        (effects(("incr", "a", True)), 106),
        (effects(("incr", "a", 9_000_000_001)), 106),
        (effects(("set", "Upper", 1)), 106),
        (effects(("set", "a." + "k" * 129, 1)), 106),
        (effects(("set", "a", "y" * 8200)), 105),
        (effects(*[("incr", "a", 1)] * 17), 105),
        (effects(("set", "a", 1), ("set", "a.b", 1)), 106),
        (effects(("add", "a", "m"), ("set", "a", 1)), 106),
    ],
)
def test_void_updates_have_their_code_and_change_nothing(update: tuple[Any, Any], code: int) -> None:
    model, _ = play(effects(("set", "kept", 1), ("add", "friends", "ada")))
    before = model.document()
    assert model.apply(*update) == code
    assert model.document() == before


def test_an_update_is_one_step_or_nothing() -> None:
    model, _ = play(effects(("incr", "score", 5), ("add", "friends", "ada"), ("set", "room.door", "open")))
    before = model.document()
    wrong = effects(
        ("incr", "score", 1),
        ("remove", "friends", "ada"),
        ("add", "friends", "bo"),
        ("unset", "room.door"),
        ("set", "hall.x", 1),
        ("add", "score", "a member of a counter"),
    )
    assert model.apply({"type": "quest_completed", "content_id": "q"}, wrong[1]) == 106
    assert model.document() == before


def test_a_state_has_bounds() -> None:
    model = StateModel()
    for index in range(8):
        assert model.apply(*effects(("set", f"blob_{index}", "y" * 8000))) is None
    assert model.apply(*effects(("set", "blob_8", "y" * 8000))) == 105
    assert model.apply(*effects(("unset", "blob_0"))) is None
    assert model.apply(*effects(("set", "blob_8", "y" * 8000))) is None


def test_differences_are_named_by_their_place() -> None:
    expected = {"a": [1, 2], "b": {"c": Decimal("1.50"), "d": True}, "gone": 1}
    actual = {"a": [1, 3], "b": {"c": 1.5, "d": 1}, "new": 2}
    assert list_differences(expected, actual) == [
        "a[1] should be 2, is 3",
        "b.d should be true, is 1",
        "gone is missing, should be 1",
        "new should not be there, is 2",
    ]
    assert list_differences({"n": 2}, {"n": 2.0}) == []


def test_model_agrees_with_the_protocol_on_random_updates() -> None:
    """Two implementations of the same page: where they part, one of them is wrong."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    for _ in range(150):
        model, fields = StateModel(), {}
        for _ in range(40):
            event, listed = _random_event(rng), _random_effects(rng)
            code = model.apply(event, listed)
            try:
                apply_ops(fields, compile_update(event, listed).ops)
                expected = None
            except VoidUpdate as void:
                expected = int(void.code)
            assert code == expected, f"seed={seed} event={event!r:.300} effects={listed!r:.300}"
            found = list_differences(parse_document(join_state(fields)[0]), model.document())
            assert not found, f"seed={seed} {found} event={event!r:.300} effects={listed!r:.300}"
            assert (len(model._weights), model._bytes) == state_size(fields), (
                f"seed={seed} {event!r:.300} {listed!r:.300}"
            )


NAMES = (
    "inventory",
    "flags",
    "collectibles",
    "distance_meters",
    "current_location",
    "active_quests",
    "foo",
    "bar",
    "Bad",
)
KEYS = ("", "k", "k.x", "ä", "x" * 128, "x" * 129, "a\0")
VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 1.5, 5e-7, 1.5e-6, 2.5e-6, 1e10, -9e9, 9e9, 1e16, 1e300, -0.0, 2**63, 2**63 - 1),
    *(float("nan"), float("inf"), True, None, "", "s", "x" * 128, "x" * 129, "y" * 9000, "\ud800", "x\0"),
    *([1, 2], {"a": [1.5, -0.0]}, [["z"]], [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]], [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]),
)
TYPES = (
    *("waypoint_visited", "location_reached", "quest_started", "quest_completed", "item_collected"),
    *("achievement_unlocked", "experience_completed", "other", "", "t" * 51, 5),
)
CONTENT_IDS = ("q", "w", "q.1", "x" * 128, "x" * 129, "x" * 255, "x" * 256, "", None, 7)


def _random_event(rng: random.Random) -> Any:
    if rng.random() < 0.4:
        return None
    event: dict[str, Any] = {"type": rng.choice(TYPES)}
    if rng.random() < 0.9:
        event["content_id"] = rng.choice(CONTENT_IDS)
    if rng.random() < 0.6:
        name = rng.choice(("count", "distance_traveled", "other"))
        event["data"] = rng.choice(({}, None, [], {name: rng.choice(VALUES)}))
    if rng.random() < 0.2:
        event["lat"] = rng.choice((1, 90, 90.1, -90.0, "1", True, float("nan")))
    if rng.random() < 0.2:
        event["at"] = rng.choice((1, 1.5, "x", True, -5, 2**60))
    return event if rng.random() < 0.98 else rng.choice(([], "x", 5))


def _random_effects(rng: random.Random) -> Any:
    count = rng.choice((0, 1, 1, 1, 2, 3, 17))
    if rng.random() < 0.3:
        return rng.choice((None, [], {"a": 1}))
    return [_random_effect(rng) for _ in range(count)]


def _random_effect(rng: random.Random) -> Any:
    path = rng.choice(NAMES)
    if rng.random() < 0.45:
        path += "." + rng.choice(KEYS)
    effect = {"op": rng.choice(("set", "unset", "incr", "max", "add", "remove", "grow", None)), "path": path}
    if rng.random() < 0.95:
        effect["value"] = rng.choice(VALUES)
    return effect if rng.random() < 0.97 else rng.choice((None, "effect", {}))


VECTORS: list[dict[str, Any]] = json.loads(VECTORS_FILE.read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_model_gives_the_answers_of_the_shared_vectors(vector: dict[str, Any]) -> None:
    model = _load_state(vector.get("before", {}), vector.get("kinds_before", {}))
    before = model.document()
    update = vector.get("update")
    if update is None:
        update = msgpack.unpackb(bytes.fromhex(vector["update_msgpack"]), unicode_errors="surrogatepass")
    code = model.apply(update.get("event"), update.get("effects"))
    assert code == vector.get("void")
    assert list_differences(vector.get("after", before), model.document()) == []


def _load_state(document: dict[str, Any], kinds: dict[str, str]) -> StateModel:
    """Bring a model to a state through updates, as a player would."""
    model = StateModel()
    for name, content in document.items():
        if kinds.get(name) == "v" or not isinstance(content, list | dict):
            ops = [_op_for(name, content, kinds)]
        elif isinstance(content, list):
            ops = [("add", name, member) for member in content] + [("add", name, "x"), ("remove", name, "x")]
        else:
            ops = [_op_for(f"{name}.{key}", leaf, kinds) for key, leaf in content.items()]
            ops += [("set", f"{name}.x x", 1), ("unset", f"{name}.x x", None)]
        for op in ops:
            assert model.apply(*effects(op)) is None, op
    return model


def _op_for(path: str, leaf: Any, kinds: dict[str, str]) -> tuple[str, str, Any]:
    is_counter = kinds.get(path) != "v" and isinstance(leaf, int | float) and not isinstance(leaf, bool)
    if is_counter and leaf < 0:
        return "incr", path, leaf
    return ("max" if is_counter and leaf > 0 else "incr" if is_counter else "set"), path, leaf
