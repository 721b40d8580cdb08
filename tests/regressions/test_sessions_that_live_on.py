"""Sessions that ended under a living connection, or could not end at all."""

from __future__ import annotations

import asyncio

import asyncpg
import redis.asyncio as redis_asyncio

from gateway.sessions.expiry import ExpirySweeper
from persistence.hot.keys import HotKeys, beats_key
from persistence.progress_key import ProgressKey
from tests.integration.gateway_rig import EXPERIENCE, hello_frame, new_user, run_flusher, run_rig


async def test_session_whose_progress_is_in_no_store_keeps_nobody_out(redis_url: str, database_url: str) -> None:
    """
    Postgres was restored to a time before a progress existed, and its hot copy was dropped; the session stayed. It
    could neither be switched nor expire, so every hello for another experience was told 4005 for ever.
    """
    async with run_rig(redis_url, database_url) as rig:
        async with rig.player(user_id := new_user()) as bare:
            await bare.accept(1)
        database = await asyncpg.connect(database_url)
        await database.execute("DELETE FROM users")
        await database.close()
        key, names = ProgressKey(user_id, EXPERIENCE), HotKeys()
        async with redis_asyncio.Redis.from_url(redis_url) as client:
            await client.delete(names.progress(key), names.pending(key))
        async with rig.bare() as again:
            await again.send(hello_frame(user_id, experience="elsewhere"))
            assert (await again.receive())["t"] == "welcome"


async def test_session_whose_progress_is_in_no_store_expires(redis_url: str, database_url: str) -> None:
    """
    The same session was met by every sweep and ended by none. Two hundred of them would have kept all others from being
    looked at.
    """
    async with run_rig(redis_url, database_url, heartbeat_s=0.2, session_expiry_s=1) as rig:
        async with rig.player(user_id := new_user()) as bare:
            await bare.accept(1)
        database = await asyncpg.connect(database_url)
        await database.execute("DELETE FROM users")
        await database.close()
        key, names = ProgressKey(user_id, EXPERIENCE), HotKeys()
        async with redis_asyncio.Redis.from_url(redis_url) as client:
            await client.delete(names.progress(key), names.pending(key))
        async with asyncio.timeout(8):
            while await rig.hot.find_session(user_id) is not None:
                pass


async def test_hello_after_a_redis_that_forgot_and_has_an_older_clock_is_welcomed(
    redis_url: str, database_url: str
) -> None:
    """
    The numbers of connections are told by the clock of Redis, and a replica's may be behind. A client that came back
    after such a failover got a lower number than its own dead socket on the same node, and was told 4201: stay away.
    """
    async with run_rig(redis_url, database_url) as rig, rig.player(user_id := new_user()) as dead:
        rig.node.players[user_id].number += 3_600_000
        async with redis_asyncio.Redis.from_url(redis_url) as client:
            await client.flushall()
        async with rig.bare() as again:
            await again.send(hello_frame(user_id))
            assert (await again.receive())["t"] == "welcome"
        assert await dead.close_code() == 4201


async def test_session_of_a_client_that_only_asks_does_not_expire(redis_url: str, database_url: str) -> None:
    """
    Any frame keeps a session alive, but only updates and pings reached the store that knows when it was last used. A
    client that did nothing but ask lost its session to the sweeper of another node.
    """
    async with (
        run_rig(redis_url, database_url, heartbeat_s=0.4, session_expiry_s=2) as here,
        run_rig(redis_url, database_url, heartbeat_s=0.4, session_expiry_s=2),
        here.player() as bare,
    ):
        for number in range(15):
            await bare.send({"t": "query", "id": str(number), "of": "inventory"})
            await bare.expect("result")
            await asyncio.sleep(0.25)
        await bare.accept(1)


async def test_session_that_redis_just_lost_is_not_closed_before_it_can_come_back(
    redis_url: str, database_url: str
) -> None:
    """
    The sweep for lost sessions closed every one that was long enough open and not in Redis. After a loss of Redis it
    was quicker than the next heartbeat, and players in the middle of a long session were told 4007 instead of resync.
    """
    async with (
        run_rig(redis_url, database_url, heartbeat_s=0.5) as here,
        run_rig(redis_url, database_url, heartbeat_s=0.5) as there,
        run_flusher(redis_url, database_url),
        here.player() as bare,
    ):
        await bare.accept(1)
        await bare.wait_saved(1)
        database = await asyncpg.connect(database_url)
        await database.execute("UPDATE player_sessions SET started_at = now() - interval '2 hours'")
        async with redis_asyncio.Redis.from_url(redis_url) as client:
            await client.flushall()
        sweeper = ExpirySweeper(there.node)
        assert await sweeper.sweep_lost() == 0
        await bare.send({"t": "ping", "at": 1})
        await bare.wait_for("resync")
        bare.abort()
        async with redis_asyncio.Redis.from_url(redis_url) as client:
            await client.flushall()
        assert await sweeper.sweep_lost() == 0
        await asyncio.sleep(there.node.rules.silence_s)
        assert await sweeper.sweep_lost() == 1
        assert await database.fetchval("SELECT end_reason FROM player_sessions") == "lost"
        await database.close()


async def test_session_of_a_suspended_client_survives_a_redis_that_forgot(redis_url: str, database_url: str) -> None:
    """
    A client in the background sends no heartbeats, so nobody noticed that Redis had lost its session. The sweep of
    another node closed it as lost although it had been promised to be kept; back from its pocket the player was told
    4007.
    """
    async with (
        run_rig(redis_url, database_url, heartbeat_s=0.5) as here,
        run_rig(redis_url, database_url, heartbeat_s=0.5) as there,
        run_flusher(redis_url, database_url),
        here.player(user_id := new_user()) as bare,
    ):
        await bare.accept(1)
        await bare.wait_saved(1)
        await bare.send({"t": "suspend", "expected_s": 600})
        await bare.wait_for("suspended")
        session = await here.hot.find_session(user_id)
        assert session is not None
        database = await asyncpg.connect(database_url)
        await database.execute("UPDATE player_sessions SET started_at = now() - interval '2 hours'")
        async with redis_asyncio.Redis.from_url(redis_url) as client:
            assert int(await client.get(beats_key(here.node.name)) or 0) >= 1
            await client.flushall()
        await bare.wait_for("resync")
        again = await here.hot.find_session(user_id)
        assert again is not None and again.id == session.id
        sweeper = ExpirySweeper(there.node)
        assert await sweeper.sweep_lost() == 0
        await asyncio.sleep(there.node.rules.silence_s)
        assert await sweeper.sweep_lost() == 0
        await bare.accept(2)
        await database.close()
