"""
What an erase leaves behind where no query sees it, and how it goes sooner: the log that Redis keeps of its writes, and
dead rows in the files of Postgres.

Both servers would get rid of it by themselves, at a time that nobody knows. This asks them to do it now. Nothing here
is needed for correctness, and all of it is harmless to repeat and to leave out.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError, ResponseError

from persistence.cold.connect import CONNECT_TIMEOUT_S, POSTGRES_ERRORS
from persistence.errors import StoreUnavailable

REWRITE_DEADLINE_S = 120.0
REWRITE_LOOK_S = 0.05
VACUUM_TIMEOUT_S = 600.0

TABLES = (
    *("users", "player_profiles", "experience_progress", "player_progress_events", "device_streams"),
    *("player_sessions", "dead_letters", "content_player_days", "player_days", "liveops_actions"),
)
"""Those that rows of a player are deleted from; one that is not there is passed over."""


async def rewrite_append_only_file(redis_url: str) -> bool:
    """
    Let Redis write its append-only file anew: it then holds what is, not what was. False: it keeps none, or does not
    let us.

    Raises:
        StoreUnavailable: it did not answer, or was not done in time.
    """
    client = redis_asyncio.Redis.from_url(redis_url, protocol=2, socket_timeout=5.0, socket_connect_timeout=3.0)
    try:
        if not int((await client.info("persistence")).get("aof_enabled", 0)):
            return False
        deadline = time.monotonic() + REWRITE_DEADLINE_S
        # One that is under way began before the erase, perhaps: it does not count.
        await _wait_rewritten(client, deadline)
        try:
            await client.bgrewriteaof()
        except ResponseError:
            return False
        await _wait_rewritten(client, deadline)
        return str((await client.info("persistence")).get("aof_last_bgrewrite_status")) == "ok"
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable("redis", "rewrite_append_only_file", error or type(error).__name__) from error
    finally:
        await client.aclose()


async def _wait_rewritten(client: Any, deadline: float) -> None:
    while True:
        state = await client.info("persistence")
        if not int(state["aof_rewrite_in_progress"]) and not int(state.get("aof_rewrite_scheduled", 0)):
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the append-only file is still being rewritten")
        await asyncio.sleep(REWRITE_LOOK_S)


async def vacuum_deleted_rows(database_url: str) -> bool:
    """
    Let Postgres clear deleted rows out of its tables and write its pages to disk. Their bytes may stand in free space,
    and in old segments of the write-ahead log, until these are used again. False: a checkpoint is not ours to ask for.

    Raises:
        StoreUnavailable: it did not answer.
    """
    try:
        connection: Any = await asyncpg.connect(
            database_url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=VACUUM_TIMEOUT_S,
            server_settings={"application_name": "wayhold-vacuum", "timezone": "UTC"},
        )
        try:
            for table in TABLES:
                if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
                    await connection.execute(f"VACUUM {table}")
            try:
                await connection.execute("CHECKPOINT")
            except asyncpg.InsufficientPrivilegeError:
                return False
            return True
        finally:
            connection.terminate()
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "vacuum_deleted_rows", error or type(error).__name__) from error
