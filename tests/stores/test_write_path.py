"""
The write path on real servers, operation by operation: what is taken, what is refused, what Postgres holds
afterwards.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from persistence.dead_letters import DeadLetters
from persistence.flusher import plan, write
from persistence.flusher.lane import CLAIM_LEASE_S
from persistence.flusher.plan import Copy, ProgressWrite, Row
from persistence.hot.shapes import Outcome
from persistence.hot.store import HotStore
from tests.stores.conftest import Stores
from tests.waiting import wait_until

WAYPOINT = {
    "type": "waypoint_visited",
    "content_id": "8_inter_gravity_car",
    "data": {"distance_traveled": 1.2, "time_spent": 120},
}


async def test_update_is_accepted_flushed_and_saved_exactly_once(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    verdict = await player.send(
        player.make(WAYPOINT), player.make(None, [{"op": "incr", "path": "collectibles.tools", "value": 2}])
    )
    assert (verdict.outcome, verdict.accepted, verdict.taken, verdict.saved) == (Outcome.OK, 2, 2, 0)

    assert await stores.flush() == 1
    assert await stores.flush() == 0
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None and progress.saved == {"phone": 2} and progress.base_version == progress.version == 3

    events = await stores.fetch(
        "SELECT event_type, content_id, data, seq, version, device_id FROM player_progress_events ORDER BY version"
    )
    assert [(e["event_type"], e["content_id"], e["seq"], e["version"], e["device_id"]) for e in events] == [
        ("waypoint_visited", "8_inter_gravity_car", 1, 2, "phone"),
        ("update", None, 2, 3, "phone"),
    ]
    assert json.loads(events[1]["data"]) == [{"op": "incr", "path": "collectibles.tools", "value": 2}]
    (row,) = await stores.fetch("SELECT * FROM experience_progress")
    assert json.loads(row["state"]) == {
        "collectibles": {"tools": 2},
        "current_location": "8_inter_gravity_car",
        "distance_meters": 1.2,
        "visited_waypoints": ["8_inter_gravity_car"],
    }
    assert (row["current_location"], row["version"], row["kinds"]) == ("8_inter_gravity_car", 3, "{}")
    (stream,) = await stores.fetch("SELECT device_id, last_seq FROM device_streams")
    assert tuple(stream) == ("phone", 2)
    (profile,) = await stores.fetch("SELECT total_distance_meters, total_experiences_played FROM player_profiles")
    assert tuple(profile) == (1.2, 1)
    (session,) = await stores.fetch("SELECT id, ended_at FROM player_sessions")
    assert (str(session["id"]), session["ended_at"]) == (player.session_id, None)


async def test_repeated_seq_changes_nothing_and_is_answered_again(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    update = player.make(None, [{"op": "incr", "path": "collectibles.tools", "value": 1}])
    await player.send(update)
    again = await player.send(update)
    assert (again.outcome, again.accepted, again.taken, again.repeated) == (Outcome.OK, 1, 0, 1)
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None and progress.fields["c:collectibles.tools"] == b"1000000"


async def test_gap_takes_what_is_before_it_and_nothing_behind(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    verdict = await player.send(player.make(WAYPOINT), player.make(WAYPOINT, seq=3))
    assert (verdict.outcome, verdict.accepted, verdict.taken) == (Outcome.GAP, 1, 1)


async def test_void_update_uses_its_seq_and_is_answered_the_same_until_saved(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    good = player.make(None, [{"op": "set", "path": "mood", "value": 1}])
    bad = player.make(
        None, [{"op": "incr", "path": "mood", "value": 1}, {"op": "add", "path": "inventory", "value": "lamp"}]
    )
    verdict = await player.send(good, bad)
    assert verdict.accepted == 2 and verdict.voids == [
        (2, 106, "operation 1: a path is of another kind, or a counter would leave its bounds")
    ]
    assert (await player.send(bad)).voids == verdict.voids
    progress = await stores.hot.find_progress(player.key)
    assert (
        progress is not None
        and progress.voids == {"phone": verdict.voids}
        and "m:inventory.lamp" not in progress.fields
    )

    await stores.flush()
    assert (await player.send(bad)).voids == []
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 1
    (stream,) = await stores.fetch("SELECT last_seq FROM device_streams")
    assert stream["last_seq"] == 2


async def test_higher_connection_fences_the_lower_one(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    old = player.connection
    await player.hello()
    assert player.connection > old
    newest = player.connection
    player.connection = old
    assert (await player.send(player.make(WAYPOINT))).outcome is Outcome.FENCED
    player.connection = newest
    assert (await player.send(player.make(WAYPOINT, seq=1))).outcome is Outcome.OK


async def test_missing_copy_other_copy_and_forgotten_seq_are_noticed(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    player.told = 2
    assert (await player.send()).outcome is Outcome.BEHIND
    player.told = 1
    player.copy = "another"
    assert (await player.send()).outcome is Outcome.DIFFERENT_COPY
    await stores.hot._client.flushall()
    assert (await player.send()).outcome is Outcome.MISSING


async def test_ended_session_is_told_from_a_forgotten_one(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.leave()
    assert (await player.send(player.make(WAYPOINT))).outcome is Outcome.SESSION_ENDED


async def test_end_of_a_session_is_flushed_and_its_copy_expires(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    version = await player.leave()
    await stores.flush()
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None and progress.base_version == version
    (session,) = await stores.fetch("SELECT end_reason, ended_at FROM player_sessions")
    assert session["end_reason"] == "left" and session["ended_at"] is not None
    keys = sorted(key.decode() for key in await stores.hot._client.keys("*"))
    assert keys == [stores.hot._keys.progress(player.key)]
    assert 0 < await stores.hot._client.ttl(keys[0]) <= 3600


async def test_hydrated_state_is_the_state_that_was_flushed(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    effects = [
        {"op": "set", "path": "room", "value": {"id": "attic", "seen": [1, 2.5, 1e300, 1e17]}},
        {"op": "set", "path": "lives", "value": 3},
        {"op": "set", "path": "names", "value": ["b", "a"]},
        {"op": "max", "path": "collectibles.a.b", "value": 0.000001},
        {"op": "remove", "path": "unlocked_areas", "value": "x"},
        {"op": "set", "path": "flags.level", "value": 1.0},
    ]
    await player.send(player.make(WAYPOINT, effects))
    before = await stores.hot.find_progress(player.key)
    await stores.flush()
    await stores.hot._client.flushall()
    await player.hydrate()
    after = await stores.hot.find_progress(player.key)
    assert before is not None and after is not None
    assert after.fields == before.fields
    assert (after.version, after.accepted) == (before.version, {"phone": 1})
    assert after.copy != before.copy


async def test_install_keeps_a_copy_that_is_ahead_and_replaces_one_that_diverged(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    started_ms = await stores.hot.time_ms()
    stale = await stores.cold.open_progress(player.key, player.device)
    await player.send(player.make(WAYPOINT))
    await stores.flush()
    await player.send(player.make(WAYPOINT))
    assert await stores.hot.install(stale, started_ms) == (True, 0)
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None and progress.accepted == {"phone": 2}

    cold = await stores.cold.open_progress(player.key, player.device)
    cold.last_entry = "f" * 32
    assert await stores.hot.install(cold, await stores.hot.time_ms()) == (True, 1)
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None and progress.accepted == {"phone": 1}


async def test_install_of_an_old_read_is_refused(stores: Stores) -> None:
    player = stores.player()
    cold = await stores.cold.open_progress(player.key, player.device)
    assert await stores.hot.install(cold, await stores.hot.time_ms() - 60_000) == (False, 0)
    assert await stores.hot.find_progress(player.key) is None


async def test_pending_bound_stops_a_progress_without_losing_anything(stores: Stores) -> None:
    await stores.hot.close()
    stores.hot = await HotStore.open(stores.redis_url, pending_updates_max=3)
    player = stores.player()
    await player.hello()
    verdict = await player.send(*[player.make(WAYPOINT) for _ in range(5)])
    assert (verdict.outcome, verdict.accepted) == (Outcome.FULL, 2)
    await stores.flush()
    verdict = await player.send(*[player.make(WAYPOINT, seq=seq) for seq in (3, 4, 5)])
    assert (verdict.outcome, verdict.accepted) == (Outcome.OK, 5)
    await stores.flush()
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 5


async def test_claimed_progress_is_flushed_once_by_two_flushers(stores: Stores) -> None:
    players = [stores.player() for _ in range(20)]
    for player in players:
        await player.hello()
        await player.send(*[player.make(WAYPOINT) for _ in range(5)])
    first, second = stores.flusher(), stores.flusher()
    await asyncio.gather(first.flush_due(3600.0), second.flush_due(3600.0))
    await asyncio.gather(first.close(), second.close())
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 100
    assert (await stores.hot.count_pending()).updates == 0
    assert all(report.discards == 0 for report in stores.reports)


async def test_poison_event_goes_to_dead_letters_and_the_rest_is_written(stores: Stores) -> None:
    player, other = stores.player(), stores.player()
    await player.hello()
    await other.hello()
    poisoned = player.make(WAYPOINT)
    poisoned = poisoned._replace(body=poisoned.body.replace(b"waypoint_visited", b"waypoint_visit\x00d"))
    await player.send(poisoned)
    await other.send(other.make(WAYPOINT))
    await stores.flush()
    (letter,) = await stores.fetch("SELECT device_id, seq, sqlstate FROM dead_letters")
    assert tuple(letter)[:2] == ("phone", 1)
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 1
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None and progress.saved == {"phone": 1}


async def test_poison_state_quarantines_its_progress_and_no_other(stores: Stores) -> None:
    player, other = stores.player(), stores.player()
    await player.hello()
    await other.hello()
    await player.send(player.make(WAYPOINT))
    await other.send(other.make(WAYPOINT))
    await stores.hot._client.hset(stores.hot._keys.progress(player.key), "v:bad", b'"\\u0000"')
    await stores.flush()
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 1
    assert (await player.send(player.make(WAYPOINT))).outcome is Outcome.QUARANTINED
    assert (await other.send(other.make(WAYPOINT))).outcome is Outcome.OK
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None and progress.saved == {"phone": 0} and progress.quarantine


@pytest.mark.parametrize("durable", [True, False])
async def test_durable_update_is_due_at_once(stores: Stores, durable: bool) -> None:
    player = stores.player()
    await player.hello()
    await stores.flush()
    await player.send(player.make(WAYPOINT), durable=durable)
    flusher = stores.flusher()
    assert await flusher.flush_due() == int(durable)
    await flusher.close()


async def test_diverged_copy_is_thrown_away_by_the_flush_and_healthy_ones_are_not(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    await stores.flush()
    await player.send(player.make(WAYPOINT))
    await stores.hot._client.hset(stores.hot._keys.progress(player.key), "base_id", "0" * 32)
    await stores.flush()
    assert sum(report.discards for report in stores.reports) == 1
    assert await stores.hot.find_progress(player.key) is None


async def test_last_waypoint_of_many_devices_is_saved_for_each_stream(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    tablet = stores.player(user_id=player.key.user_id, device="tablet")
    await tablet.hello()
    await tablet.send(tablet.make(WAYPOINT), tablet.make(WAYPOINT))
    assert (await player.send()).outcome is Outcome.FENCED
    await stores.flush()
    rows = await stores.fetch("SELECT device_id, last_seq FROM device_streams ORDER BY device_id")
    assert [tuple(row) for row in rows] == [("phone", 1), ("tablet", 2)]


async def test_unreadable_entry_quarantines_its_progress_and_no_other(stores: Stores) -> None:
    player, other = stores.player(), stores.player()
    await player.hello()
    await other.hello()
    await player.send(player.make(WAYPOINT))
    await other.send(other.make(WAYPOINT))
    await stores.hot._client.rpush(stores.hot._keys.pending(player.key), b"not an entry")
    await stores.flush()
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 1
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None and progress.quarantine.startswith("unreadable")


async def test_session_that_redis_lost_is_closed_as_lost_until_its_real_end_comes(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    await stores.flush()
    assert await stores.cold.list_open_sessions(3600, 10) == []
    assert await stores.cold.list_open_sessions(-1, 10) == [(player.session_id, player.key)]
    assert await stores.cold.list_open_sessions(-1, 10, after=player.session_id) == []
    await stores.cold.close_lost_sessions([player.session_id])
    (session,) = await stores.fetch("SELECT end_reason FROM player_sessions")
    assert session["end_reason"] == "lost"
    await player.leave()
    await stores.flush()
    (session,) = await stores.fetch("SELECT end_reason FROM player_sessions")
    assert session["end_reason"] == "left"


async def test_fault_of_ours_with_one_progress_costs_the_others_nothing(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    players = [stores.player() for _ in range(6)]
    for player in players:
        await player.hello()
        await player.send(player.make(WAYPOINT))
    plan_write = plan.plan_write

    def fails_for_one(copy: Copy, row: Row, *rest: Any) -> ProgressWrite:
        if copy.key == players[3].key:
            raise TypeError("a bug")
        return plan_write(copy, row, *rest)

    monkeypatch.setattr(write, "plan_write", fails_for_one)
    stop = asyncio.Event()
    flusher = stores.flusher()
    for player in players:
        await stores.hot.make_due(player.key)
    running = asyncio.create_task(flusher.run(stop, final_flush_s=0.1))

    async def others_are_saved() -> bool:
        return len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 5

    async def one_is_set_aside() -> bool:
        progress = await stores.hot.find_progress(players[3].key)
        return progress is not None and progress.quarantine.startswith("not flushable")

    await wait_until("the others are saved", others_are_saved)
    await wait_until("the one is set aside", one_is_set_aside)
    stop.set()
    await running


async def test_dead_letter_is_replayed_once_what_was_wrong_is_mended(stores: Stores) -> None:
    await stores.fetch("ALTER TABLE player_progress_events ADD CONSTRAINT no_cars CHECK (content_id <> 'car')")
    player = stores.player()
    await player.hello()
    car = {"type": "waypoint_visited", "content_id": "car", "lat": 37.9}
    await player.send(player.make(WAYPOINT), player.make(car), player.make(WAYPOINT))
    await stores.flush()
    async with DeadLetters(stores.database_url) as letters:
        (letter,) = await letters.list_newest(10)
        assert (letter.user_id, letter.seq, letter.content_id, letter.sqlstate) == (
            player.key.user_id,
            2,
            "car",
            "23514",
        )
        refused = await letters.replay([letter.id])
        assert (refused.replayed, [id for id, _ in refused.refused]) == (0, [letter.id])
        await stores.fetch("ALTER TABLE player_progress_events DROP CONSTRAINT no_cars")
        assert (await letters.replay([letter.id])).replayed == 1
        assert (await letters.replay([letter.id])).absent == [letter.id]
        assert await letters.list_newest(10) == []
    rows = await stores.fetch(
        "SELECT seq, version, content_id, location_lat FROM player_progress_events ORDER BY version"
    )
    assert [tuple(row) for row in rows] == [
        (1, 2, "8_inter_gravity_car", None),
        (2, 3, "car", 37.9),
        (3, 4, "8_inter_gravity_car", None),
    ]


async def test_released_progress_is_flushed_again(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    progress = stores.hot._keys.progress(player.key)
    await stores.hot._client.hset(progress, "v:bad", b'"\\u0000"')
    await stores.flush()
    ((key, reason),) = await stores.hot.list_quarantined()
    assert key == player.key and reason.startswith("22P05")
    await stores.hot._client.hdel(progress, "v:bad")
    assert await stores.hot.release_quarantine(player.key)
    assert not await stores.hot.release_quarantine(player.key)
    await stores.flush()
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 1
    assert (await player.send(player.make(WAYPOINT))).outcome is Outcome.OK


async def test_work_of_a_flusher_that_was_killed_does_not_wait_for_its_lease(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    assert await stores.hot.claim_due(10, CLAIM_LEASE_S, ahead_s=3600.0) == [player.key]
    stop = asyncio.Event()
    running = asyncio.create_task(stores.flusher().run(stop, final_flush_s=0.1))

    async def is_saved() -> bool:
        return len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 1

    await wait_until("the claimed progress is saved", is_saved, deadline_s=5.0)
    stop.set()
    await running


async def test_refused_profile_quarantines_its_progress_and_no_other(stores: Stores) -> None:
    players = [stores.player() for _ in range(3)]
    for player in players:
        await player.hello()
        await player.send(player.make(WAYPOINT))
    await stores.fetch(
        "UPDATE player_profiles SET total_distance_micrometers = 9223372036854775807 WHERE user_id = $1 RETURNING 1",
        players[1].key.user_id,
    )
    await stores.flush()
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 2
    assert [key for key, _ in await stores.hot.list_quarantined()] == [players[1].key]
    progress = await stores.hot.find_progress(players[1].key)
    assert progress is not None and progress.saved == {"phone": 0}


async def test_ever_new_devices_do_not_make_a_hot_copy_grow(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    for number in range(100):
        device = f"device-{number}"
        seen = await stores.hot.find_progress(player.key)
        assert seen is not None
        assert await stores.hot.install_device(player.key, device, number, seen, await stores.hot.time_ms())
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None and len(progress.accepted) <= 33
    assert progress.accepted["phone"] == 1 and progress.accepted["device-99"] == 99


async def test_active_players_are_counted_over_all_experiences(stores: Stores) -> None:
    await stores.hot.note_active_players({"wylding-woods": [("a", 1), ("b", 2)], "harbour": [("c", 3)]})
    await stores.hot.note_active_players({"wylding-woods": [("b", 2)]})
    assert await stores.hot.count_active_players("wylding-woods") == 2
    assert await stores.hot.count_all_active_players() == 3
