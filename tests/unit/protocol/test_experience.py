"""Definitions of experiences: what a good one means, and what is said about a bad one."""

from __future__ import annotations

import math
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.events import KNOWN_EVENTS
from protocol.experience import KIND_OF_EVENT, Privacy, completion_percentage, round_location
from protocol.experience_file import ExperienceRefused, parse_experience
from protocol.state import apply_ops

TOWN = """
format = 1
id = "town"
unknown_content = "refuse"
[completion]
waypoints = "all"
quests = ["bell"]
collectibles = { "brass.tokens" = 5 }
[privacy]
location_decimals = 4
event_retention_days = 400
[[waypoints]]
id = "1_station"
lat = 37.904571
lng = -122.548535
starts = ["bell"]
collectibles = { "brass.tokens" = 3 }
[[waypoints]]
id = "2_tower"
name = "The tower"
lat = 1
lng = 2
[[quests]]
id = "bell"
[[items]]
id = "brass.tokens"
"""


def parse(text: str) -> object:
    return parse_experience(text, "town.toml", experience_id="town")


def test_a_definition_says_what_there_is() -> None:
    town = parse_experience(TOWN, "town.toml", experience_id="town")
    assert (town.experience_id, town.name, town.unknown_content) == ("town", "town", "refuse")
    assert [waypoint.name for waypoint in town.waypoints] == ["1_station", "The tower"]
    assert town.waypoints[0].collectibles == (("brass.tokens", 3),)
    assert town.privacy == Privacy(location_decimals=4, event_retention_days=400)
    assert town.known_content() == {
        "waypoint_visited": {"1_station", "2_tower"},
        "location_reached": {"1_station", "2_tower"},
        "quest_started": {"bell"},
        "quest_completed": {"bell"},
        "item_collected": {"brass.tokens"},
        # Nothing is said about achievements, so none is unknown.
    }


def test_the_smallest_definition_asks_for_nothing() -> None:
    town = parse_experience('format = 1\nid = "town"', "town.toml")
    assert town.completion is None and town.known_content() == {} and not town.privacy.changes_locations
    assert completion_percentage(town, {"m:visited_waypoints.1_station": b""}) == 0.0


def test_every_known_event_that_is_about_something_has_a_kind() -> None:
    assert set(KIND_OF_EVENT) == {name for name, known in KNOWN_EVENTS.items() if known.needs_content_id}


def test_completion_counts_each_thing_once_and_says_100_only_when_nothing_is_missing() -> None:
    town = parse_experience(TOWN, "town.toml")
    fields: dict[str, str | bytes] = {}
    seen = []
    for ops in (
        [],
        [("add", "visited_waypoints", "visited_waypoints", "1_station")],
        [("add", "visited_waypoints", "visited_waypoints", "elsewhere")],
        [("add", "completed_quests", "completed_quests", "bell")],
        [("incr", "collectibles.brass.tokens", "collectibles", 4_999_999)],
        [("incr", "collectibles.brass.tokens", "collectibles", 1)],
        [("add", "visited_waypoints", "visited_waypoints", "2_tower")],
    ):
        apply_ops(fields, ops)
        seen.append(completion_percentage(town, {name: bytes(held) for name, held in fields.items()}))  # type: ignore[arg-type]
    assert seen == [0.0, 25.0, 25.0, 50.0, 50.0, 75.0, 100.0]


def test_completion_is_rounded_down() -> None:
    ids = [f"w{number}" for number in range(3000)]
    text = 'format = 1\nid = "town"\n[completion]\nwaypoints = "all"\n' + "".join(
        f'[[waypoints]]\nid = "{one}"\nlat = 1\nlng = 1\n' for one in ids
    )
    town = parse_experience(text, "town.toml")
    fields = {f"m:visited_waypoints.{one}": b"" for one in ids}
    assert completion_percentage(town, fields) == 100.0
    del fields["m:visited_waypoints.w7"]
    assert completion_percentage(town, fields) == 99.96


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("format = 1", ""), r"town\.toml: format: missing; write format = 1"),
        (("format = 1", "format = 2"), "format: a format this release does not know"),
        (('id = "town"', ""), 'id: missing; write id = "town"'),
        (('id = "town"', 'id = "city"'), "id: 'city', but the file is named after 'town'"),
        (('id = "town"', 'id = "to wn"'), "no experience can be called that"),
        (("lat = 1\n", "lat = 91\n"), r"waypoints\[2\]\.lat: out of bounds; write a number from -90 to 90"),
        (("lat = 1\n", "lat = nan\n"), r"waypoints\[2\]\.lat: out of bounds"),
        (("lat = 1\n", "lat = true\n"), r"waypoints\[2\]\.lat: out of bounds"),
        (("lat = 1\n", ""), r"waypoints\[2\]\.lat: missing; write lat = "),
        (('id = "2_tower"', 'id = "1_station"'), "'1_station' is there twice"),
        (('id = "2_tower"', 'id = ""'), "not an id"),
        (('starts = ["bell"]', 'starts = ["ball"]'), r"starts: 'ball' is none of the quests; did you mean 'bell'\?"),
        (
            ('starts = ["bell"]', 'start = ["bell"]'),
            r"waypoints\[1\]\.start: there is no such key; did you mean 'starts'",
        ),
        (("[privacy]", "[privcy]"), r"privcy: there is no such key; did you mean 'privacy'\?"),
        (("location_decimals = 4", "location_decimals = 9"), "privacy.location_decimals: out of bounds"),
        (("location_decimals = 4", "location_decimals = 4\nprecision_m = 10"), "keep one of the two"),
        (("event_retention_days = 400", "event_retention_days = 0"), "write a whole number from 1 to 36500"),
        (('unknown_content = "refuse"', 'unknown_content = "drop"'), 'write "report" or "refuse" or "ignore"'),
        (('waypoints = "all"', "waypoints = true"), 'completion.waypoints: neither all nor a list; write "all"'),
        (('quests = ["bell"]', 'quests = ["bell", "bell"]'), "the same thing twice"),
        (('collectibles = { "brass.tokens" = 5 }', "collectibles = { gold = 5 }"), "'gold' is none of the items"),
        (("[[quests]]", "[quests]"), "quests: not a list of tables"),
        (('name = "The tower"', 'name = "x'), "not TOML"),
    ],
)
def test_a_refusal_names_file_key_and_what_to_write(change: tuple[str, str], said: str) -> None:
    assert change[0] in TOWN
    with pytest.raises(ExperienceRefused, match=said) as refused:
        parse(TOWN.replace(*change, 1))
    assert str(refused.value).startswith("town.toml")


def test_an_experience_that_nothing_could_complete_is_refused() -> None:
    with pytest.raises(ExperienceRefused, match="nothing could complete"):
        parse('format = 1\nid = "town"\n[completion]\nby_event = false')


@given(
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.one_of(
        st.builds(Privacy, location_decimals=st.integers(0, 7)),
        st.builds(Privacy, precision_m=st.floats(1, 100_000)),
    ),
)
def test_a_rounded_location_is_near_on_the_globe_and_stays_where_it_is(
    lat: float, lng: float, privacy: Privacy
) -> None:
    rounded = round_location(privacy, lat, lng)
    assert rounded[0] is not None and rounded[1] is not None
    assert -90 <= rounded[0] <= 90 and -180 <= rounded[1] <= 180
    assert round_location(privacy, *rounded) == rounded
    assert "-0.0" not in (repr(rounded[0]), repr(rounded[1]))
    step = 10.0 ** -(privacy.location_decimals or 0) if privacy.precision_m is None else privacy.precision_m / 111_320
    assert abs(rounded[0] - lat) <= step * 0.5 + 1e-6


@given(st.floats(-80, 80), st.floats(-179, 179), st.floats(5, 5_000))
def test_a_grid_of_metres_is_one_of_metres_everywhere(lat: float, lng: float, precision_m: float) -> None:
    rounded = round_location(Privacy(precision_m=precision_m), lat, lng)
    assert rounded[0] is not None and rounded[1] is not None
    north_m = (rounded[0] - lat) * 111_320
    east_m = (rounded[1] - lng) * 111_320 * math.cos(math.radians(rounded[0]))
    assert abs(north_m) <= precision_m / 2 + 0.2 and abs(east_m) <= precision_m / 2 + 0.2


def test_a_location_may_be_left_out_altogether() -> None:
    assert round_location(Privacy(keep_location=False), 1.5, 2.5) == (None, None)
    assert round_location(Privacy(), 1.23456789, None) == (1.23456789, None)
    assert round_location(Privacy(location_decimals=1), None, 2.5678) == (None, 2.6)


def test_the_shipped_experience_is_the_walk_of_the_data_model() -> None:
    file = resources.files("protocol.experiences") / "wylding-woods.toml"
    woods = parse_experience(file.read_text(encoding="utf-8"), file.name, experience_id="wylding-woods")
    assert len(woods.waypoints) == 37
    ids = {waypoint.id for waypoint in woods.waypoints}
    assert {"1_inter_woander_storefront", "8_inter_gravity_car", "13_inter_lending_library_story_anchor"} <= ids
    car = next(waypoint for waypoint in woods.waypoints if waypoint.id == "8_inter_gravity_car")
    assert (car.lat, car.lng) == (37.905696, -122.547701)
    assert woods.completion is not None and len(woods.completion.required_members) == 43
    # Each quest can be started and then completed on one round.
    started: set[str] = set()
    for waypoint in woods.waypoints:
        assert set(waypoint.completes) <= started
        started |= set(waypoint.starts)
    assert started == {quest.id for quest in woods.quests}
