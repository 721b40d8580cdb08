"""A viewer's mailbox: bounded, replaced by newer things, and rough where it must be."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pytest

from gateway.liveops.live.table import SessionQuery, Snapshot, Table, make_clusters
from gateway.liveops.live.viewer import EVENTS_KEPT, PLAYERS_SHOWN_MAX, TRACE_KEPT, Viewer
from persistence.viewing import EventFilter, Row, RowsSeen, Wants, pack_seen, parse_seen, parse_wants


def viewer(topic: str, **how: Any) -> Viewer:
    return Viewer(frozenset({topic}), how.pop("events", EventFilter()), **how)


def row(number: int, lat: float | None = 1.0, lng: float | None = 2.0, **facts: Any) -> Row:
    user = str(uuid.UUID(int=number))
    return Row(user, f"s{number}", "woods", "phone", number, 1, 0, 1000 + number, lat, lng, **facts)


def event(**facts: Any) -> dict[str, Any]:
    return {
        "player": "p",
        "experience": "woods",
        "type": "visit",
        "content_id": "gate",
        "device": "d",
        "seq": 1,
        "at_ms": 0,
        "received_ms": 0,
        "lat": 1.23456,
        "lng": 2.34567,
        "data": "{}",
        **facts,
    }


def test_events_past_the_bound_are_counted_and_others_are_left_out() -> None:
    watching = viewer("events", events=EventFilter(type="visit"))
    watching.put_events([event() for _ in range(EVENTS_KEPT + 5)] + [event(type="other")], dropped=7)
    ((name, data),) = watching.take()
    assert (name, len(data["items"]), data["dropped"]) == ("events", EVENTS_KEPT, 12)
    assert (data["items"][0]["lat"], data["items"][0]["data"]) == (1.235, {})
    assert watching.take() == []


def test_figures_that_were_not_fetched_are_replaced() -> None:
    watching = viewer("figures")
    for number in range(5):
        watching.put_figures({"n": number})
    assert watching.take() == [("figures", {"n": 4})]


def test_a_map_begins_with_everybody_and_goes_on_with_who_moved_and_who_is_gone() -> None:
    watching = viewer("players", experience="woods")
    ann, bob, cid = row(1), row(2, lat=None, lng=None), row(3)
    watching.put_players({}, [ann, bob, cid])
    ((_, data),) = watching.take()
    assert data["full"] and [each[0] for each in data["players"]] == [ann.user_id, cid.user_id]
    ann.lat = 1.5
    watching.put_players({ann.user_id: ann, cid.user_id: None}, [ann, bob])
    ((_, data),) = watching.take()
    assert (
        not data["full"] and data["players"] == [[ann.user_id, 1.5, 2.0, "playing"]] and data["gone"] == [cid.user_id]
    )
    watching.put_players({}, [ann, bob])
    assert watching.take() == []


def test_a_crowd_is_shown_as_clusters_that_name_nobody_and_add_up() -> None:
    watching = viewer("players")
    draw = random.Random(7)
    crowd = [row(n, 1 + draw.random() / 100, 2 + draw.random() / 100) for n in range(PLAYERS_SHOWN_MAX + 1)]
    watching.put_players({}, crowd)
    ((_, data),) = watching.take()
    assert data["players"] == [] and data["full"] and len(data["clusters"]) <= 41 * 41
    assert sum(count for _, _, count in data["clusters"]) == len(crowd) == data["total"]
    # A cluster of one must not be more exact than the player would be.
    assert make_clusters([row(1, 1.23456, 2.34567)], False) == [(1.235, 2.346, 1)]
    watching.put_players({}, crowd[:5])
    ((_, data),) = watching.take()
    assert data["full"] and len(data["players"]) == 5 and data["clusters"] == []


def test_a_small_window_of_the_map_asks_about_rough_places() -> None:
    box = (1.2340, 2.3450, 1.2349, 2.3460)
    rough, exact = viewer("players", box=box), viewer("players", box=box, is_precise=True)
    for watching, seen in ((rough, 0), (exact, 1)):
        watching.put_players({}, [row(1, 1.23456, 2.34567)])
        ((_, data),) = watching.take()
        assert len(data["players"]) == seen


def test_a_trace_past_the_bound_says_how_much_is_missing() -> None:
    watching = viewer("player", player="p")
    watching.put_trace([{"at_ms": 0, "kind": "ack", "seq": n} for n in range(TRACE_KEPT + 3)], dropped=2)
    ((_, data),) = watching.take()
    assert (len(data["items"]), data["dropped"]) == (TRACE_KEPT, 5)


def test_what_travels_between_processes_reads_back_as_it_was_written() -> None:
    wants = Wants("ops-1", True, (EventFilter("woods", "visit"),), 1000, "token", ("p",))
    assert parse_wants(wants.pack()) == wants
    seen = RowsSeen(begins=True, whole=[[1, "u"]], gone=[4])
    assert parse_seen(pack_seen("node", "r", seen.body())) == ("node", "r", [True, False, [[1, "u"]], [], [4]])
    for junk in (b"", b"\xc1", b"\x01", b"\xff" * 50, b"[]"):
        for parse in (parse_wants, parse_seen):
            with pytest.raises(ValueError):
                parse(junk)


@pytest.mark.parametrize("sort", ["user_id", "last_activity", "pending"])
@pytest.mark.parametrize("is_descending", [False, True])
def test_pages_of_any_order_hold_every_session_once(sort: str, is_descending: bool) -> None:
    draw = random.Random(3)
    rows = [row(n, accepted=draw.randint(0, 5)) for n in range(101)]
    draw.shuffle(rows)
    snapshot, query = Snapshot(rows, 0.0), SessionQuery(sort=sort, is_descending=is_descending)
    seen: list[str] = []
    after = None
    while True:
        page, total, after = snapshot.list_page(query, 0, 10, after)
        assert total == 101 and len(page) <= 10
        seen += [each.user_id for each in page]
        if after is None:
            break
    assert len(seen) == 101 == len(set(seen))


def test_a_player_who_moved_to_another_node_has_one_row_the_newer() -> None:
    table = Table()
    old = [1, "u", "s", "woods", "phone", 7, 1, 0, 5, None, None, 1, 1, -1.0]
    new = [1, "u", "s", "woods", "phone", 8, 1, 0, 6, None, None, 2, 1, -1.0]
    table.apply("b", (True, True, [new], [], []))
    table.apply("a", (True, True, [old], [], []))
    assert [each.connection for each in table.list_all()] == [8]
    table.apply("a", (False, False, [], [], [1]))
    assert [each.connection for each in table.list_all()] == [8]
    table.forget_node("b")
    assert table.list_all() == []
