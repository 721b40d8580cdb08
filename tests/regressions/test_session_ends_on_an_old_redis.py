"""Ends of sessions that an old Redis, or a copy just hydrated, got wrong."""

from __future__ import annotations

import redis.asyncio as redis_asyncio

from persistence.hot.keys import HotKeys
from persistence.hot.shapes import EndSession, Outcome
from tests.stores.conftest import Stores, stores  # noqa: F401


async def test_leave_is_fenced_by_a_higher_number_alone(stores: Stores) -> None:  # noqa: F811
    """
    A Redis that was rolled back remembers a lower connection number for the session. A leave took any other number for
    a takeover: its client was told 4201 and stayed away.
    """
    player = stores.player()
    await player.hello()
    for number, outcome in ((player.connection + 1, Outcome.FENCED), (player.connection - 1, Outcome.OK)):
        async with redis_asyncio.Redis.from_url(stores.redis_url) as client:
            await client.hset(HotKeys().session(player.key.user_id), "connection", str(number))
        entry = player.session_entry(1, 2, "left")
        ended = await stores.hot.end_session(
            EndSession(player.key, player.session_id, entry, connection=player.connection)
        )
        assert ended.outcome is outcome


async def test_end_of_a_session_keeps_a_hydrated_copy_until_it_is_flushed(stores: Stores) -> None:  # noqa: F811
    """
    A copy that was hydrated only to end its session kept the hour it lives unused. With Postgres away for longer it
    would go, and the end with it.
    """
    player = stores.player()
    await player.hello()
    await stores.flush()
    progress = HotKeys().progress(player.key)
    async with redis_asyncio.Redis.from_url(stores.redis_url) as client:
        await client.delete(progress)
        await player.hydrate()
        await player.leave()
        assert await client.ttl(progress) == -1
        await stores.flush()
        assert await client.ttl(progress) > 0
