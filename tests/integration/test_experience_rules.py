"""What a definition does to what players send, through a gateway to both stores."""

from __future__ import annotations

import asyncpg
import msgpack
import pytest
import redis.asyncio as redis_asyncio
from structlog.testing import capture_logs

from gateway.sessions.content_rules import LOGGED_IDS_MAX
from persistence.actions.shapes import InvalidAction
from persistence.player_progress import PlayerProgress
from protocol.experience import ExperienceDefinition
from protocol.experience_file import parse_experience
from tests.integration.gateway_rig import new_user, run_flusher, run_rig

TOWN = """
format = 1
id = "wylding-woods"
unknown_content = "{unknown}"
[privacy]
location_decimals = 3
[[waypoints]]
id = "tower"
lat = 1
lng = 2
"""
LAT, LNG = 37.90571234, -122.54769876


def define(unknown: str) -> dict[str, ExperienceDefinition]:
    return {"wylding-woods": parse_experience(TOWN.format(unknown=unknown), "town.toml")}


async def dump_redis(url: str) -> bytes:
    """Every key with all it holds, and the stored form of a value: DUMP may compress, so both are looked at."""
    client = redis_asyncio.Redis.from_url(url)
    try:
        found = []
        for key in await client.keys("*"):
            kind = await client.type(key)
            if kind == b"hash":
                found.append(repr(await client.hgetall(key)))
            elif kind == b"list":
                found.append(repr(await client.lrange(key, 0, -1)))
        return "".join(found).encode()
    finally:
        await client.aclose()


async def test_neither_store_ever_holds_the_precise_location(redis_url: str, database_url: str) -> None:
    user = new_user()
    event = {"type": "waypoint_visited", "content_id": "tower", "lat": LAT, "lng": LNG}
    async with (
        run_rig(redis_url, database_url, definitions=define("report")) as rig,
        rig.player(user_id=user) as player,
    ):
        await player.accept(1, event=event)
        pending = await dump_redis(redis_url)
        assert b"tower" in pending
        # As text, and as the eight bytes of a msgpack float; the rounded one is there.
        for precise in (LAT, LNG):
            assert repr(precise).encode() not in pending
            assert repr(msgpack.packb(precise)[1:])[2:-1].encode() not in pending
        assert repr(msgpack.packb(37.906)[1:])[2:-1].encode() in pending
        async with run_flusher(redis_url, database_url):
            await player.wait_saved(1)
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT location_lat, location_lng FROM player_progress_events")
    finally:
        await connection.close()
    assert [tuple(row) for row in rows] == [(37.906, -122.548)]


async def test_unknown_content_is_reported_and_taken(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url, definitions=define("report")) as rig:
        with capture_logs() as lines:
            async with rig.player() as player:
                await player.accept(1, event={"type": "waypoint_visited", "content_id": "twoer"})
                await player.accept(2, event={"type": "location_reached", "content_id": "twoer"})
                ack = await player.accept(3, event={"type": "waypoint_visited", "content_id": "twoer"})
                # Nothing is said about items, and types of one's own are about anything.
                await player.accept(4, event={"type": "item_collected", "content_id": "lamp"})
                await player.accept(5, event={"type": "photo_taken", "content_id": "cat"})
        assert "void" not in ack
        assert rig.node.tally.unknown_content == {"wylding-woods": 3}
    reports = [line for line in lines if line["event"] == "unknown_content"]
    assert [(line["event_type"], line["content_id"]) for line in reports] == [
        ("waypoint_visited", "twoer"),
        ("location_reached", "twoer"),
    ]


async def test_made_up_ids_do_not_fill_the_log(redis_url: str, database_url: str) -> None:
    count = LOGGED_IDS_MAX + 10
    async with run_rig(redis_url, database_url, definitions=define("report")) as rig:
        with capture_logs() as lines:
            async with rig.player() as player:
                for seq in range(1, count + 1):
                    await player.update(seq, event={"type": "waypoint_visited", "content_id": f"made_up_{seq}"})
                await player.wait_for("ack", when=lambda ack: ack["seq"] == count)
        assert rig.node.tally.unknown_content == {"wylding-woods": count}
    reports = [line for line in lines if line["event"] == "unknown_content"]
    assert len(reports) == LOGGED_IDS_MAX
    assert [line["is_last_line"] for line in reports] == [False] * (LOGGED_IDS_MAX - 1) + [True]


async def test_unknown_content_may_be_refused_and_the_stream_goes_on(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url, definitions=define("refuse")) as rig, rig.player() as player:
        ack = await player.accept(1, event={"type": "waypoint_visited", "content_id": "twoer"})
        assert [(void["seq"], void["code"]) for void in ack["void"]] == [(1, 106)]
        ack = await player.accept(2, event={"type": "waypoint_visited", "content_id": "tower"})
        assert ack["seq"] == 2 and "void" not in ack
        await player.send({"t": "query", "id": "q", "of": "visited"})
        assert (await player.wait_for("result"))["data"] == {"waypoints": ["tower"]}


async def test_an_experience_without_a_definition_is_played_as_it_is_sent(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url, definitions=define("refuse")) as rig:
        async with rig.player(experience="elsewhere") as player:
            ack = await player.accept(1, event={"type": "waypoint_visited", "content_id": "x", "lat": LAT, "lng": LNG})
            assert "void" not in ack
        assert not rig.node.tally.unknown_content


async def test_a_service_that_logs_an_event_leaves_no_precise_location_either(
    redis_url: str, database_url: str
) -> None:
    user = new_user()
    async with (
        run_rig(redis_url, database_url) as rig,
        rig.player(user_id=user),
        run_flusher(redis_url, database_url),
        PlayerProgress(rig.hot, rig.cold, caller="quests", definitions=define("report")) as service,
    ):
        ticket = await service.log_event(user, "wylding-woods", "waypoint_visited", "tower", lat=LAT, lng=LNG)
        await service.wait_saved(ticket)
        with pytest.raises(InvalidAction, match=r"event\.lat"):
            await service.log_event(user, "wylding-woods", "waypoint_visited", "tower", lat=91.0, lng=LNG)
    connection = await asyncpg.connect(database_url)
    try:
        (event,) = await connection.fetch("SELECT location_lat, location_lng FROM player_progress_events")
        rows = await connection.fetch("SELECT a::text AS text FROM liveops_actions a")
    finally:
        await connection.close()
    assert tuple(event) == (37.906, -122.548)
    assert len(rows) >= 1 and not any(str(LAT) in row["text"] or str(LNG) in row["text"] for row in rows)
