"""Erase on real servers: nothing is left, nothing comes back, and a player may start anew."""

from __future__ import annotations

import asyncio
import time
import uuid

import asyncpg
import pytest

from persistence.cold.tombstones import hash_of
from persistence.erase import erase_player
from persistence.errors import PlayerErased
from persistence.flusher.plan import parse_snapshot
from persistence.flusher.write import write_copies
from tests.stores.conftest import StorePlayer, Stores
from tests.waiting import wait_until

WAYPOINT = {"type": "waypoint_visited", "content_id": "8_inter_gravity_car"}
TABLES = (
    "users",
    "player_profiles",
    "experience_progress",
    "player_progress_events",
    "device_streams",
    "player_sessions",
)


async def player_with_everything(stores: Stores) -> StorePlayer:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    await stores.flush()
    await player.send(player.make(WAYPOINT))
    return player


async def count_rows(stores: Stores) -> int:
    counts = [await stores.fetch(f"SELECT count(*) AS n FROM {table}") for table in TABLES]
    return sum(count[0]["n"] for count in counts)


async def list_keys(stores: Stores) -> list[str]:
    return [key.decode() for key in await stores.hot._client.keys("*") if not key.endswith(b":fence")]


async def test_erase_leaves_no_row_and_no_key(stores: Stores) -> None:
    player = await player_with_everything(stores)
    report = await erase_player(stores.hot, stores.database_url, player.key.user_id)
    assert report.was_known and report.progress == 1 and report.keys == 3
    assert await count_rows(stores) == 0
    assert await list_keys(stores) == []
    (tombstone,) = await stores.fetch("SELECT * FROM erased_players")
    assert uuid.UUID(player.key.user_id).bytes not in tombstone["user_hash"] and len(tombstone["device_hashes"]) == 1


async def test_erase_twice_and_of_a_stranger_is_harmless(stores: Stores) -> None:
    player = await player_with_everything(stores)
    await erase_player(stores.hot, stores.database_url, player.key.user_id)
    again = await erase_player(stores.hot, stores.database_url, player.key.user_id)
    stranger = await erase_player(stores.hot, stores.database_url, str(uuid.uuid4()))
    assert not again.was_known and not stranger.was_known
    (tombstone, _) = await stores.fetch("SELECT * FROM erased_players ORDER BY cardinality(device_hashes) DESC")
    assert len(tombstone["device_hashes"]) == 1


async def test_returning_client_is_refused_and_a_new_one_starts_anew(stores: Stores) -> None:
    player = await player_with_everything(stores)
    before = time.time() - 2
    await erase_player(stores.hot, stores.database_url, player.key.user_id)
    for device, issued_at in (("phone", before), ("phone", before + 60), ("tablet", before), ("tablet", None)):
        with pytest.raises(PlayerErased):
            await stores.cold.open_progress(player.key, device, issued_at)
    cold = await stores.cold.open_progress(player.key, "tablet", time.time() + 2)
    assert (cold.version, cold.device_seq, cold.state_json) == (0, 0, "{}")


async def test_nobody_starts_anew_while_the_erase_is_under_way(stores: Stores) -> None:
    player = await player_with_everything(stores)
    await erase_player(stores.hot, stores.database_url, player.key.user_id)
    await stores.fetch("UPDATE erased_players SET erased_at = 'infinity' RETURNING 1")
    with pytest.raises(PlayerErased):
        await stores.cold.open_progress(player.key, "tablet", time.time() + 2)
    with pytest.raises(PlayerErased):
        await stores.cold.check_not_erased(player.key.user_id, "tablet", time.time() + 2)


async def test_hello_that_is_making_rows_is_waited_for_and_its_rows_go_too(stores: Stores) -> None:
    """
    A hello had passed the check for a tombstone and had not committed its rows when the erase ran. The erase found
    nothing to delete, the hello committed, and the rows of an erased player stayed.
    """
    key = stores.player().key
    connection = await asyncpg.connect(stores.database_url)
    try:
        async with connection.transaction():
            hash_key = await connection.fetchval("SELECT hash_key FROM installation")
            await connection.fetch(
                "SELECT * FROM open_progress($1, $2, 'phone', now(), $3, $4)",
                key.user_id,
                key.experience,
                hash_of(hash_key, "user", key.user_id),
                hash_of(hash_key, "device", "phone"),
            )
            erasing = asyncio.create_task(erase_player(stores.hot, stores.database_url, key.user_id))

            async def is_waiting() -> bool:
                waiting = await stores.fetch("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                return len(waiting) == 1

            await wait_until("the erase waits for the hello", is_waiting)
        assert (await erasing).was_known
    finally:
        await connection.close()
    assert await count_rows(stores) == 0


async def test_read_from_before_the_erase_is_never_installed(stores: Stores) -> None:
    player = await player_with_everything(stores)
    started_ms = await stores.hot.time_ms()
    read = await stores.cold.open_progress(player.key, player.device, time.time())
    await erase_player(stores.hot, stores.database_url, player.key.user_id)
    assert await stores.hot.install(read, started_ms) == (False, 0)
    assert await list_keys(stores) == []


async def test_flush_with_a_snapshot_from_before_the_erase_writes_nothing(stores: Stores) -> None:
    player = await player_with_everything(stores)
    snapshots = await stores.hot.snapshot([player.key])
    await erase_player(stores.hot, stores.database_url, player.key.user_id)
    connection = await asyncpg.connect(stores.database_url)
    try:
        async with connection.transaction():
            report = await write_copies(connection, [parse_snapshot(snapshots[0])])
    finally:
        await connection.close()
    assert [copy.key for copy in report.gone] == [player.key] and not report.written
    assert await count_rows(stores) == 0


async def test_flush_of_a_progress_whose_row_is_gone_drops_it_for_good(stores: Stores) -> None:
    player = await player_with_everything(stores)
    await stores.fetch("DELETE FROM users WHERE id = $1 RETURNING 1", player.key.user_id)
    await stores.flush()
    assert [key for key in await list_keys(stores) if "progress" in key or "pending" in key or "dirty" in key] == []
    assert await count_rows(stores) == 0
