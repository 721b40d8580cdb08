"""What players feel while a store is away: no ack is ever faked, nothing is lost, everything heals by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from gateway.sessions import committer, node, opening
from persistence.embedded.child import Child
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.erase import erase_player
from persistence.progress_key import ProgressKey
from protocol.closes import CloseCode
from protocol.errors import ErrorCode
from tests.integration.gateway_rig import Bare, hello_frame, new_user, run_flusher, run_rig, update_frame
from tests.integration.test_gateway_sessions import read_events
from tests.servers import Servers
from tests.waiting import wait_until

pytestmark = pytest.mark.slow  # processes are killed and outages waited for


@asynccontextmanager
async def away(child: Child) -> AsyncIterator[None]:
    """
    The server is gone, and started again on what it had on disk. Postgres is stopped, not killed: in tests it does not
    wait for its disk, so that a kill would lose commits, which is another test.
    """
    if isinstance(child, EmbeddedPostgres):
        child.request_stop()
    else:
        child.kill()
    while child.poll() is None:  # noqa: ASYNC110 - a process that dies tells nobody
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        child.spawn()
        async with asyncio.timeout(30):
            while not child.check_ready():  # noqa: ASYNC110 - a server says that it is ready when it is asked
                await asyncio.sleep(0.02)


@asynccontextmanager
async def frozen(child: Child) -> AsyncIterator[None]:
    """The server answers nothing, and does later what it was asked meanwhile."""
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(child.pid, signal.SIGCONT)


async def ping(bare: Bare, at: int) -> tuple[float, dict[str, object]]:
    """(how long the pong took, the pong)"""
    started = time.monotonic()
    await bare.send({"t": "ping", "at": at})
    pong = await bare.wait_for("pong", when=lambda frame: frame["at"] == at)
    return time.monotonic() - started, pong


async def test_while_redis_is_dead_nothing_is_acknowledged_and_afterwards_everything_once(
    servers: Servers, redis_url: str, database_url: str
) -> None:
    user_id = new_user()
    async with run_rig(redis_url, database_url) as rig, rig.player(user_id) as bare:
        await bare.accept(1)
        async with away(servers.valkey):
            for seq in (2, 3, 4):
                await bare.update(seq)
            for at in (1, 2):
                took_s, pong = await ping(bare, at)
                assert took_s < 1.0 and "saved" not in pong
            async with rig.bare() as late:
                await late.send(hello_frame(new_user()))
                bye = await late.expect("bye")
                assert bye["code"] == CloseCode.UNAVAILABLE and bye["retry_after_ms"] >= 1000
        ack = await bare.wait_for("ack", when=lambda frame: frame["seq"] == 4)
        assert ack["seq"] == 4
        async with run_flusher(redis_url, database_url):
            await bare.wait_saved(4)
    assert [row["seq"] for row in await read_events(database_url, user_id)] == [1, 2, 3, 4]


async def test_while_redis_is_frozen_pings_are_answered_and_what_it_took_late_counts_once(
    servers: Servers, redis_url: str, database_url: str
) -> None:
    """The call is sent again although the first one is still waiting in Redis: both are done, one has an effect."""
    user_id = new_user()
    async with run_rig(redis_url, database_url) as rig, rig.player(user_id) as bare:
        await bare.accept(1)
        async with frozen(servers.valkey):
            await bare.update(2, effects=[{"op": "incr", "path": "score", "value": 1}])
            started = time.monotonic()
            while time.monotonic() - started < 2.5:
                took_s, pong = await ping(bare, round(time.monotonic() * 1000))
                assert took_s < 1.0 and "saved" not in pong
        await bare.wait_for("ack", when=lambda frame: frame["seq"] == 2)
        await bare.accept(3)
        await bare.send({"t": "query", "id": "q", "of": "state"})
        assert (await bare.wait_for("result"))["data"]["state"]["score"] == 1
        async with run_flusher(redis_url, database_url):
            await bare.wait_saved(3)
    assert [row["seq"] for row in await read_events(database_url, user_id)] == [1, 2, 3]


async def test_an_outage_that_lasts_sends_players_with_updates_away(
    servers: Servers, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "OUTAGE_DEADLINE_S", 0.5)
    async with run_rig(redis_url, database_url) as rig, rig.player() as bare, rig.player() as idle:
        async with away(servers.valkey):
            await bare.update(1)
            bye = await bare.wait_for("bye")
            assert bye["code"] == CloseCode.UNAVAILABLE and bye["retry_after_ms"] >= 1000
            assert await bare.close_code() == CloseCode.UNAVAILABLE

            async def says_so() -> bool:
                readiness = rig.node.health.judge()
                return not readiness.is_ready and any("redis" in reason for reason in readiness.reasons)

            await wait_until("the node says that redis is away", says_so)
        assert (await idle.accept(1))["seq"] == 1


async def test_while_postgres_is_away_warm_players_play_on_and_cold_ones_are_told_to_come_back(
    servers: Servers, redis_url: str, database_url: str
) -> None:
    user_id = new_user()
    async with (
        run_rig(redis_url, database_url) as rig,
        rig.player(user_id) as bare,
        run_flusher(redis_url, database_url),
    ):
        async with away(servers.postgres):
            for seq in range(1, 20):
                assert (await bare.accept(seq))["seq"] == seq
            async with rig.bare() as again:
                welcome = await again.hello(user_id=user_id, resume=bare.resume())
                assert welcome["resumed"] is True and welcome["seq"]["accepted"] == 19
                assert (await again.accept(20))["seq"] == 20
            async with rig.bare() as cold:
                await cold.send(hello_frame(new_user()))
                bye = await cold.expect("bye")
                assert bye["code"] == CloseCode.UNAVAILABLE and bye["retry_after_ms"] >= 1000
        async with rig.bare() as back:
            await back.hello(user_id=user_id, made=20)
            await back.wait_saved(20)
        async with rig.player() as cold:
            assert (await cold.accept(1))["seq"] == 1
    assert [row["seq"] for row in await read_events(database_url, user_id)] == list(range(1, 21))


async def test_a_crowd_of_new_players_waits_for_its_rows_without_a_task_for_each_and_warm_ones_pass(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that waited kept its whole flow, and a crowd left twice the memory behind that its sessions take."""
    monkeypatch.setattr(node, "MAKINGS_WIDTH", 2)
    monkeypatch.setattr(node, "READINGS_WIDTH", 3)
    monkeypatch.setattr(node, "LOOKS_WIDTH", 1)
    user_id, count = new_user(), 12
    async with run_rig(redis_url, database_url) as rig, rig.player(user_id) as warm, AsyncExitStack() as stack:
        may_make, asked_for = asyncio.Event(), set()
        open_progress = rig.cold.open_progress

        async def open_slowly(key: ProgressKey, *more: Any) -> Any:
            asked_for.add(key.user_id)
            await may_make.wait()
            return await open_progress(key, *more)

        monkeypatch.setattr(rig.cold, "open_progress", open_slowly)
        crowd = [await stack.enter_async_context(rig.bare()) for _ in range(count)]
        users = [new_user() for _ in crowd]
        for user, bare in zip(users, crowd, strict=True):
            await bare.send(hello_frame(user))

        async def all_but_two_wait() -> bool:
            return rig.node.makings.waiting == count - 2

        await wait_until("all but two wait", all_but_two_wait)
        assert sum(task.get_name() == "hello" for task in asyncio.all_tasks()) == 2
        async with rig.bare() as again:
            assert (await again.hello(user_id=user_id, resume=warm.resume()))["resumed"] is True
        gone = [number for number in range(count) if users[number] not in asked_for][-1]
        crowd[gone].abort()

        async def has_gone() -> bool:
            return len(rig.node.connections) == count

        await wait_until("one has gone", has_gone)
        may_make.set()
        for number, bare in enumerate(crowd):
            if number != gone:
                await bare.expect("welcome")
        assert users[gone] not in asked_for and len(asked_for) == count - 1
        assert rig.node.makings.waiting == 0
        assert (await crowd[gone - 1].accept(1))["seq"] == 1


async def test_who_waits_too_long_for_its_rows_is_told_to_come_back_whoever_is_before_it(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "MAKINGS_WIDTH", 1)
    async with run_rig(redis_url, database_url) as rig, rig.bare() as first, rig.bare() as second:
        asked, may_make = asyncio.Event(), asyncio.Event()
        open_progress = rig.cold.open_progress

        async def open_slowly(*question: Any) -> Any:
            asked.set()
            await may_make.wait()
            return await open_progress(*question)

        monkeypatch.setattr(rig.cold, "open_progress", open_slowly)
        await first.send(hello_frame(new_user()))
        async with asyncio.timeout(5):
            await asked.wait()
        monkeypatch.setattr(opening, "OPEN_DEADLINE_S", 0.5)
        await second.send(hello_frame(new_user()))
        bye = await second.expect("bye")
        assert bye["code"] == CloseCode.UNAVAILABLE and bye["retry_after_ms"] >= 1000
        may_make.set()
        await first.expect("welcome")


async def test_a_live_connection_outlasts_the_loss_of_redis_data_while_postgres_is_away(
    servers: Servers, redis_url: str, database_url: str
) -> None:
    """
    Both at once: the copy is gone and cannot be rebuilt yet. The connection waits; its client is told when it can go
    on.
    """
    async with run_rig(redis_url, database_url) as rig, rig.player() as bare:
        async with run_flusher(redis_url, database_url):
            await bare.accept(1)
            await bare.wait_saved(1)
        async with away(servers.postgres):
            client = redis_asyncio.Redis.from_url(redis_url)
            await client.flushall()
            await client.aclose()
            await bare.update(2)
            took_s, pong = await ping(bare, 77)
            assert took_s < 1.0 and "saved" not in pong
        resync = await bare.wait_for("resync")
        assert resync["seq"] == {"accepted": 1, "saved": 1}
        assert (await bare.accept(2))["seq"] == 2


async def test_a_full_redis_answers_202_and_goes_on_when_there_is_room(redis_url: str, database_url: str) -> None:
    client = redis_asyncio.Redis.from_url(redis_url)
    async with run_rig(redis_url, database_url) as rig, rig.player() as bare:
        await bare.accept(1)
        try:
            await client.config_set("maxmemory", "1")
            for seq in (2, 3, 4):
                await bare.update(seq)
            error = await bare.wait_for("error")
            assert error["code"] == ErrorCode.OVERLOADED and error["seq"] == 2 and error["retry_after_ms"] >= 1000
            took_s, _ = await ping(bare, 5)
            assert took_s < 1.0
        finally:
            await client.config_set("maxmemory", "0")
            await client.aclose()
        await bare.send({"t": "batch", "updates": [update_frame(seq) for seq in (2, 3, 4)]})
        await bare.wait_for("ack", when=lambda frame: frame["seq"] == 4)


async def test_past_the_high_water_mark_those_who_are_in_go_on_and_new_ones_are_told_to_come_back(
    redis_url: str, database_url: str
) -> None:
    async with run_rig(redis_url, database_url) as rig, rig.player() as bare, rig.bare() as newcomer:
        rig.node.health.redis_share = 0.9
        await newcomer.send(hello_frame(new_user()))
        bye = await newcomer.expect("bye")
        assert bye["code"] == CloseCode.OVERLOADED and bye["retry_after_ms"] >= 1000
        assert await newcomer.close_code() == CloseCode.OVERLOADED
        assert (await bare.accept(1))["seq"] == 1
        async with rig.bare() as back:
            await back.send(hello_frame(resume=bare.resume()))
            assert (await back.expect("welcome"))["resumed"]


async def test_past_the_cap_of_connections_a_hello_is_told_to_come_back(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url, connections_max=1) as rig, rig.player() as bare, rig.bare() as second:
        await second.send(hello_frame(new_user()))
        assert (await second.expect("bye"))["code"] == CloseCode.OVERLOADED
        assert (await bare.accept(1))["seq"] == 1


async def test_an_erased_player_is_sent_away_for_ever(redis_url: str, database_url: str) -> None:
    user_id = new_user()
    async with run_rig(redis_url, database_url) as rig, run_flusher(redis_url, database_url):
        async with rig.player(user_id) as bare:
            await bare.accept(1)
            await bare.wait_saved(1)
            await erase_player(rig.hot, database_url, user_id)
            assert await bare.close_code() == CloseCode.PLAYER_DELETED
        async with rig.bare() as again:
            await again.send(hello_frame(user_id))
            assert (await again.expect("bye"))["code"] == CloseCode.PLAYER_DELETED
            assert await again.close_code() == CloseCode.PLAYER_DELETED
        async with rig.bare() as resumed:
            await resumed.send(hello_frame(resume=bare.resume()))
            assert await resumed.close_code() in (CloseCode.UNAUTHENTICATED, CloseCode.PLAYER_DELETED)


async def test_a_script_cache_that_was_emptied_costs_nothing(redis_url: str, database_url: str) -> None:
    client = redis_asyncio.Redis.from_url(redis_url)
    async with run_rig(redis_url, database_url) as rig, rig.player() as bare:
        for seq in range(1, 6):
            await client.script_flush()
            assert (await bare.accept(seq))["seq"] == seq
    await client.aclose()
