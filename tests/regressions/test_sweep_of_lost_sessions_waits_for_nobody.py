"""
The sweep that closes lost sessions locked their rows in no fixed order, and waited for rows that a flush held. Two
sweeps, or a sweep and a flush, could wait for each other until Postgres ended one of them.
"""

from __future__ import annotations

import asyncpg

from tests.stores.conftest import Stores, stores  # noqa: F401


async def test_row_that_a_flush_holds_is_left_to_the_next_sweep(stores: Stores) -> None:  # noqa: F811
    players = [stores.player() for _ in range(3)]
    for player in players:
        await player.hello()
    await stores.flush()
    ids = [player.session_id for player in players]
    flush = await asyncpg.connect(stores.database_url)
    try:
        async with flush.transaction():
            await flush.execute("SELECT 1 FROM player_sessions WHERE id = $1 FOR UPDATE", ids[1])
            assert sorted(await stores.cold.close_lost_sessions(ids)) == sorted([ids[0], ids[2]])
        assert await stores.cold.close_lost_sessions(ids) == [ids[1]]
    finally:
        flush.terminate()
    rows = await stores.fetch("SELECT end_reason FROM player_sessions")
    assert [row["end_reason"] for row in rows] == ["lost"] * 3
