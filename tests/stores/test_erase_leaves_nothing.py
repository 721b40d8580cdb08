"""Export, erase, and nothing is left of a player who had left traces everywhere; whoever comes anew starts anew."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest

from persistence.board import parse_board
from persistence.erase import erase_player
from persistence.errors import PlayerErased
from persistence.export import export_player
from persistence.leaderboards import Leaderboards
from protocol.entry import encode_update_body
from tests.stores.conftest import StorePlayer, Stores
from tests.stores.grep_stores import grep_postgres, grep_redis

DEVICES = ("phone-of-the-erased", "tablet-of-the-erased")
SECRET = "what-only-they-wrote"


async def leave_traces(stores: Stores) -> tuple[StorePlayer, list[str]]:
    """In every table and every kind of key that there is. Returns the player and what must be found nowhere."""
    player = stores.player(device=DEVICES[0])
    user = player.key.user_id
    await player.hello()
    await player.send(
        player.make({"type": "waypoint_visited", "content_id": "w1", "data": {"note": SECRET, "distance_traveled": 5}})
    )
    await player.send(player.make({"type": "achievement_unlocked", "content_id": f"{SECRET}-badge"}))
    await stores.flush()
    boards = Leaderboards(stores.hot, stores.cold)
    page = await boards.read("wylding-woods", parse_board("distance"), user, 10)
    assert [row.user_id for row in page.rows] == [user]
    await boards.close()
    await player.leave()
    other = stores.player("west-of-house", user, DEVICES[1])
    await other.hello()
    await stores.hot.push(user, str(uuid.uuid4()), json.dumps({"text": SECRET}).encode())
    await other.send(other.make(None, [{"op": "set", "path": "diary", "value": SECRET}]))
    await stores.hot.note_active_players({"west-of-house": [(user, await stores.hot.time_ms())]})
    progress = await stores.fetch(
        "SELECT p.id FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id WHERE f.user_id = $1", user
    )
    body = encode_update_body(
        DEVICES[0], 9, 1_700_000_000_000, 1_700_000_000_000, player.session_id, "x", SECRET, b"{}", b"", None, None
    )
    await stores.fetch(
        """
        INSERT INTO dead_letters (id, experience_progress_id, device_id, seq, version, payload, reason, sqlstate)
        VALUES (gen_random_uuid(), $1, $2, 9, 99, $3, $4, '22000') RETURNING 1
        """,
        progress[0]["id"],
        DEVICES[0],
        body,
        f"refused: {SECRET}",
    )
    await stores.fetch(
        """
        INSERT INTO liveops_actions
            (id, experience_progress_id, ops_seq, user_id, experience_id, operator, role, action, payload)
        VALUES (gen_random_uuid(), $1, 1, $2, 'wylding-woods', 'ann', 'admin', 'edit',
                jsonb_build_object('text', $3::text))
        RETURNING 1
        """,
        progress[0]["id"],
        user,
        SECRET,
    )
    needles = [user, *(str(row["id"]) for row in progress), *DEVICES, SECRET, player.session_id, other.session_id]
    return player, needles


async def test_nothing_is_left_in_either_store(stores: Stores) -> None:
    player, needles = await leave_traces(stores)
    user = player.key.user_id
    exported = "".join([piece async for piece in export_player(stores.hot, stores.database_url, user)])
    shown: dict[str, Any] = json.loads(exported)
    assert {row["experience_id"] for row in shown["progress"]} == {"wylding-woods", "west-of-house"}
    before = await grep_postgres(stores.database_url, needles)
    assert {needle for needle in needles if any(needle in line for line in before)} >= {user, SECRET, DEVICES[0]}
    hot = [line for line in await grep_redis(stores.redis_url, needles) if user in line]
    for kind in ("progress:", "pending:", "session", "pushes", "dirty", "expiry", "active_players", "leaderboard:"):
        assert any(kind in line for line in hot), kind
    # Content that a player made up is a row of the dictionary of contents, with nobody's name on it.
    before_contents = [line for line in before if line.startswith("contents:")]
    assert len(before_contents) == 1

    await erase_player(stores.hot, stores.database_url, user)

    left = await grep_postgres(stores.database_url, needles)
    assert [line for line in left if line not in before_contents] == []
    assert await grep_redis(stores.redis_url, needles) == []
    # What a flusher still finds to do brings nothing back.
    await stores.flush()
    left = await grep_postgres(stores.database_url, needles)
    assert [line for line in left if line not in before_contents] == []
    assert await grep_redis(stores.redis_url, needles) == []


async def test_a_newer_token_with_a_new_device_starts_from_nothing(stores: Stores) -> None:
    player, needles = await leave_traces(stores)
    user = player.key.user_id
    await erase_player(stores.hot, stores.database_url, user)
    for device, issued_at in ((DEVICES[0], time.time() + 60), ("new", time.time() - 60)):
        with pytest.raises(PlayerErased):
            await stores.cold.open_progress(player.key, device, issued_at)
    anew = stores.player(user_id=user, device="new")
    started_ms = await stores.hot.time_ms()
    cold = await stores.cold.open_progress(anew.key, anew.device, time.time() + 2)
    assert (cold.version, cold.device_seq, cold.state_json) == (0, 0, "{}")
    await stores.hot.install(cold, started_ms)
    progress = await anew.hello_without_hydrate()
    assert progress is not None and progress.accepted == {"new": 0} and not progress.fields
    await anew.send(anew.make({"type": "item_collected", "content_id": "lamp"}))
    await stores.flush()
    exported = "".join([piece async for piece in export_player(stores.hot, stores.database_url, user)])
    shown = json.loads(exported)
    assert [row["experience_id"] for row in shown["progress"]] == ["wylding-woods"]
    assert [event["content_id"] for event in shown["progress"][0]["events"]] == ["lamp"]
    assert not any(needle in exported for needle in needles if needle != user)
