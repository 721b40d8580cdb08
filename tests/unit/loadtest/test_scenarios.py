"""Scenarios are pure: a player that is nobody, a random number generator with a seed, and what they yield."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from loadtest.experience import WYLDING_WOODS, Experience, distance_m
from loadtest.game import draw_until
from loadtest.gpx import list_track_legs, move
from loadtest.player_random import make_random
from loadtest.scenario import DROP, OPEN, WATCH, Doing, Pause, Scenario, Suspend, Update
from loadtest.scenario_choice import SHIPPED, make_scenario, read_parameters
from loadtest.scenarios.others import Mixed
from loadtest.target import TargetRefused
from loadtest.track import Track, parse_track
from protocol.effects import VoidUpdate, compile_update


class Nobody:
    """What a scenario sees of a player; its time goes by the pauses."""

    def __init__(self, index: int = 0, seed: int = 1, tracks: Sequence[Track] = (), rate: float | None = None) -> None:
        self.index = index
        self.players = 100
        self.random = random.Random(seed)
        self.experience: Experience = WYLDING_WOODS
        self.tracks = tracks
        self.seconds = 60.0
        self.rate_per_s = rate
        self.now_s = 0.0


def play(scenario: Scenario, player: Nobody, seconds: float) -> list[tuple[float, Doing]]:
    """What it does in so many seconds, with the time of each."""
    done: list[tuple[float, Doing]] = []
    for step in scenario.play(player):
        if isinstance(step, Pause):
            player.now_s += step.seconds
            if player.now_s > seconds:
                break
        else:
            done.append((player.now_s, step))
    return done


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_scenario_makes_updates_that_the_protocol_takes_and_the_same_ones_for_the_same_seed(
    name: str,
) -> None:
    done = play(make_scenario(name, {}), Nobody(index=1, seed=7), 600)
    assert done == play(make_scenario(name, {}), Nobody(index=1, seed=7), 600)
    assert done != play(make_scenario(name, {}), Nobody(index=1, seed=8), 600)
    for _, step in done:
        if isinstance(step, Update) and step.expected_code is None:
            try:
                compile_update(step.event, step.effects)
            except VoidUpdate as void:  # pragma: no cover
                raise AssertionError(f"{step} is void: {void}") from void


@pytest.mark.parametrize("name", ["ar-walk", "unity-session", "idle"])
def test_a_scenario_makes_about_as_many_updates_as_it_says(name: str) -> None:
    scenario = make_scenario(name, {})
    made = sum(
        isinstance(step, Update) for seed in range(20) for _, step in play(scenario, Nobody(seed=seed, index=1), 1200)
    )
    said = 20 * 1200 * scenario.updates_per_s
    assert 0.6 * said < made < 1.6 * said


def test_the_story_keeps_to_its_rate_exactly() -> None:
    done = play(make_scenario("story", {}), Nobody(rate=4.0), 1000)
    assert len(done) == 60 * 4
    assert all(abs(later - earlier - 0.25) < 1e-6 for (earlier, _), (later, _) in pairwise(done))


def test_who_walks_is_never_faster_than_a_person_but_for_the_noise_of_gps() -> None:
    places = [
        (at_s, step.event["lat"], step.event["lng"])
        for at_s, step in play(make_scenario("ar-walk", {"gps_noise_m": 0}), Nobody(), 1800)
        if isinstance(step, Update) and step.event is not None and "lat" in step.event
    ]
    assert len(places) > 50
    for (at_s, lat, lng), (then_s, then_lat, then_lng) in pairwise(places):
        assert distance_m(lat, lng, then_lat, then_lng) <= 2.2 * (then_s - at_s) + 0.5


def test_a_walk_finds_what_is_at_its_waypoints_and_puts_the_phone_away() -> None:
    done = [step for _, step in play(make_scenario("ar-walk", {}), Nobody(), 3600)]
    kinds = {step.event["type"] for step in done if isinstance(step, Update) and step.event is not None}
    assert {"waypoint_visited", "item_collected", "quest_started", "quest_completed", "position_reported"} <= kinds
    assert any(isinstance(step, Suspend) for step in done)


TRACK = b"""<gpx><trk><trkseg>%s</trkseg></trk></gpx>""" % b"".join(
    b'<trkpt lat="%.5f" lon="11.5"/>' % (48.0 + number * 0.0001) for number in range(60)
)


def test_a_gpx_track_is_walked_from_end_to_end_by_everybody_from_a_place_of_their_own() -> None:
    track = parse_track(TRACK, title="north")
    legs = list_track_legs(track, WYLDING_WOODS)
    assert all(leg.length_m >= 40 for leg in legs)
    starts = set()
    for seed in range(5):
        done = play(make_scenario("ar-walk", {"gps_noise_m": 0}), Nobody(seed=seed, tracks=[track]), 300)
        where = [
            step.event["lat"] for _, step in done if isinstance(step, Update) and step.event and "lat" in step.event
        ]
        assert where and all(47.999 <= lat <= 48.0061 for lat in where)
        starts.add(where[0])
    assert len(starts) > 1


def test_moving_stays_on_the_globe() -> None:
    lat, lng = move(89.9999, 179.9999, 500, 500)
    assert -90 <= lat <= 90 and -180 <= lng <= 180
    lat, lng = move(48.0, 11.5, 30, 40)
    assert distance_m(48.0, 11.5, lat, lng) == pytest.approx(50, rel=0.01)


def test_a_storm_cuts_everybody_within_its_width() -> None:
    for seed in range(20):
        scenario = make_scenario("reconnect-storm", {"storm_every_s": "30", "storm_width_s": "2"})
        cuts = [at_s for at_s, step in play(scenario, Nobody(seed=seed), 100) if step == DROP]
        assert [int(at_s // 30) for at_s in cuts] == [1, 2, 3]
        assert all(at_s % 30 <= 2.001 for at_s in cuts)


def test_journals_of_hours_come_home_in_the_order_in_which_things_happened() -> None:
    scenario = make_scenario("offline-return", {"hours": "2", "journal_updates": "50"})
    assert scenario.is_closed_at_first
    past, homecomings = [], 0
    for _, step in play(scenario, Nobody(), 300):
        if step == OPEN:
            assert len(past) >= 25 and past == sorted(past, reverse=True) and max(past) <= 7200
            past, homecomings = [], homecomings + 1
        elif isinstance(step, Update):
            past.append(step.past_s)
    assert homecomings >= 2


def test_one_in_so_many_watches_and_the_others_walk() -> None:
    scenario = make_scenario("liveops-watch", {"watcher_in": "4"})
    watching = {
        index for index in range(12) if (0.0, WATCH) in [(0.0, s) for _, s in play(scenario, Nobody(index), 20)]
    }
    assert watching == {0, 4, 8}


def test_a_mixed_crowd_has_every_kind_by_its_weight_even_when_it_is_small() -> None:
    scenario = Mixed(weights="ar-walk:3,idle:1")
    kinds = [type(scenario.choose(Nobody(index))).__name__ for index in range(40)]
    assert 8 <= kinds.count("Idle") <= 12 and kinds.count("ArWalk") == 40 - kinds.count("Idle")


@pytest.mark.parametrize("weights", ["", "ar-walk:x", "ar-walk:0", "flying:1", "ar-walk:-1", "ar-walk:inf"])
def test_weights_that_cannot_be_used_are_refused(weights: str) -> None:
    with pytest.raises(TargetRefused, match="weights"):
        make_scenario("mixed", {"weights": weights})


def test_a_scenario_of_the_users_own_is_ten_lines(tmp_path: Path) -> None:
    file = tmp_path / "my_walk.py"
    file.write_text(
        "from loadtest.scenario import Scenario, event, pause\n"
        "class MyWalk(Scenario):\n"
        "    look_s: float = 20.0\n"
        "    def play(self, player):\n"
        "        for place in player.experience.waypoints:\n"
        "            yield pause(player.random.expovariate(1 / self.look_s))\n"
        "            yield event('waypoint_visited', place.id, lat=place.lat, lng=place.lng)\n"
    )
    scenario = make_scenario(f"{file}:MyWalk", {"look_s": "5"})
    assert scenario.parameters() == {"look_s": 5.0}
    assert len(list(islice(scenario.play(Nobody()), 1000))) == 2 * len(WYLDING_WOODS.waypoints)
    with pytest.raises(TargetRefused, match="it has MyWalk"):
        make_scenario(f"{file}:YourWalk", {})
    file.write_text("import nothing_like_it\n")
    with pytest.raises(TargetRefused, match="cannot be read: ModuleNotFoundError"):
        make_scenario(f"{file}:MyWalk", {})


@pytest.mark.parametrize(
    ("name", "given", "match"),
    [
        ("ar-wakl", [], "did you mean ar-walk"),
        ("none.py:Walk", [], "no file"),
        ("ar-walk", ["speed=3"], "has no parameter 'speed'; it has .*walking_speed_m_s"),
        ("ar-walk", ["pause_s=soon"], "pause_s wants float"),
        ("ar-walk", ["pause_s=nan"], "pause_s wants float"),
        ("ar-walk", ["pause_s"], "NAME=VALUE"),
    ],
)
def test_what_cannot_be_played_is_refused_with_what_would_be_right(name: str, given: list[Any], match: str) -> None:
    with pytest.raises(TargetRefused, match=match):
        make_scenario(name, read_parameters(given))


def test_the_scenario_that_the_page_shows_plays_and_the_page_names_every_scenario_and_parameter(
    tmp_path: Path,
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "load-scenarios.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_walk.py").write_text(code)
    assert list(islice(make_scenario(f"{tmp_path / 'my_walk.py'}:MyWalk", {}).play(Nobody()), 4))
    for name, kind in SHIPPED.items():
        row = re.search(rf"^\| `{name}`.*$", page, re.MULTILINE)
        assert row and all(f"`{parameter}`" in row[0] for parameter in kind.list_parameters()), name


def test_a_rate_changes_how_much_is_played_between_storms_and_not_when_they_come() -> None:
    done = play(make_scenario("reconnect-storm", {}), Nobody(rate=2.0), 61)
    assert [int(at_s // 20) for at_s, step in done if step == DROP] == [1, 2, 3]
    assert 90 <= sum(isinstance(step, Update) for _, step in done) <= 160


@pytest.mark.parametrize("rate", (1.0, 0.3, 0.01))
def test_players_go_away_as_often_as_they_were_told(rate: float) -> None:
    rng = make_random("away")
    draws = [draw_until(rng, rate) for _ in range(4000)]
    assert min(draws) == 1 and sum(draws) / len(draws) == pytest.approx(1 / rate, rel=0.08)
