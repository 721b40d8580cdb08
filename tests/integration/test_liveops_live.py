"""What operators see of players who are there: sessions, a player's page, the live feed; and what watching costs."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_asyncio

from gateway.liveops.live import hub as hubs
from gateway.liveops.live.table import Table
from gateway.sessions import viewing
from persistence.viewing import Wants, parse_wants
from tests.integration.gateway_rig import EXPERIENCE, Rig, new_user, run_flusher, run_rig
from tests.integration.ops_rig import Client, OpsRig, run_ops_rig
from tests.integration.test_gateway_outages import away
from tests.servers import Servers
from tests.waiting import wait_until


@pytest.fixture
async def rig(redis_url: str, database_url: str) -> AsyncIterator[Rig]:
    async with run_rig(redis_url, database_url) as running, run_flusher(redis_url, database_url):
        yield running


@pytest.fixture
async def ops(redis_url: str, database_url: str, rig: Rig) -> AsyncIterator[OpsRig]:
    async with run_ops_rig(redis_url, database_url, rig) as running:
        yield running


def visit(content_id: str, lat: float = 37.123456, lng: float = -122.654321) -> dict[str, object]:
    return {"type": "waypoint_visited", "content_id": content_id, "lat": lat, "lng": lng, "data": {"n": 1}}


async def test_a_session_is_found_by_what_is_typed_and_shows_how_far_it_is(rig: Rig, ops: OpsRig) -> None:
    viewer = await ops.somebody()
    alice, bob = new_user(), new_user()
    async with rig.player(alice) as a, rig.player(bob, device="tablet") as b:
        await a.accept(1, event=visit("gate"))
        await a.wait_saved(1)
        await b.accept(1, event=visit("far", 51.5, 0.1))
        found = (await viewer.get("/api/v1/sessions", search=alice[:9])).json
        assert found["total"] == 1 and found["next_cursor"] is None
        (item,) = found["items"]
        assert (item["user_id"], item["state"], item["experience"]) == (alice, "playing", EXPERIENCE)
        assert (item["accepted"], item["location"], item["node"]) == (1, "gate", rig.node.name)
        assert (await viewer.get("/api/v1/sessions", search="tabl")).json["items"][0]["user_id"] == bob
        assert (await viewer.get("/api/v1/sessions", experience="another")).json["total"] == 0
        near = (await viewer.get("/api/v1/sessions", near="37.12,-122.65,2000")).json["items"]
        assert [one["user_id"] for one in near] == [alice]


async def test_what_is_typed_finds_players_by_their_id_first_and_those_who_are_there_before_others(
    rig: Rig, ops: OpsRig
) -> None:
    viewer = await ops.somebody()
    here, away = (f"abcabc{digit}{new_user()[7:]}" for digit in "21")
    named = "0" + new_user()[1:]
    async with rig.player(away) as leaving:
        await leaving.send({"t": "leave"})
        await leaving.close_code()
    async with rig.player(here, device="tablet-9"), rig.player(named, device="ABCABC-phone"):

        async def search(text: str, **query: int) -> list[tuple[str, bool, bool]]:
            found = (await viewer.get("/api/v1/search", text=text, **query)).json
            assert found["unavailable"] == []
            return [(item["user_id"], item["is_here"], item["is_by_id"]) for item in found["items"]]

        await wait_until("the session that was left is gone", lambda: _is_gone(viewer, away))
        assert await search(" ABCabc ") == [(here, True, True), (away, False, True), (named, True, False)]
        assert await search("abcabc", limit=2) == [(here, True, True), (away, False, True)]
        assert await search("abcabc", limit=1) == [(here, True, True)]
        assert await search("tablet") == [(here, True, False)] and await search("tabl") == []
        assert await search(away) == [(away, False, True)]
        assert await search("  ") == [] and await search("nobody is called so") == []
        (item,) = (await viewer.get("/api/v1/search", text=here)).json["items"]
        assert (item["state"], item["experience"], item["device"]) == ("playing", EXPERIENCE, "tablet-9")


async def test_a_redis_that_is_slow_keeps_nobody_from_finding_a_session(rig: Rig, ops: OpsRig, redis_url: str) -> None:
    viewer, user = await ops.somebody(), new_user()
    async with rig.player(user) as player, redis_asyncio.Redis.from_url(redis_url) as redis:
        await player.accept(1, event=visit("gate"))
        (item,) = (await viewer.get("/api/v1/sessions", search=user)).json["items"]
        assert item["location"] == "gate"
        await redis.execute_command("CLIENT", "PAUSE", "900")
        began = time.monotonic()
        (item,) = (await viewer.get("/api/v1/sessions", search=user)).json["items"]
        assert item["user_id"] == user and item["location"] is None
        assert time.monotonic() - began < 0.8
        await player.accept(2, event=visit("far"))


async def _is_gone(viewer: Client, user: str) -> bool:
    return (await viewer.get("/api/v1/sessions", search=user)).json["total"] == 0


async def test_pages_of_sessions_hold_everybody_once_in_the_order_that_was_asked_for(rig: Rig, ops: OpsRig) -> None:
    viewer = await ops.somebody()
    users = sorted(new_user() for _ in range(7))
    stack = [rig.player(user) for user in users]
    bares = [await each.__aenter__() for each in stack]
    try:
        for sort, wanted in (("user_id", users), ("-user_id", users[::-1])):
            seen, cursor = [], ""
            while True:
                query = {"sort": sort, "limit": 3} | ({"cursor": cursor} if cursor else {})
                page = (await viewer.get("/api/v1/sessions", **query)).json
                assert page["total"] == 7
                seen += [item["user_id"] for item in page["items"]]
                cursor = page["next_cursor"]
                if not cursor:
                    break
            assert seen == wanted
        wrong = await viewer.get("/api/v1/sessions", sort="user_id", cursor="WzEsICJ4Il0")
        assert wrong.code == "INVALID"
    finally:
        assert len(bares) == 7
        for each in stack:
            await each.__aexit__(None, None, None)


@pytest.mark.slow
async def test_who_lost_the_network_is_shown_as_disconnected_and_who_leaves_is_gone(rig: Rig, ops: OpsRig) -> None:
    viewer, user = await ops.somebody(), new_user()
    feed_user = new_user()
    async with rig.player(user) as player, rig.player(feed_user):
        assert (await viewer.get("/api/v1/sessions", search=user)).json["items"][0]["state"] == "playing"
        player.abort()
        item = await until(viewer, user, "disconnected", ops)
        assert item["accepted"] is None
    async with rig.player(user) as again:
        await again.send({"t": "leave"})
        await again.wait_for("left")
        async with asyncio.timeout(15):
            while (await viewer.get("/api/v1/sessions", search=user)).json["total"]:
                ops.services.hub._absent_due = 0.0
                await asyncio.sleep(0.1)


async def until(viewer: object, user: str, state: str, ops: OpsRig) -> dict[str, object]:
    async with asyncio.timeout(15):
        while True:
            ops.services.hub._absent_due = 0.0
            items = (await viewer.get("/api/v1/sessions", search=user)).json["items"]  # type: ignore[attr-defined]
            if items and items[0]["state"] == state:
                found: dict[str, object] = items[0]
                return found
            await asyncio.sleep(0.1)


async def test_places_are_rough_unless_the_role_allows_more_and_that_look_is_in_the_audit_log(
    rig: Rig, ops: OpsRig
) -> None:
    viewer, precise, user = await ops.somebody(), await ops.somebody("support", is_precise=True), new_user()
    async with rig.player(user) as player:
        await player.accept(1, event=visit("gate"))
        await player.wait_saved(1)
        for who, lat in ((viewer, 37.123), (precise, 37.123456)):
            assert (await who.get("/api/v1/sessions", search=user)).json["items"][0]["lat"] == lat
            events = (await who.get(f"/api/v1/players/{user}/events")).json["items"]
            assert events[0]["lat"] == lat
            path = (await who.get(f"/api/v1/players/{user}/path", experience=EXPERIENCE)).json["items"]
            assert path[0]["lat"] == lat
            async with who.watch(topics="players") as feed:
                shown = await feed.wait_for("players", lambda data: data["players"])
                assert shown["players"][0][:2] == [user, lat]
        # A circle of a few metres would tell what the figures do not.
        assert (await viewer.get("/api/v1/sessions", near="37.123456,-122.654321,20")).json["total"] == 0
        assert (await precise.get("/api/v1/sessions", near="37.123456,-122.654321,20")).json["total"] == 1
    looks = (await viewer.get("/api/v1/audit", action="precise_location")).json["items"]
    assert {look["payload"]["looked_at"] for look in looks} == {"sessions", "events", "path", "live:players"}
    assert {look["operator"] for look in looks} == {"support-precise"}
    assert (await viewer.get(f"/api/v1/players/{user}/actions")).json["items"]


async def test_a_feed_of_exact_places_ends_when_its_operator_may_not_see_them_any_more(
    rig: Rig, ops: OpsRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.liveops.live.feed.CHECK_S", 0.2)
    monkeypatch.setattr("gateway.liveops.access.FRESH_S", 0.0)
    precise, user = await ops.somebody("support", is_precise=True), new_user()
    async with (
        rig.player(user),
        precise.watch(topics="events", filter=f"player:{user}") as feed,
        precise.watch(topics="figures") as figures,
    ):
        # Whom a filter names is who was looked at.
        looks = (await precise.get("/api/v1/audit", action="precise_location")).json["items"]
        assert [(look["payload"]["looked_at"], look["player"]) for look in looks] == [("live:events", user)]
        await ops.operators.change("support-precise", is_precise=False)
        await feed.wait_for("end")
        await figures.wait_for("figures")
        assert (await precise.get("/api/v1/me")).json["precise_location"] is False


async def test_an_event_is_in_the_feed_within_a_second_and_filters_leave_out_others(rig: Rig, ops: OpsRig) -> None:
    viewer, user = await ops.somebody(), new_user()
    async with rig.player(user) as player, viewer.watch(topics="events", filter="type:waypoint_visited") as feed:
        await wait_watched(rig)
        await player.accept(1, event={"type": "item_collected", "content_id": "lamp"})
        began = asyncio.get_running_loop().time()
        await player.accept(2, event=visit("gate"))
        found = await feed.wait_for("events", lambda data: data["items"])
        assert asyncio.get_running_loop().time() - began < 1.0
        (item,) = found["items"]
        assert (item["player"], item["type"], item["content_id"]) == (user, "waypoint_visited", "gate")
        assert item["data"] == {"n": 1} and found["dropped"] == 0


async def test_more_events_than_a_viewer_is_shown_are_counted_as_dropped(rig: Rig, ops: OpsRig) -> None:
    viewer = await ops.somebody()
    async with rig.player() as player:
        # What came before anybody watched was not dropped.
        await player.accept(1, event=visit("before"))
        async with viewer.watch(topics="events") as feed:
            await wait_watched(rig)
            shown = dropped = 0
            batch = [{"seq": seq, "event": visit("gate")} for seq in range(2, 102)]
            await player.send({"t": "batch", "updates": batch})
            while shown + dropped < 100:
                found = await feed.wait_for("events")
                shown, dropped = shown + len(found["items"]), found["dropped"]
            assert shown >= 5 and dropped >= 50


async def test_the_trace_of_a_player_is_whole_and_ends_with_the_close_code(rig: Rig, ops: OpsRig) -> None:
    viewer, user = await ops.somebody(), new_user()
    async with rig.player(user) as player, viewer.watch(topics="player", player=user) as feed:
        kinds: list[str] = []
        items: list[dict[str, object]] = []

        async def read_until(kind: str) -> None:
            while kind not in kinds:
                found = await feed.wait_for("player")
                assert found["player"] == user and found["dropped"] == 0
                items.extend(found["items"])
                kinds.extend(item["kind"] for item in found["items"])

        await read_until("note")
        await player.accept(1, event=visit("gate"))
        await read_until("saved")
        assert kinds.index("update") < kinds.index("ack") < kinds.index("saved")
        await player.accept(2, effects=[{"op": "incr", "path": "inventory", "value": 1}])
        await read_until("void")
        async with rig.player(user) as second:
            await player.close_code()
            await read_until("close")
            assert [item["code"] for item in items if item["kind"] == "close"] == [4201]
            await read_until("welcome")
            assert kinds.index("open") < kinds.index("welcome")
            await second.accept(3, event=visit("bridge"))
        updates = [item["seq"] for item in items if item["kind"] == "update"]
        assert updates[:1] == [1]


async def test_the_connections_of_a_player_are_listed_with_their_close_codes(rig: Rig, ops: OpsRig) -> None:
    viewer, user = await ops.somebody(), new_user()
    async with rig.player(user) as first:
        await first.accept(1, event=visit("gate"))
        async with rig.player(user) as second:
            assert await first.close_code() == 4201
            second.abort()
            async with asyncio.timeout(10):
                while user in rig.node.players:  # noqa: ASYNC110 - a socket that is gone tells nobody
                    await asyncio.sleep(0.02)
    await rig.node.connection_log.write()
    items = (await viewer.get(f"/api/v1/players/{user}/connections")).json["items"]
    assert [(item["close_code"], item["close_name"]) for item in items] == [(None, None), (4201, "REPLACED")]
    assert items[1]["updates"] == 1 and items[1]["node"] == rig.node.name


async def test_without_a_viewer_a_gateway_computes_and_says_nothing(
    rig: Rig, ops: OpsRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a want lapses by itself when whoever had it dies without a word."""
    monkeypatch.setattr(viewing, "LEASE_MS", 1_000)
    async with rig.player() as player:
        await player.accept(1, event=visit("gate"))
        assert rig.node.spectator is None and not rig.node.viewing._wants
        viewer = await ops.somebody()
        async with viewer.watch(topics="events"):
            await wait_watched(rig)
        ops.services.hub._say = _say_nothing  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            while rig.node.viewing._wants:  # noqa: ASYNC110 - a lapse tells nobody
                await asyncio.sleep(0.1)
        assert rig.node.spectator is None
        await player.accept(2, event=visit("bridge"))
        assert not rig.node.viewing._events


async def _say_nothing(wants: object) -> None:
    pass


@pytest.mark.slow
async def test_a_node_that_died_takes_its_rows_along(rig: Rig, ops: OpsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "NODE_SILENT_S", 1.5)
    user = new_user()
    async with rig.player(user):
        table = await ops.services.hub.get_table()
        assert table.find(user) is not None
        ops.services.hub._take("dead-node", "r", (True, True, [row_of(1, "someone")], [], []))
        assert table.find("someone") is not None
        async with asyncio.timeout(10):
            while table.find("someone") is not None:
                await ops.services.hub.get_table()
                await asyncio.sleep(0.1)
        assert table.find(user) is not None


async def test_two_who_watch_both_have_everybody_and_do_not_make_each_other_ask_again(
    rig: Rig, ops: OpsRig, redis_url: str, database_url: str
) -> None:
    """Each ops process has a token of its own; a gateway that kept one for all told the whole table with each want."""
    user = new_user()
    async with run_ops_rig(redis_url, database_url, rig) as other, rig.player(user):
        for each in (ops, other):
            assert (await each.services.hub.get_table()).find(user) is not None
        assert len(rig.node.viewing._rows._tokens) == 2
        rig.node.viewing._rows._is_asked.clear()
        for each in (ops, other):
            wants = each.services.hub._find_wants()
            assert wants is not None
            await rig.hot.publish_wants(wants.pack())
        marker = parse_wants(Wants("marker", rows_token="").pack())
        await rig.hot.publish_wants(marker.pack())
        async with asyncio.timeout(10):
            while "marker" not in rig.node.viewing._wants:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.02)
        assert not rig.node.viewing._rows._is_asked.is_set()


def row_of(number: int, user: str, **facts: object) -> list[object]:
    return [number, user, "session", EXPERIENCE, "phone", 7, 1, 0, 2, None, None, 5, 4, -1.0]


def test_bytes_that_are_no_table_change_nothing() -> None:
    table = Table()
    for body in (None, (), (1,), (True, True, [[1]], [], []), (False, False, [], [[1]], [])):
        with pytest.raises((ValueError, TypeError, IndexError)):
            table.apply("node", body)
    assert table.list_all() == []


async def test_a_player_page_has_profile_state_devices_and_the_live_session(rig: Rig, ops: OpsRig) -> None:
    viewer, user = await ops.somebody(), new_user()
    async with rig.player(user) as player:
        await player.accept(1, event={"type": "item_collected", "content_id": "lamp"})
        await player.wait_saved(1)
        await viewer.get("/api/v1/sessions")
        page = (await viewer.get(f"/api/v1/players/{user}")).json
        (progress,) = page["progress"]
        assert progress["state"]["inventory"] == ["lamp"] and progress["is_hot"]
        assert page["live"]["state"] == "playing" and page["live"]["experience"] == EXPERIENCE
        assert page["devices"][0]["device"] == "phone" and page["devices"][0]["last_seq"] == 1
        assert page["profile"]["total_experiences_played"] == 1 and page["unavailable"] == []
        events = (await viewer.get(f"/api/v1/players/{user}/events", type="item_collected")).json["items"]
        assert [event["content_id"] for event in events] == ["lamp"]
        assert (await viewer.get(f"/api/v1/players/{user}/sessions")).json["items"][0]["device"] == "phone"
        assert user in [one["user_id"] for one in (await viewer.get("/api/v1/players", search=user[:10])).json["items"]]
        support = await ops.somebody("support")
        document = (await support.get(f"/api/v1/players/{user}/export")).json
        assert document["player"] == user
        assert (await viewer.get("/api/v1/audit", action="export")).json["items"][0]["player"] == user
    assert (await viewer.get(f"/api/v1/players/{uuid.uuid4()}")).code == "NOT_FOUND"


async def test_analytics_answer_as_the_command_does(rig: Rig, ops: OpsRig) -> None:
    viewer = await ops.somebody()
    async with rig.player() as player:
        await player.accept(1, event=visit("gate"))
        await player.wait_saved(1)
        found = (await viewer.get("/api/v1/analytics/engagement", experience=EXPERIENCE, content="gate")).json
        assert found["rows"] == [{"total_visits": 1, "unique_players": 1, "average_time_spent_s": None}]
        steps = await viewer.get("/api/v1/analytics/funnel", experience=EXPERIENCE, steps="gate,gate")
        assert [row["players"] for row in steps.json["rows"]] == [1, 1]
        misspelled = await viewer.get("/api/v1/analytics/engagement", experience=EXPERIENCE, content="gaet")
        assert misspelled.code == "INVALID" and "gate" in misspelled.json["error"]["message"]


@pytest.mark.slow
async def test_the_ops_port_outlives_postgres_and_redis_and_says_what_to_do(
    servers: Servers, redis_url: str, database_url: str
) -> None:
    async with run_rig(redis_url, database_url) as rig, run_ops_rig(redis_url, database_url, rig) as ops:
        viewer, user = await ops.somebody(), new_user()
        async with rig.player(user) as player:
            await player.accept(1, event=visit("gate"))
            assert (await viewer.get("/api/v1/sessions", search=user)).json["total"] == 1
            async with away(servers.postgres):
                answer = await viewer.get("/api/v1/audit")
                assert (answer.status, answer.code) == (503, "STORE_UNAVAILABLE") and answer.headers["retry-after"]
                assert (await viewer.get("/api/v1/sessions", search=user)).json["total"] == 1
                found = (await viewer.get("/api/v1/search", text=user[:9])).json
                assert found["unavailable"] == ["postgresql"] and found["items"][0]["user_id"] == user
                page = (await viewer.get(f"/api/v1/players/{user}")).json
                assert page["unavailable"] == ["postgresql"] and page["live"]["experience"] == EXPERIENCE

                async def is_shown() -> bool:
                    # Figures are as of the newest sample, which may be from before the player came.
                    overview = (await viewer.get("/api/v1/overview")).json
                    return overview["health"]["postgresql"] == "error" and overview["players_now"] == 1

                await wait_until("the overview has the player, and the error", is_shown)
                assert (await ops.client().post("/api/v1/login", {"name": "a", "password": "b"})).status == 503
            assert (await viewer.get("/api/v1/audit")).status == 200
        async with away(servers.valkey):
            answer = await viewer.get("/api/v1/quarantine")
            assert (answer.status, answer.code) == (503, "STORE_UNAVAILABLE")
            assert (await viewer.get("/api/v1/overview")).status == 200
            assert (await viewer.get("/livez")).status == 200
        assert (await viewer.get("/api/v1/quarantine")).status == 200


async def wait_watched(rig: Rig) -> None:
    """Until this gateway knows that somebody watches events."""
    async with asyncio.timeout(10):
        while rig.node.spectator is None:  # noqa: ASYNC110 - nobody is told but the node
            await asyncio.sleep(0.02)


def test_json_of_the_feed_is_one_line() -> None:
    from gateway.liveops.live.feed import _event

    assert _event("x", {"a": "two\nlines"}) == b'event: x\ndata: {"a":"two\\nlines"}\n\n'
    assert json.loads(_event("x", "ü").split(b"data: ")[1]) == "ü"
