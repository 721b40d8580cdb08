"""What happened stays: gateways and flushers may add events and read them, whatever statement they came to send."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from persistence.cold.connect import open_connection, open_pool
from persistence.cold.grants import APP_ROLE, find_append_only_gap, grant_app_role, take_app_role
from persistence.erase import erase_player
from tests.stores.conftest import Stores

WAYPOINT = {"type": "waypoint_visited", "content_id": "8_inter_gravity_car", "data": {"time_spent": 3}}

FORBIDDEN = (
    "UPDATE player_progress_events SET event_type = 'x'",
    "DELETE FROM player_progress_events",
    "TRUNCATE player_progress_events",
    "TRUNCATE users CASCADE",
    "DELETE FROM player_progress_events_default",
    "DROP TABLE player_progress_events",
    "ALTER TABLE player_progress_events ADD COLUMN x integer",
    "UPDATE contents SET content_id = 'x'",
    "DELETE FROM schema_migrations",
    "UPDATE installation SET hash_key = ''",
    "SELECT rebuild_rollups()",
)


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_flusher_and_gateway_cannot_change_what_happened(stores: Stores, statement: str) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    await stores.flush()
    flusher = await open_connection(stores.database_url, application_name="wayhold-flusher")
    pool = await open_pool(stores.database_url, size_max=1, application_name="wayhold-gateway")
    try:
        async with pool.acquire() as gateway:
            for connection in (flusher, gateway):
                assert await connection.fetchval("SELECT count(*) FROM player_progress_events") == 1
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
    finally:
        await flusher.close()
        await pool.close()


AS_OWNER = (
    "SELECT ensure_event_partitions(current_date, current_date)",
    "SELECT move_event_horizon('somewhere', 1)",
    "SELECT * FROM remove_old_events('somewhere', now(), 1, 'a test', 1)",
    "SELECT drop_old_event_partitions()",
)


async def test_what_acts_as_the_owner_is_for_the_role_and_for_nobody_else(stores: Stores) -> None:
    """Postgres lets everybody call a new function: any login could have had a whole experience's events removed."""
    owner = await asyncpg.connect(stores.database_url)
    try:
        listed = await owner.fetch("SELECT proname FROM pg_proc WHERE prosecdef AND proname !~ '^pg_'")
        assert all(any(row["proname"] in statement for statement in AS_OWNER) for row in listed)
        await owner.execute("DROP ROLE IF EXISTS wayhold_test_login; CREATE ROLE wayhold_test_login NOINHERIT")
        await owner.execute("GRANT USAGE ON SCHEMA public TO wayhold_test_login")
        for statement in AS_OWNER:
            await owner.execute("SET ROLE wayhold_test_login")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute(statement)
            await owner.execute("SET ROLE wayhold_app")
            await owner.execute(statement)
    finally:
        await drop_role(owner)
        await owner.close()


async def test_erase_removes_events_all_the_same(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    await stores.flush()
    connection = await open_connection(stores.database_url, application_name="a test")
    try:
        async with connection.transaction():
            assert await connection.fetchval("SELECT current_user") == APP_ROLE
            await connection.execute("SELECT erase_rollups($1)", player.key.user_id)
            await connection.execute("DELETE FROM users WHERE id = $1", player.key.user_id)
            assert await connection.fetchval("SELECT count(*) FROM player_progress_events") == 0
    finally:
        await connection.close()
    assert (await erase_player(stores.hot, stores.database_url, player.key.user_id)).progress == 0


async def test_login_that_may_not_become_the_role_works_on_and_is_told(stores: Stores) -> None:
    owner = await asyncpg.connect(stores.database_url)
    try:
        await owner.execute("DROP ROLE IF EXISTS wayhold_test_login; CREATE ROLE wayhold_test_login NOINHERIT")
        await owner.execute(
            "GRANT USAGE ON SCHEMA public TO wayhold_test_login;"
            " GRANT SELECT, UPDATE ON player_progress_events TO wayhold_test_login"
        )
        assert await find_append_only_gap(owner) == ""
        await owner.execute("SET ROLE wayhold_test_login")
        await take_app_role(owner)
        assert await owner.fetchval("SELECT current_user") == "wayhold_test_login"
        assert "may not become wayhold_app" in await find_append_only_gap(owner)
        assert "permission denied" in await grant_app_role(owner)
        await owner.execute("RESET ROLE")
        # A login without rights over events needs no role to be kept from them.
        await owner.execute("REVOKE UPDATE ON player_progress_events FROM wayhold_test_login")
        await owner.execute("SET ROLE wayhold_test_login")
        assert await find_append_only_gap(owner) == ""
        await owner.execute("RESET ROLE")
        await owner.execute("GRANT DELETE ON player_progress_events TO wayhold_app")
        assert "more than reading and adding" in await find_append_only_gap(owner)
        assert await grant_app_role(owner) == ""
        assert await find_append_only_gap(owner) == ""
    finally:
        await drop_role(owner)
        await owner.close()


async def drop_role(owner: Any) -> None:
    await owner.execute("RESET ROLE")
    await owner.execute("DROP OWNED BY wayhold_test_login; DROP ROLE wayhold_test_login")
