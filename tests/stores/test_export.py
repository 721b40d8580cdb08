"""An export holds everything about a player, of both stores, as one JSON document, and little of it in memory."""

from __future__ import annotations

import json
import tracemalloc
import uuid
from contextlib import aclosing
from typing import Any

import pytest

from persistence.errors import PlayerUnknown, StoreUnavailable
from persistence.export import FORMAT, KNOWN_TABLES, export_player
from persistence.hot.store import HotStore
from protocol.entry import encode_update_body
from tests.stores.conftest import StorePlayer, Stores

CAR = {
    "type": "waypoint_visited",
    "content_id": "8_inter_gravity_car",
    "data": {"time_spent": 12.5},
    "lat": 1.5,
    "lng": 2,
}


async def export(stores: Stores, user_id: str) -> tuple[dict[str, Any], str]:
    text = "".join([piece async for piece in export_player(stores.hot, stores.database_url, user_id)])
    return json.loads(text), text


async def player_with_history(stores: Stores) -> StorePlayer:
    player = stores.player()
    await player.hello()
    await player.send(player.make(CAR, [{"op": "set", "path": "note", "value": {"großer": ["Schritt", 2**62, 0.1]}}]))
    await player.send(player.make({"type": "achievement_unlocked", "content_id": "first_waypoint"}))
    await stores.flush()
    return player


async def test_everything_of_both_stores_is_there(stores: Stores) -> None:
    player = await player_with_history(stores)
    await player.leave()
    other = stores.player("west-of-house", player.key.user_id, "tablet")
    await other.hello()
    await other.send(other.make({"type": "item_collected", "content_id": "lamp"}))
    await other.send(other.make(None, [{"op": "incr", "path": "inventory", "value": 1}]))
    await stores.hot.push(player.key.user_id, str(uuid.uuid4()), b'{"text":"well done"}')
    stranger = stores.player()
    await stranger.hello()
    await stranger.send(stranger.make({"type": "item_collected", "content_id": "strangers_thing"}))
    await stores.fetch(
        """
        INSERT INTO dead_letters (id, experience_progress_id, device_id, seq, version, payload, reason, sqlstate)
        SELECT gen_random_uuid(), p.id, 'phone', 9, 99, $2, 'it was refused', '22000'
        FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id
        WHERE f.user_id = $1 AND p.experience_id = 'wylding-woods' RETURNING 1
        """,
        player.key.user_id,
        encode_update_body("phone", 9, 1_700_000_000_000, 1_700_000_000_000, str(uuid.uuid4()), "refused_event", None,
                           b'{"why":1}', b"", None, None),
    )  # fmt: skip
    shown, text = await export(stores, player.key.user_id)

    assert list(shown) == [
        *("format", "kind", "player", "exported_at", "redis", "user", "profile", "sessions", "progress", "tables")
    ]
    assert shown["format"] == FORMAT and shown["player"] == player.key.user_id == shown["user"]["id"]
    assert shown["profile"]["stats"] == {"achievements": ["first_waypoint"]}
    assert {session["device_id"] for session in shown["sessions"]} == {"phone"}  # the other's start is not saved yet
    west, woods = shown["progress"]
    assert (west["experience_id"], woods["experience_id"]) == ("west-of-house", "wylding-woods")
    assert woods["state"]["note"] == {"großer": ["Schritt", 2**62, 0.1]}
    assert [event["event_type"] for event in woods["events"]] == ["waypoint_visited", "achievement_unlocked"]
    assert (woods["events"][0]["location_lat"], woods["events"][0]["data"]) == (1.5, {"time_spent": 12.5})
    assert woods["streams"][0]["device_id"] == "phone" and woods["streams"][0]["last_seq"] == 2
    assert [day["updates"] for day in woods["days"]] == [2]
    assert {(day["event_type"], day["content_id"]) for day in woods["content_days"]} == {
        ("waypoint_visited", "8_inter_gravity_car"),
        ("achievement_unlocked", "first_waypoint"),
    }
    (letter,) = woods["dead_letters"]
    assert (letter["reason"], letter["entry"]["event_type"], letter["entry"]["data"]) == (
        "it was refused",
        "refused_event",
        {"why": 1},
    )
    assert shown["redis"]["session"]["experience"] == "west-of-house"
    assert [push["message"] for push in shown["redis"]["pushes"]] == [{"text": "well done"}]
    hot_west, hot_woods = shown["redis"]["progress"]
    assert hot_west["state"] == {"inventory": ["lamp"]} and hot_west["accepted"] == {"tablet": 2}
    updates = [entry for entry in hot_west["pending"] if entry["kind"] == "update"]
    assert [(entry["seq"], entry["void_code"]) for entry in updates] == [(1, None), (2, 106)]
    assert hot_woods["saved"] == {"phone": 2}
    assert "strangers_thing" not in text and stranger.key.user_id not in text


async def test_the_same_player_is_exported_the_same_way(stores: Stores) -> None:
    player = await player_with_history(stores)
    (first, first_text), (again, again_text) = [await export(stores, player.key.user_id) for _ in range(2)]
    first.pop("exported_at"), again.pop("exported_at")
    assert first == again
    lines = [line for line in first_text.split("\n") if "exported_at" not in line]
    assert lines == [line for line in again_text.split("\n") if "exported_at" not in line]


async def test_a_player_of_whom_redis_knows_nothing(stores: Stores) -> None:
    player = await player_with_history(stores)
    await stores.hot._client.flushdb()
    shown, _ = await export(stores, player.key.user_id)
    assert shown["redis"] == {"session": None, "progress": [], "pushes": []}
    assert len(shown["progress"][0]["events"]) == 2


async def test_a_table_of_somebody_elses_is_exported_as_it_stands(stores: Stores) -> None:
    player = await player_with_history(stores)
    await stores.fetch("CREATE TABLE guild_members (guild text, user_id uuid)")
    await stores.fetch('CREATE TABLE "odd ""name" (experience_progress_id uuid, what int)')
    await stores.fetch(
        "INSERT INTO guild_members VALUES ('foxes', $1), ('owls', gen_random_uuid())", player.key.user_id
    )
    await stores.fetch('INSERT INTO "odd ""name" SELECT id, 7 FROM experience_progress')
    shown, _ = await export(stores, player.key.user_id)
    assert shown["tables"]["guild_members"] == [{"guild": "foxes", "user_id": player.key.user_id}]
    assert [row["what"] for row in shown["tables"]['odd "name']] == [7]


async def test_every_table_about_players_is_known_or_exported_as_it_stands(stores: Stores) -> None:
    """A table that names players otherwise would be forgotten: users is asked for by id, tombstones name nobody."""
    rows = await stores.fetch(
        """
        SELECT DISTINCT c.conrelid::regclass::text AS name FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
        WHERE c.contype = 'f' AND NOT t.relispartition AND c.confrelid::regclass::text IN
            ('users', 'player_profiles', 'experience_progress', 'player_progress_events', 'player_sessions')
        """
    )
    columns = await stores.fetch(
        "SELECT DISTINCT table_name::text FROM information_schema.columns"
        " WHERE column_name IN ('user_id', 'player_id', 'experience_progress_id')"
    )
    found = {row["table_name"] for row in columns}
    assert {row["name"] for row in rows} <= found
    assert found >= KNOWN_TABLES


async def test_a_long_history_passes_through_in_pages(stores: Stores) -> None:
    player = await player_with_history(stores)
    await stores.fetch(
        """
        INSERT INTO player_progress_events
            (id, experience_progress_id, event_type, data, "timestamp", device_id, seq, version, received_at)
        SELECT gen_random_uuid(), p.id, 'note_written', jsonb_build_object('text', repeat('x', 2000)), now(), 'phone',
               n, n, now()
        FROM experience_progress p, generate_series(1000, 9000) n RETURNING 1
        """
    )
    size = 0
    tracemalloc.start()
    try:
        async for piece in export_player(stores.hot, stores.database_url, player.key.user_id):
            size += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 16_000_000
    assert peak < 6_000_000


async def test_whoever_stops_reading_leaves_no_connection(stores: Stores) -> None:
    player = await player_with_history(stores)
    async with aclosing(export_player(stores.hot, stores.database_url, player.key.user_id)) as pieces:
        async for piece in pieces:
            if '"events"' in piece:
                break
    left = await stores.fetch(
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'wayhold-export' AND state <> 'idle'"
    )
    assert left == []


async def test_an_unknown_player_and_a_store_that_is_away(stores: Stores) -> None:
    with pytest.raises(PlayerUnknown):
        await export(stores, str(uuid.uuid4()))
    hot = await HotStore.open("redis://127.0.0.1:1/0")
    player = await player_with_history(stores)
    with pytest.raises(StoreUnavailable):
        async for _ in export_player(hot, stores.database_url, player.key.user_id):
            pass
    with pytest.raises(StoreUnavailable):
        async for _ in export_player(stores.hot, "postgresql://x@127.0.0.1:1/x", player.key.user_id):
            pass
    await hot.close()
