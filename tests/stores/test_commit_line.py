"""The connection that updates are committed through: sent once, answered or failed, made again."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis.asyncio as redis_asyncio

from persistence.errors import StoreFull, StoreUnavailable
from persistence.hot.commit_line import CommitLine
from tests.faults.proxy import Proxy
from tests.waiting import wait_until

ECHO = "return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}"
TIMEOUT_S = 1.0


@asynccontextmanager
async def open_line(redis_url: str, script: str = ECHO, timeout_s: float = TIMEOUT_S) -> AsyncIterator[CommitLine]:
    pool = redis_asyncio.ConnectionPool.from_url(redis_url, protocol=2, socket_timeout=1.0)
    line = CommitLine(pool, "test", script, timeout_s)
    try:
        yield line
    finally:
        await line.close()
        await pool.disconnect()


@asynccontextmanager
async def open_proxy(redis_url: str) -> AsyncIterator[tuple[Proxy, str]]:
    path = Path(unquote(urlsplit(redis_url).path))
    with tempfile.TemporaryDirectory(prefix="wh-line-", dir="/tmp") as folder:
        proxy = Proxy("valkey", lambda: path)
        await proxy.listen_unix(Path(folder) / "v.sock")
        try:
            yield proxy, f"unix://{folder}/v.sock?db=0"
        finally:
            await proxy.close()


async def count_calls(redis_url: str, key: str) -> int:
    async with redis_asyncio.Redis.from_url(redis_url) as client:
        return int(await client.get(key) or 0)


async def test_answers_come_in_the_order_of_the_calls_whatever_their_size(redis_url: str) -> None:
    async with open_line(redis_url) as line:
        sizes = [0, 1, 100_000, 3, 200_000, 7]
        answers = await asyncio.gather(*(line.call(f"key-{n}", b"x" * size) for n, size in enumerate(sizes)))
    assert answers == [[f"key-{n}".encode(), b"x" * size, 1] for n, size in enumerate(sizes)]


async def test_a_script_that_was_forgotten_is_loaded_again_and_runs_once(redis_url: str) -> None:
    async with open_line(redis_url) as line, redis_asyncio.Redis.from_url(redis_url) as client:
        assert (await line.call("key", b"a"))[2] == 1
        await client.script_flush()
        assert (await line.call("key", b"a"))[2] == 2


async def test_it_speaks_to_the_database_of_the_url(redis_url: str) -> None:
    other = redis_url.replace("db=0", "db=1")
    async with open_line(other) as line:
        await line.call("key", b"")
    assert await count_calls(other, "key") == 1 and await count_calls(redis_url, "key") == 0


async def test_all_who_wait_fail_when_the_connection_is_cut_and_the_next_call_makes_another(redis_url: str) -> None:
    async with open_proxy(redis_url) as (proxy, url), open_line(url) as line:
        await line.call("key", b"")
        proxy.hang("down")
        waiting = [asyncio.create_task(line.call("key", b"")) for _ in range(3)]

        async def have_arrived() -> bool:
            return await count_calls(redis_url, "key") == 4

        await wait_until("the calls have arrived", have_arrived)
        proxy.cut()
        for call in waiting:
            with pytest.raises(StoreUnavailable):
                await call
        proxy.heal()
        assert (await line.call("key", b""))[2] == 5


async def test_a_reply_that_does_not_come_is_given_up_in_time_and_nothing_is_sent_twice(redis_url: str) -> None:
    async with open_proxy(redis_url) as (proxy, url), open_line(url, timeout_s=0.3) as line:
        await line.call("key", b"")
        proxy.drop("down")
        connections, began = proxy.connections_made, time.monotonic()
        with pytest.raises(StoreUnavailable, match="no reply within"):
            await line.call("key", b"")
        assert time.monotonic() - began < 2.0
        assert proxy.connections_made == connections
        proxy.heal()
        await line.call("key", b"")
    assert await count_calls(redis_url, "key") == 3


async def test_a_server_that_is_away_is_told_and_found_again(redis_url: str) -> None:
    async with open_proxy(redis_url) as (proxy, url), open_line(url) as line:
        proxy.is_refusing = True
        with pytest.raises(StoreUnavailable):
            await line.call("key", b"")
        proxy.is_refusing = False
        assert (await line.call("key", b""))[2] == 1


async def test_an_error_of_the_script_costs_nobody_the_connection(redis_url: str) -> None:
    script = "if ARGV[1] == 'bad' then error('broken') end return 1"
    async with open_proxy(redis_url) as (proxy, url), open_line(url, script) as line:
        answers = await asyncio.gather(*(line.call("key", arg) for arg in (b"a", b"bad", b"c")), return_exceptions=True)
        assert [type(answer) for answer in answers] == [int, StoreUnavailable, int]
        assert "broken" in str(answers[1]) and proxy.connections_made == 1


async def test_a_full_redis_is_told_apart(redis_url: str) -> None:
    async with redis_asyncio.Redis.from_url(redis_url) as client:
        await client.config_set("maxmemory", 1)
        try:
            async with open_line(redis_url) as line:
                with pytest.raises(StoreFull):
                    await line.call("key", b"")
        finally:
            await client.config_set("maxmemory", 0)


async def test_a_call_that_is_cancelled_leaves_the_answers_of_others_where_they_belong(redis_url: str) -> None:
    async with open_line(redis_url) as line:
        await line.call("first", b"")
        cancelled = asyncio.create_task(line.call("cancelled", b""))
        kept = asyncio.create_task(line.call("kept", b""))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert (await kept)[0] == b"kept"
        assert cancelled.cancelled() or cancelled.cancelling()


async def test_an_answer_that_is_none_ends_the_connection_and_only_that(redis_url: str) -> None:
    async def answer_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    with tempfile.TemporaryDirectory(prefix="wh-line-", dir="/tmp") as folder:
        server = await asyncio.start_unix_server(answer_nonsense, f"{folder}/v.sock")
        async with server, open_line(f"unix://{folder}/v.sock?db=0") as line:
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await line.call("key", b"")
