"""The line that questions go through: what one asks together is answered together, or fails once."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from persistence.errors import StoreUnavailable
from persistence.hot.ask_line import AskLine
from tests.stores.test_commit_line import open_proxy
from tests.waiting import wait_until


async def test_questions_that_leave_together_are_answered_in_their_order(redis_url: str) -> None:
    pool = redis_asyncio.ConnectionPool.from_url(redis_url, protocol=2)
    line = AskLine(pool, 1.0)
    asked = [line.ask_all("test", ("SET", f"k{n}", "x" * n), ("GET", f"k{n}"), ("STRLEN", f"k{n}")) for n in range(50)]
    assert await asyncio.gather(*asked) == [[b"OK", b"x" * n, n] for n in range(50)]
    await line.close()
    await pool.disconnect()


async def test_a_cut_or_a_cancel_in_the_middle_is_told_once_and_leaves_no_error_that_nobody_took(
    redis_url: str,
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with open_proxy(redis_url) as (proxy, url):
        pool = redis_asyncio.ConnectionPool.from_url(url, protocol=2)
        line = AskLine(pool, 1.0)
        assert await line.ask_all("test", ("INCR", "asked"), ("GET", "asked")) == [1, b"1"]

        proxy.hang("down")
        gone = asyncio.create_task(line.ask_all("test", ("INCR", "asked"), ("GET", "asked")))
        cut = asyncio.create_task(line.ask_all("test", ("INCR", "asked"), ("GET", "asked"), ("GET", "asked")))

        async def have_arrived() -> bool:
            async with redis_asyncio.Redis.from_url(redis_url) as client:
                return await client.get("asked") == b"3"

        await wait_until("the questions have arrived", have_arrived)
        gone.cancel()
        proxy.cut()
        with pytest.raises(StoreUnavailable):
            await cut
        with pytest.raises(asyncio.CancelledError):
            await gone
        proxy.heal()
        assert await line.ask("test", "GET", "asked") == b"3"
        await line.close()
        await pool.disconnect()
    del gone, cut
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
