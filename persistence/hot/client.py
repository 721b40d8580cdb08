"""
What all calls to Redis have in common: connections, scripts, deadlines, and what is raised when there is no answer.

Promise: a call either answers or raises within `DEADLINE_S`, and is sent once. We never let the client library repeat a
write: whether a call that got no answer took effect is unknown, and only callers know how to repeat it harmlessly.

Not here: the operations themselves. Each family has a file of its own; `HotStore` (store.py) is all of them in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import msgpack
import redis.asyncio as redis_asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from persistence.errors import StoreFull, StoreUnavailable
from persistence.hot import scripts
from persistence.hot.ask_line import AskLine
from persistence.hot.keys import HotKeys

CALL_TIMEOUT_S = 1.0
"""How long Redis may take to answer. Longer, and a stalled Redis looks like a dead gateway to its players."""

DEADLINE_S = 3 * CALL_TIMEOUT_S
"""The longest any call takes: waiting for a free connection, connecting, and the answer."""

T = TypeVar("T")

pack = msgpack.Packer(use_bin_type=False, autoreset=True).pack
"""For arguments of scripts: Lua's unpacker in Redis 7.0 does not know msgpack's type for bytes."""


@dataclass(frozen=True, slots=True)
class HotRules:
    """What an operator chose, as scripts take it."""

    flush_interval_ms: int
    session_expiry_ms: int
    progress_idle_s: int
    pending_updates_max: int
    pending_bytes_max: int


class HotClient:
    """One Redis-compatible server. Safe for many tasks of one event loop."""

    def __init__(self, client: redis_asyncio.Redis, keys: HotKeys, rules: HotRules) -> None:
        self._client = client
        self._keys = keys
        self._rules = rules
        self._scripts = scripts.register_all(client)
        self._line = AskLine(client.connection_pool, CALL_TIMEOUT_S)

    @classmethod
    async def open(
        cls,
        redis_url: str,
        *,
        partitions: int = 64,
        flush_interval_s: float = 5.0,
        session_expiry_s: float = 3600.0,
        progress_idle_s: float = 3600.0,
        pending_updates_max: int = 5000,
        pending_bytes_max: int = 2 << 20,
    ) -> Self:
        """Connections are made when they are needed: a Redis that is away raises from the first call, not from here."""
        pool = redis_asyncio.BlockingConnectionPool.from_url(
            redis_url,
            protocol=2,
            decode_responses=False,
            socket_timeout=CALL_TIMEOUT_S,
            socket_connect_timeout=CALL_TIMEOUT_S,
            max_connections=20,
            timeout=CALL_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        rules = HotRules(
            flush_interval_ms=round(flush_interval_s * 1000),
            session_expiry_ms=round(session_expiry_s * 1000),
            progress_idle_s=max(1, round(progress_idle_s)),
            pending_updates_max=pending_updates_max,
            pending_bytes_max=pending_bytes_max,
        )
        return cls(redis_asyncio.Redis(connection_pool=pool), HotKeys(partitions), rules)

    async def close(self) -> None:
        await self._line.close()
        with suppress(RedisError, OSError, TimeoutError):
            await self._client.aclose(close_connection_pool=True)

    async def time_ms(self) -> int:
        """The clock of Redis. Node clocks differ; everything that is compared between nodes is told by this one."""
        seconds, microseconds = await self._line.ask("time_ms", "TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def find_memory_share(self) -> float:
        """How much of its memory limit Redis has in use, 0 to 1 and beyond; 0 without a limit."""
        found: dict[str, Any] = await self._call("find_memory_share", lambda: self._client.info("memory"))
        limit = int(found.get("maxmemory", 0))
        return int(found["used_memory"]) / limit if limit else 0.0

    async def _read_hash(self, operation: str, key: str) -> dict[bytes, bytes]:
        found: dict[Any, Any] = await self._call(operation, lambda: self._client.hgetall(key))
        return found

    async def _run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        script = self._scripts[name]
        return await self._call(name, lambda: script(keys=keys, args=args))

    async def _call(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """The one place that turns what a Redis client raises into what this package raises, and bounds the wait."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await call()
        except RedisError as error:
            # The client takes the word OOM off plain commands' errors and leaves it on those of scripts.
            if isinstance(error, OutOfMemoryError) or "OOM" in str(error):
                raise StoreFull(operation) from error
            raise StoreUnavailable("redis", operation, error) from error
        except (OSError, TimeoutError) as error:
            raise StoreUnavailable("redis", operation, error or type(error).__name__) from error
