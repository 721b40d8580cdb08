"""Track files are bad input until proven otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest import track as tracks
from loadtest.experience import WYLDING_WOODS, distance_m
from loadtest.track import TrackRefused, parse_track, read_built_in_track, read_track
from loadtest.walk_plan import plan_walk

GPX = '<gpx version="1.1" xmlns="http://www.topografix.com/GPX/1/1">{}</gpx>'


def parse(inside: str) -> tracks.Track:
    return parse_track(GPX.format(inside).encode(), title="file")


def test_built_in_track_is_the_walk_through_wylding_woods() -> None:
    track = read_built_in_track()
    assert [(place.name, place.lat, place.lng) for place in track.places] == [
        (waypoint.id, waypoint.lat, waypoint.lng) for waypoint in WYLDING_WOODS.waypoints
    ]
    legs = [distance_m(a.lat, a.lng, b.lat, b.lng) for a, b in zip(track.places, track.places[1:], strict=False)]
    assert all(30 < leg < 200 for leg in legs)


def test_the_data_models_waypoints_are_the_only_ones_that_are_not_invented() -> None:
    assert {waypoint.id for waypoint in WYLDING_WOODS.waypoints if waypoint.note != "invented"} == {
        "1_inter_woander_storefront",
        "8_inter_gravity_car",
        "13_inter_lending_library_story_anchor",
    }


def test_named_places_come_before_the_line() -> None:
    track = parse(
        "<metadata><name>Round</name></metadata>"
        '<wpt lat="1" lon="2"><name> Gate </name><extensions><name>inner</name></extensions></wpt>'
        '<wpt lat="3" lon="4"/>'
        '<trk><name>line</name><trkseg><trkpt lat="5" lon="6"/></trkseg></trk>'
    )
    assert track.title == "Round"
    assert [(place.lat, place.lng, place.name) for place in track.places] == [(1, 2, "Gate"), (3, 4, None)]
    assert len(track.line) == 1


def test_route_points_stand_in_for_waypoints() -> None:
    assert parse('<rte><rtept lat="5" lon="6"><name>A</name></rtept></rte>').places[0].name == "A"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not xml",
        b"<gpx>",
        b"<kml/>",
        b"<gpx/>",
        b'<gpx><wpt lat="1"/></gpx>',
        b'<gpx><wpt lat="north" lon="1"/></gpx>',
        b'<gpx><wpt lat="91" lon="1"/></gpx>',
        b'<gpx><wpt lat="nan" lon="1"/></gpx>',
        b'<gpx><wpt lat="1" lon="180.5"/></gpx>',
        b'<?xml version="1.0" encoding="klingon"?><gpx><wpt lat="1" lon="1"/></gpx>',
        b"<gpx>" + b"<a>" * 100 + b"</a>" * 100 + b"</gpx>",
        b'<!DOCTYPE gpx [<!ENTITY a "aaaaaaaaaa">]><gpx><wpt lat="1" lon="1"><name>&a;</name></wpt></gpx>',
        b'<!DOCTYPE gpx SYSTEM "file:///etc/passwd"><gpx><wpt lat="1" lon="1"/></gpx>',
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_track_is_refused_in_words(raw: bytes) -> None:
    with pytest.raises(TrackRefused) as refused:
        parse_track(raw, title="file")
    assert str(refused.value) and "\n" not in str(refused.value)


def test_size_and_points_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tracks, "TRACK_POINTS_MAX", 3)
    with pytest.raises(TrackRefused, match="more than 3 points"):
        parse('<wpt lat="1" lon="1"/>' * 4)
    monkeypatch.setattr(tracks, "TRACK_BYTES_MAX", 10)
    (tmp_path / "large.gpx").write_text(GPX.format('<wpt lat="1" lon="1"/>'))
    with pytest.raises(TrackRefused, match="larger"):
        read_track(tmp_path / "large.gpx")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackRefused, match="cannot read"):
        read_track(tmp_path / "none.gpx")


def test_a_line_without_names_is_cut_into_steps_named_after_the_waypoints_it_passes() -> None:
    line = read_built_in_track().line
    points = "".join(f'<trkpt lat="{point.lat}" lon="{point.lng}"/>' for point in line)
    plan = plan_walk(parse(f"<trk><trkseg>{points}</trkseg></trk>"), WYLDING_WOODS, 1)
    visited = {step.place for step in plan.steps}
    assert "8_inter_gravity_car" in visited
    assert plan.steps[-1].event["type"] == "experience_completed"


def test_a_track_elsewhere_is_walked_all_the_same() -> None:
    plan = plan_walk(
        parse('<trk><trkseg><trkpt lat="1" lon="1"/><trkpt lat="1.01" lon="1"/></trkseg></trk>'), WYLDING_WOODS, 1
    )
    assert [step.place for step in plan.steps] == [
        "point_1.00000_1.00000",
        "point_1.01000_1.00000",
        "point_1.01000_1.00000",
    ]
    assert plan.distance_m == pytest.approx(1111.9, abs=1)


def test_a_plan_is_the_same_for_the_same_seed_and_tells_others_apart() -> None:
    track = read_built_in_track()
    first, again, other = (plan_walk(track, WYLDING_WOODS, seed) for seed in (7, 7, 8))
    assert first == again and first.digest != other.digest
