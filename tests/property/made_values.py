"""Strategies: values that may be kept, things that may not, and updates made of both."""

from typing import Any

from hypothesis import strategies as st

from protocol.limits import INTEGER_MAX, INTEGER_MIN

clean_text = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
# Around the places where JSONB changes how a number looks.
hard_floats = st.sampled_from(
    [0.0, -0.0, 5.0, 1e-7, 5e-324, 1e15, 1e16, 1.5e16, 2.0**62, 2.0**63, -(2.0**63), 1e22, 1e23, 1.7e308, 0.1, 1 / 3]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(INTEGER_MIN, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | hard_floats
    | clean_text
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(clean_text, inner, max_size=4),
    max_leaves=12,
)

refused_scalars = (
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 2**63, -(2**63) - 1, 10**400, b"", b"ab", object(), ()])
    | st.text(alphabet="\0\ud800a", max_size=3)
    | st.integers()
)
anything: st.SearchStrategy[Any] = st.recursive(
    scalars | refused_scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(clean_text | st.text(alphabet="\0\ud800a") | st.integers() | st.binary(), inner, max_size=4)
    ),
    max_leaves=12,
)

NAMES = ["inventory", "collectibles", "flags", "current_location", "distance_meters", "mood", "level"]
names = st.sampled_from(NAMES)
keys = st.sampled_from(["a", "a.b", ".", "é", "\U0001f5dd"])
paths = names | st.builds("{}.{}".format, names, keys)
counter_numbers = st.integers(-10, 10) | st.sampled_from([0.1, 1.2, -0.000001, 8_999_999_999, -9_000_000_000, 1e-7])
members = st.sampled_from(["lamp", "x.y", "ключ", ":"])

good_effects = st.one_of(
    st.builds(lambda path, value: {"op": "set", "path": path, "value": value}, paths, values),
    st.builds(lambda path: {"op": "unset", "path": path}, paths),
    st.builds(
        lambda op, path, value: {"op": op, "path": path, "value": value},
        st.sampled_from(["incr", "max"]),
        paths,
        counter_numbers,
    ),
    st.builds(
        lambda op, path, value: {"op": op, "path": path, "value": value},
        st.sampled_from(["add", "remove"]),
        names,
        members,
    ),
)
broken_effects = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from(["set", "unset", "incr", "max", "add", "remove", "x"]) | anything,
        "path": paths | st.text(max_size=300) | anything,
        "value": anything,
    },
)
good_events = st.builds(
    lambda kind, content_id, data: {"type": kind, "content_id": content_id, "data": data},
    st.sampled_from(
        [
            "waypoint_visited",
            "location_reached",
            "quest_started",
            "quest_completed",
            "item_collected",
            "achievement_unlocked",
            "experience_completed",
            "dragon_seen",
        ]
    ),
    members,
    st.fixed_dictionaries({}, optional={"count": counter_numbers, "distance_traveled": counter_numbers}),
)
broken_events = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["waypoint_visited", "item_collected", "quest_started", "x"]) | anything,
        "content_id": st.text(max_size=300) | anything,
        "data": st.dictionaries(st.sampled_from(["count", "distance_traveled", "x"]), anything) | anything,
        "at": anything,
        "lat": anything,
        "lng": anything,
    },
)
