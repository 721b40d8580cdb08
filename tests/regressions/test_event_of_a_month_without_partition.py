"""Flushes stopped for good because one event lay where a partition was to be made."""

from __future__ import annotations

from tests.stores.conftest import Stores, stores  # noqa: F401


async def test_event_in_the_default_partition_does_not_stop_the_flush(stores: Stores) -> None:  # noqa: F811
    """
    A gateway with a wrong clock had put an event two months ahead, into the default partition. When that month's
    partition was due Postgres refused to make it, and the flusher took that for a reason not to flush at all.
    """
    player = stores.player()
    await player.hello()
    await stores.flush()
    month = "to_char(now() + interval '1 month', 'YYYY_MM')"
    name = (await stores.fetch(f"SELECT 'player_progress_events_' || {month} AS name"))[0]["name"]
    await stores.fetch(f"DROP TABLE {name}")
    await stores.fetch(
        'INSERT INTO player_progress_events (id, experience_progress_id, event_type, "timestamp", device_id, seq, '
        "version, received_at) SELECT gen_random_uuid(), id, 'x', now() + interval '1 month', 'tablet', 1, 1000, now() "
        "FROM experience_progress"
    )
    await player.send(player.make({"type": "item_collected", "content_id": "lamp"}))
    await stores.flush()
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events WHERE device_id = 'phone'")) == 1
