"""What simulated players know of the experience they play."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from loadtest.experience import WYLDING_WOODS, find_experience
from loadtest.storyline import Story
from loadtest.track import track_of
from loadtest.walk_plan import plan_walk
from protocol.experience_file import ExperienceRefused

TOWN = """
format = 1
id = "town"
[[waypoints]]
id = "station"
lat = 37.9
lng = -122.5
items = ["lamp", "map"]
flags = ["seen", "heard"]
starts = ["bell"]
[[waypoints]]
id = "tower"
lat = 37.901
lng = -122.5
collectibles = { "brass.tokens" = 2, shells = 1 }
completes = ["bell"]
opens = ["attic", "cellar"]
achievements = ["climber"]
[[quests]]
id = "bell"
[[items]]
id = "lamp"
[[items]]
id = "map"
[[items]]
id = "brass.tokens"
[[items]]
id = "shells"
[[achievements]]
id = "climber"
"""


def test_the_shipped_one_is_known_and_a_folder_comes_first(tmp_path: Path) -> None:
    assert find_experience("wylding-woods", {}) == WYLDING_WOODS
    assert find_experience("town", {}) is None
    (tmp_path / "town.toml").write_text(TOWN)
    environment = {"WAYHOLD_EXPERIENCES_DIR": str(tmp_path)}
    town = find_experience("town", environment)
    assert town is not None and [waypoint.id for waypoint in town.waypoints] == ["station", "tower"]
    assert find_experience("wylding-woods", environment) == WYLDING_WOODS
    (tmp_path / "town.toml").write_text("broken")
    with pytest.raises(ExperienceRefused, match=r"town\.toml"):
        find_experience("town", environment)


def test_a_walk_finds_everything_that_lies_on_its_way(tmp_path: Path) -> None:
    (tmp_path / "town.toml").write_text(TOWN)
    town = find_experience("town", {"WAYHOLD_EXPERIENCES_DIR": str(tmp_path)})
    assert town is not None
    plan = plan_walk(track_of(town), town, 1)
    steps = [(step.event["type"], step.event.get("content_id")) for step in plan.steps]
    assert steps == [
        ("waypoint_visited", "station"),
        ("item_collected", "lamp"),
        ("item_collected", "map"),
        ("quest_started", "bell"),
        ("waypoint_visited", "tower"),
        ("item_collected", "brass.tokens"),
        ("item_collected", "shells"),
        ("quest_completed", "bell"),
        ("achievement_unlocked", "climber"),
        ("experience_completed", None),
    ]
    assert [effect["path"] for effect in plan.steps[0].effects] == ["flags.seen", "flags.heard"]
    assert [effect["value"] for effect in plan.steps[7].effects] == ["attic", "cellar"]
    assert 110 < plan.distance_m < 112


def test_a_story_is_about_what_its_experience_has() -> None:
    known = WYLDING_WOODS.definition.known_content()
    for seed in range(5):
        story = Story(WYLDING_WOODS, random.Random(seed))
        for _ in range(300):
            step = story.next_step()
            if step.event is not None and step.expected_code is None and step.event["type"] in known:
                assert step.event["content_id"] in known[step.event["type"]]
