"""A player was put aside because Postgres had died at the wrong instant."""

from __future__ import annotations

import asyncpg
import pytest

from tests.stores.conftest import Stores, stores  # noqa: F401


async def test_connection_that_broke_between_two_states_quarantines_nobody(stores: Stores) -> None:  # noqa: F811
    """
    When a backend is killed while asyncpg is between two states it raises InternalClientError, which belongs to none of
    its other trees. The flusher took that for a fault of the progress in hand and put it in quarantine: its player was
    answered 201 until an operator came.
    """
    player = stores.player()
    await player.hello()
    await player.send(player.make({"type": "item_collected", "content_id": "lamp"}))

    def break_connection(step: str) -> None:
        if step == "snapshot_taken":
            raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")

    breaking = stores.flusher(at_step=break_connection)
    for _ in range(2):
        with pytest.raises(asyncpg.InternalClientError):
            await breaking.flush_due(ahead_s=3600.0)
    assert await stores.hot.list_quarantined() == []
    await stores.flush()
    rows = await stores.fetch("SELECT seq FROM player_progress_events")
    assert [row["seq"] for row in rows] == [1]
