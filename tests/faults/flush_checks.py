"""Checks of the flush, and of calls that get no answer."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from persistence.errors import PersistenceError
from persistence.hot.store import HotStore
from tests.faults.guard_check import REST_S, Found, Ground, check, count_rows, send
from tests.faults.proxy import Proxy
from tests.integration.gateway_rig import run_rig
from tests.waiting import wait_until


class Died(BaseException):
    """The process is gone."""


@check
async def death_before_the_commit(at: Ground) -> Found:
    async with at.stores() as stores:
        phone = stores.player()
        await phone.hello()
        await send(phone, 1)

        def die(step: str) -> None:
            if step == "written":
                raise Died

        dying = stores.flusher(at_step=die)
        with suppress(Died):
            await dying.flush_due(ahead_s=3600.0)
        await stores.flush()
        return await count_rows(at, 1)


@check
async def whole_backlog(at: Ground) -> Found:
    """Several entries are pending and all are written."""
    async with at.stores() as stores:
        phone = stores.player()
        await phone.hello()
        for number in range(8):
            await send(phone, number)
        await stores.flush()
        return await count_rows(at, 8)


@check
async def backlog_that_waits(at: Ground) -> Found:
    """Postgres is away for a while: what is pending stays."""
    async with at.stores() as stores:
        phone = stores.player()
        await phone.hello()
        for number in range(3):
            await send(phone, number)
        await asyncio.sleep(1.5)
        with suppress(PersistenceError, ValueError, AssertionError):
            await stores.flush()
        return await count_rows(at, 3)


@asynccontextmanager
async def _through_proxy(at: Ground) -> AsyncIterator[tuple[Proxy, str]]:
    """Redis through a link of ours."""
    path = Path(unquote(urlsplit(at.redis_url).path))
    with tempfile.TemporaryDirectory(prefix="wh-guard-", dir="/tmp") as folder:
        proxy = Proxy("valkey", lambda: path)
        await proxy.listen_unix(Path(folder) / "v.sock")
        try:
            yield proxy, f"unix://{folder}/v.sock?db=0"
        finally:
            await proxy.close()


@check
async def reply_that_never_comes(at: Ground) -> Found:
    """A call whose reply is lost is sent once, and given up after a second."""
    async with _through_proxy(at) as (proxy, redis_url):
        hot = await HotStore.open(redis_url)
        try:
            # Through the client library, unlike what updates and hellos ask.
            await hot.beat("check")
            proxy.drop("down")
            began = time.monotonic()
            connections = proxy.connections_made
            with suppress(PersistenceError):
                await hot.beat("check")
            waited_s = time.monotonic() - began
            return +Counter(repeated_calls=proxy.connections_made - connections, late=int(waited_s > 1.8))
        finally:
            proxy.heal()
            await hot.close()


@check
async def ack_while_redis_hangs(at: Ground) -> Found:
    """Nothing is acknowledged that Redis has not confirmed."""
    async with (
        _through_proxy(at) as (proxy, redis_url),
        run_rig(redis_url, at.database_url) as rig,
        rig.player() as bare,
    ):
        await bare.accept(1)

        async def is_quiet() -> bool:
            return all(connection.in_flight == 0 for connection in rig.node.connections)

        await wait_until("nothing is under way", is_quiet, REST_S)
        proxy.hang("up")
        await bare.update(2)
        acked = 1
        with suppress(TimeoutError):
            async with asyncio.timeout(0.8):
                while acked < 2:
                    frame = await bare.receive()
                    acked = max(acked, frame["seq"] if frame["t"] == "ack" else 0)
        return +Counter(lost=int(acked >= 2))
