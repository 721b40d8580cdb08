"""Several flushers at once: everything once, nobody waits in a circle, whoever else changes the same rows meanwhile."""

from __future__ import annotations

import asyncio
import random
import uuid

import asyncpg
import pytest

from persistence.erase import erase_player
from persistence.flusher.flusher import FlushBounds, Flusher
from persistence.flusher.levels import LevelRule
from persistence.hot.shapes import Outcome
from persistence.verify import verify
from tests.stores.conftest import StorePlayer, Stores
from tests.waiting import wait_until

EXPERIENCES = ("woods", "harbour", "castle")


async def play(players: list[StorePlayer], number: int) -> None:
    """Everybody meets what nobody met before, each in another order: profiles, contents and hours are shared."""
    rng = random.Random(number)
    rng.shuffle(players)
    for player in players:
        places = [f"place-{number}-{n}" for n in range(5)]
        rng.shuffle(places)
        player.session_id = str(uuid.uuid4())
        await player.hello()
        visits = [
            player.make({"type": "waypoint_visited", "content_id": place, "data": {"distance_traveled": 1}})
            for place in places
        ]
        assert (await player.send(*visits)).outcome is Outcome.OK
        # The end of a session makes the progress due at once, while the next one of this player begins.
        await player.leave()


@pytest.mark.timeout(120)
async def test_three_flushers_under_load_never_wait_in_a_circle(stores: Stores) -> None:
    users = [stores.player().key.user_id for _ in range(20)]
    players = {name: [stores.player(name, user, name) for user in users] for name in EXPERIENCES}
    # Locks are taken slowly, row by row, so that flushers meet on them.
    await stores.fetch(
        "CREATE FUNCTION take_your_time() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.003); RETURN NEW; END $$"
    )
    for table, what in (("contents", "INSERT"), ("player_profiles", "UPDATE")):
        await stores.fetch(
            f"CREATE TRIGGER slow BEFORE {what} ON {table} FOR EACH ROW EXECUTE FUNCTION take_your_time()"
        )
    bounds = FlushBounds(progress_max=3)
    flushers = [Flusher(stores.hot, stores.database_url, bounds=bounds, lanes=2) for _ in range(3)]
    stop = asyncio.Event()
    running = [asyncio.create_task(flusher.run(stop)) for flusher in flushers]
    try:
        for number in range(2 * len(EXPERIENCES)):
            await play(players[EXPERIENCES[number % len(EXPERIENCES)]], number)
        for user_id in users[:3]:
            await erase_player(stores.hot, stores.database_url, user_id)

        async def is_saved() -> bool:
            return (await stores.hot.count_pending()).updates == 0

        await wait_until("everything is saved", is_saved)
    finally:
        stop.set()
        assert all(await asyncio.gather(*running))
    assert [flusher.failures for flusher in flushers] == [0, 0, 0]
    rows = await stores.fetch(
        "SELECT count(*) AS n, count(DISTINCT (experience_progress_id, seq)) AS d FROM player_progress_events"
    )
    assert tuple(rows[0]) == (17 * 30, 17 * 30)
    (deadlocks,) = await stores.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks["deadlocks"] == 0
    shards = await stores.fetch("SELECT count(DISTINCT shard) AS n FROM content_hours WHERE shard < 16")
    assert 1 <= shards[0]["n"] <= 6
    findings = await verify(stores.database_url, levels=LevelRule(), experiences={})
    assert [findings.first[check] for check, count in findings.counts.items() if count] == []


async def test_a_flush_that_waits_for_a_profile_holds_none_of_those_behind_it(stores: Stores) -> None:
    """
    Profiles are locked in the order of their ids. One that took them in the order of its progress would hold some that
    another flush of the same players, in another experience, comes to before: each would wait for the other.
    """
    players = [stores.player() for _ in range(8)]
    for player in players:
        await player.hello()
        await player.send(player.make({"type": "waypoint_visited", "content_id": "gate"}))
    profiles = [row["id"] for row in await stores.fetch("SELECT id FROM player_profiles ORDER BY id")]
    holder = await asyncpg.connect(stores.database_url)
    flusher = stores.flusher()
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM player_profiles WHERE id = $1 FOR UPDATE", profiles[0])
            flushing = asyncio.create_task(flusher.flush_due(ahead_s=3600.0))

            async def is_waiting() -> bool:
                waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'player_profiles'"
                return bool(await stores.fetch(waiting))

            await wait_until("the flush waits for the first profile", is_waiting)
            free = await stores.fetch("SELECT id FROM player_profiles ORDER BY id FOR UPDATE SKIP LOCKED")
            assert [row["id"] for row in free] == profiles[1:]
        assert await flushing == 8
    finally:
        await flusher.close()
        await holder.close()
