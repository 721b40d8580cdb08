"""A client dropped its journal because `left` said that everything was saved, which was not so."""

from __future__ import annotations

import asyncio

import redis.asyncio as redis_asyncio

from tests.integration.gateway_rig import new_user, run_flusher, run_rig


async def test_leave_on_a_redis_that_was_rolled_back_is_not_saved(redis_url: str, database_url: str) -> None:
    """
    Redis came back as it was before two accepted updates, and the client left before any heartbeat noticed. The end of
    the session was saved, so `left` said that everything was, and the client let go of the two.
    """
    async with run_rig(redis_url, database_url) as rig, rig.player(user_id := new_user()) as bare:
        await bare.accept(1)
        async with redis_asyncio.Redis.from_url(redis_url) as client:
            names = [name async for name in client.scan_iter(f"*{user_id}*")]
            old = {name: await client.dump(name) or b"" for name in names}
            await bare.accept(2)
            await bare.accept(3)
            for name, value in old.items():
                await client.delete(name)
                await client.restore(name, 0, value)
        await bare.send({"t": "leave"})
        async with run_flusher(redis_url, database_url):
            left = await bare.wait_for("left")
    assert left["saved"] is False


async def test_leave_whose_end_is_lost_is_not_saved_by_others(redis_url: str, database_url: str) -> None:
    """
    Redis lost everything after a leave and before the flush; another device of the player went on in a new copy. Once
    that had as many entries as the old one, `left` told the first device that its lost steps were saved.
    """
    async with (
        run_rig(redis_url, database_url) as here,
        run_rig(redis_url, database_url) as there,
        here.player(user_id := new_user()) as bare,
    ):
        for seq in (1, 2, 3):
            await bare.accept(seq)
        await bare.send({"t": "leave"})
        async with asyncio.timeout(5):
            while await here.hot.find_session(user_id) is not None:
                pass
        async with redis_asyncio.Redis.from_url(redis_url) as client:
            await client.flushall()
        async with there.player(user_id, device="tablet") as other:
            for seq in range(1, 9):
                await other.accept(seq)
            async with run_flusher(redis_url, database_url):
                await other.wait_saved(8)
                left = await bare.wait_for("left")
    assert left["saved"] is False


async def test_leave_is_saved_once_postgres_has_all_steps(redis_url: str, database_url: str) -> None:
    """
    The other side of the same condition: nothing was lost, so `left` says so, with updates and without. A leave that
    waited for a number that never comes would make every client wait for its deadline.
    """
    async with (
        run_rig(redis_url, database_url) as rig,
        run_flusher(redis_url, database_url),
        rig.player() as bare,
        rig.player() as idle,
    ):
        for seq in (1, 2, 3):
            await bare.accept(seq)
        for one in (bare, idle):
            await one.send({"t": "leave"})
            assert (await one.wait_for("left"))["saved"] is True
