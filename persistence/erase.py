"""
Erase: everything about a player goes, from Redis and from Postgres, and nothing comes back: not from a flush that is
under way, not from a frozen gateway, not from a phone that returns after a year.

The order is the promise. The tombstone is committed first, so that nobody comes back with what they had. Then Redis is
purged and fenced: what was read from Postgres before the fence is never installed again. Then the rows go, progress
locked before profile as the flush does; a flush that held them ends first, and one that comes later finds no row and
drops what it has. At last Redis is purged once more and the fence lowered: with a newer token and a new device the
player may start anew.

Dying between any two steps leaves the player locked out; running it again finishes the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg

from persistence.cold.connect import CONNECT_TIMEOUT_S, POSTGRES_ERRORS
from persistence.cold.queries import queries
from persistence.cold.tombstones import hash_of
from persistence.errors import StoreUnavailable
from persistence.hot.store import HotStore

COMMAND_TIMEOUT_S = 60.0
"""Deleting years of events takes longer than any other statement of ours."""


@dataclass(slots=True)
class EraseReport:
    """What was there. `was_known` is False when no row was found; the tombstone stands all the same."""

    was_known: bool
    progress: int
    keys: int


async def erase_player(hot: HotStore, database_url: str, user_id: str) -> EraseReport:
    """
    Erase a player. Repeating it is harmless.

    Raises:
        StoreUnavailable: a store did not answer; the player is locked out at most, run it again.
    """
    sql = queries("erase")
    try:
        connection: Any = await asyncpg.connect(
            database_url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings={"application_name": "wayhold-erase", "timezone": "UTC"},
        )
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "erase_player", error or type(error).__name__) from error
    try:
        hash_key = await connection.fetchval(sql["find_hash_key"])
        user_hash = hash_of(hash_key, "user", user_id)

        async def put_tombstone(devices: set[str]) -> None:
            hashes = [hash_of(hash_key, "device", device) for device in sorted(devices)]
            await connection.execute(sql["put_tombstone"], user_hash, hashes)

        devices = {row["device_id"] for row in await connection.fetch(sql["list_player_devices"], user_id)}
        await put_tombstone(devices)
        experiences = [row["experience_id"] for row in await connection.fetch(sql["list_player_progress"], user_id)]
        keys, hot_devices = await hot.purge_player(user_id, experiences, fence_ahead_s=3600.0)
        await hot.forget_scores(user_id, experiences)
        if not devices.issuperset(hot_devices):
            await put_tombstone(devices | set(hot_devices))
        async with connection.transaction():
            await connection.execute(sql["lock_player"], user_hash)
            progress = await connection.fetch(sql["lock_player_progress"], user_id)
            await connection.execute(sql["erase_rollups"], user_id)
            deleted = await connection.execute(sql["delete_player"], user_id)
            await connection.execute(sql["settle_tombstone"], user_hash)
        # Those that a hello made in the meantime included.
        experiences = sorted({*experiences, *(row["experience_id"] for row in progress)})
        more, _ = await hot.purge_player(user_id, experiences)
        await hot.forget_scores(user_id, experiences)
        return EraseReport(deleted != "DELETE 0", len(progress), keys + more)
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "erase_player", error or type(error).__name__) from error
    finally:
        connection.terminate()
