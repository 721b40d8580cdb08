"""Steps counted twice: a copy was told by an old read how far a stream had got."""

from __future__ import annotations

import redis.asyncio as redis_asyncio

from tests.stores.conftest import StorePlayer, Stores, stores  # noqa: F401

WAYPOINT = {"type": "waypoint_visited", "content_id": "6_bridge", "data": {"distance_traveled": 1.5}}


async def lose_redis_and_come_back_with_a_tablet(stores: Stores, phone: StorePlayer) -> None:  # noqa: F811
    """The phone's two steps are saved; then a copy is made that does not know the phone."""
    await phone.send(phone.make(WAYPOINT), phone.make(WAYPOINT))
    await stores.flush()
    async with redis_asyncio.Redis.from_url(stores.redis_url) as client:
        await client.flushall()
    await stores.player(user_id=phone.key.user_id, device="tablet").hello()


async def test_hydrate_from_before_a_flush_does_not_load_the_stream_into_a_later_copy(
    stores: Stores,  # noqa: F811
) -> None:
    """
    A hydrate that was read before two steps were saved came late, into a copy that another device had brought back
    after a loss of Redis. The copy was kept, but took the old number of the stream: the two steps would be taken again.
    """
    phone = stores.player()
    await phone.hello()
    started_ms = await stores.hot.time_ms()
    old = await stores.cold.open_progress(phone.key, phone.device)
    await lose_redis_and_come_back_with_a_tablet(stores, phone)
    is_there, thrown = await stores.hot.install(old, started_ms)
    assert (is_there, thrown) == (True, 0)
    progress = await stores.hot.find_progress(phone.key)
    assert progress is not None and phone.device not in progress.accepted


async def test_stream_is_loaded_only_into_the_copy_that_was_there_before_the_read(
    stores: Stores,  # noqa: F811
) -> None:
    """
    The same by the other way in: the number of one stream, read before its steps were saved, was put into whatever copy
    was there when the read came back. Now only into the copy, at the base, that was seen before the read.
    """
    phone = stores.player()
    seen = await phone.hello()
    started_ms = await stores.hot.time_ms()
    old = await stores.cold.find_device_seq(seen.row_id, phone.device)
    await lose_redis_and_come_back_with_a_tablet(stores, phone)
    assert not await stores.hot.install_device(phone.key, phone.device, old, seen, started_ms)
    now = await stores.hot.find_progress(phone.key)
    assert now is not None and phone.device not in now.accepted
    fresh = await stores.cold.find_device_seq(now.row_id, phone.device)
    assert await stores.hot.install_device(phone.key, phone.device, fresh, now, await stores.hot.time_ms())
    now = await stores.hot.find_progress(phone.key)
    assert now is not None and now.accepted[phone.device] == 2
