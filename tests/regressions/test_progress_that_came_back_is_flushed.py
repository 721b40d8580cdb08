"""Steps waited in Redis although Postgres was there: nobody knew that they were due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from persistence.hot.store import Settlement, SettleOutcome, Snapshot
from persistence.progress_key import ProgressKey
from tests.stores.conftest import Stores, stores  # noqa: F401


async def test_progress_that_comes_back_during_a_flush_stays_dirty(
    stores: Stores,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Redis lost its data between a claim and its snapshot, and the player's copy was back before that flush ended. The
    flush then took the progress, which it had seen without a copy, out of `dirty`: its new steps waited for the end of
    the session.
    """
    player = stores.player()
    await player.hello()
    await player.send(player.make({"type": "item_collected", "content_id": "lamp"}))
    snapshot, settle = stores.hot.snapshot, stores.hot.settle

    async def snapshot_after_a_loss(claimed: Sequence[ProgressKey]) -> list[Snapshot]:
        async with redis_asyncio.Redis.from_url(stores.redis_url) as client:
            await client.flushall()
        return await snapshot(claimed)

    async def settle_after_a_return(written: Sequence[Settlement]) -> Any:
        player.seq = 0
        await player.hello()
        await player.send(player.make({"type": "item_collected", "content_id": "lamp"}))
        settled: list[SettleOutcome] = await settle(written)
        return settled

    with monkeypatch.context() as patched:
        patched.setattr(stores.hot, "snapshot", snapshot_after_a_loss)
        patched.setattr(stores.hot, "settle", settle_after_a_return)
        await stores.flush()
    assert await stores.flush() == 1
    rows = await stores.fetch("SELECT seq FROM player_progress_events")
    assert [row["seq"] for row in rows] == [1]
