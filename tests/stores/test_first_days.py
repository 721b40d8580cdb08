"""Each day of a player knows the player's first day, and is written once."""

from __future__ import annotations

import asyncpg

from tests.stores.conftest import Stores

DAY_MS = 86_400_000
NOON_MS = 1_700_000_000_000 // DAY_MS * DAY_MS + DAY_MS // 2


async def test_a_new_day_is_written_with_the_first_one_and_not_again(stores: Stores) -> None:
    """The trigger that fills `first_day` in used to write every new day a second time: a dead row for each."""
    player = stores.player()
    await player.hello()
    for day in (3, 5):
        visit = {"type": "waypoint_visited", "content_id": "gate"}
        await player.send(*(player.make(visit, at_ms=NOON_MS + day * DAY_MS + step) for step in range(2)))
        await stores.flush()
    assert await first_days(stores) == [0, 0]
    connection = await asyncpg.connect(stores.database_url)
    try:
        seen = await connection.fetch("SELECT ctid::text, first_day, xmax::text FROM player_days ORDER BY day")
        assert [row["xmax"] for row in seen] == ["0", "0"]
        assert [row["ctid"] for row in seen] == ["(0,1)", "(0,2)"]
    finally:
        await connection.close()
    # What comes late makes the days after it learn of an earlier first one.
    await player.send(player.make({"type": "waypoint_visited", "content_id": "gate"}, at_ms=NOON_MS + 4 * DAY_MS))
    await player.send(player.make({"type": "waypoint_visited", "content_id": "gate"}, at_ms=NOON_MS + 2 * DAY_MS))
    await stores.flush()
    assert await first_days(stores) == [0, 0, 0, 0]
    await stores.fetch("SELECT rebuild_rollups()")
    assert await first_days(stores) == [0, 0, 0, 0]


async def first_days(stores: Stores) -> list[int]:
    """How many days `first_day` of each day lies from the first one there is."""
    rows = await stores.fetch("SELECT first_day - min(day) OVER () AS off FROM player_days ORDER BY day")
    return [row["off"] for row in rows]
