"""
Whether the servers behind the URLs can carry what we promise: asked before anything starts, and by `doctor`.

Promise: looks only, changes nothing. Each fault is one line with the next step; passwords never appear in it. Redis is
judged by INFO alone, so that a user without CONFIG works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gateway.app.errors import UnfitDependency
from gateway.app.urls import mask_text, mask_url

ANSWER_DEADLINE_S = 3.0
REDIS_FLOOR = (7, 0)
VALKEY_FLOOR = (8, 0)


@dataclass(frozen=True)
class RedisFacts:
    """What a Redis-compatible server says about itself."""

    product: str
    version: str
    maxmemory_policy: str
    maxmemory_bytes: int
    used_bytes: int
    is_append_only: bool
    role: str
    is_cluster: bool
    clock_ahead_s: float  # its clock minus ours

    def find_unfit(self) -> tuple[str, str] | None:
        """Why it cannot be used at all, and what to do; None when it can."""
        floor = VALKEY_FLOOR if self.product == "Valkey" else REDIS_FLOOR
        if _numbers(self.version) < floor:
            return (
                f"it is {self.product} {self.version}, too old",
                "use Redis ≥ 7.0 or Valkey ≥ 8",
            )
        if self.role != "master":
            return f"it is a {self.role}, which refuses writes", "give the address of the primary"
        if self.is_cluster:
            return "it runs in cluster mode, which is not supported yet", "use a single server"
        return None

    def list_risks(self) -> list[str]:
        """Why it may forget accepted updates; empty for a safe one."""
        risks = []
        if self.maxmemory_policy != "noeviction":
            risks.append(f"maxmemory-policy is {self.maxmemory_policy}: it evicts what is not saved yet")
        if not self.is_append_only:
            risks.append("appendonly is off: a restart forgets what is not saved yet")
        return risks


@dataclass(frozen=True)
class PostgresFacts:
    """What a Postgres and our schema in it say about themselves."""

    version: str
    schema_applied: int
    schema_newest: int
    schema_pending: tuple[str, ...]
    is_read_only: bool
    clock_ahead_s: float
    append_only_gap: str = ""
    """Why gateways and flushers could change events under this login; empty when they cannot."""

    @property
    def is_schema_current(self) -> bool:
        return self.schema_applied == self.schema_newest


async def get_redis_facts(url: str) -> RedisFacts:
    """
    Ask the server.

    Raises:
        UnfitDependency: it does not answer, or refuses us.
    """
    import redis.asyncio as redis_asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

    client = None
    try:
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            client = redis_asyncio.Redis.from_url(
                url,
                protocol=2,
                socket_timeout=ANSWER_DEADLINE_S,
                socket_connect_timeout=ANSWER_DEADLINE_S,
                retry=Retry(NoBackoff(), 0),
            )
            info: Mapping[str, Any] = await client.info()
            asked_at = time.time()
            seconds, micros = await client.time()
            answered_at = time.time()
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        raise UnfitDependency(
            f"REDIS_URL {mask_url(url)} cannot be used: {_describe(error, url)}", _redis_advice(error)
        ) from None
    finally:
        if client is not None:
            with suppress(RedisError, OSError, TimeoutError):
                await asyncio.wait_for(client.aclose(), 1.0)
    is_valkey = "valkey_version" in info
    return RedisFacts(
        product="Valkey" if is_valkey else "Redis",
        version=str(info.get("valkey_version" if is_valkey else "redis_version", "0")),
        maxmemory_policy=str(info.get("maxmemory_policy", "unknown")),
        maxmemory_bytes=int(info.get("maxmemory", 0)),
        used_bytes=int(info.get("used_memory", 0)),
        is_append_only=bool(int(info.get("aof_enabled", 0))),
        role=str(info.get("role", "master")),
        is_cluster=bool(int(info.get("cluster_enabled", 0))) or info.get("redis_mode") == "cluster",
        clock_ahead_s=_clock_ahead_s(seconds + micros / 1e6, asked_at, answered_at),
    )


async def get_postgres_facts(url: str) -> PostgresFacts:
    """
    Ask the server.

    Raises:
        UnfitDependency: it does not answer, refuses us, or is too old.
    """
    import asyncpg

    from persistence.cold.grants import find_append_only_gap
    from persistence.cold.migrate import check
    from persistence.errors import PersistenceError, StoreUnfit

    connection = None
    try:
        # The schema's own check comes first: it also knows the oldest version.
        status = await asyncio.wait_for(check(url), 2 * ANSWER_DEADLINE_S)
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            connection = await asyncpg.connect(url, timeout=ANSWER_DEADLINE_S)
            asked_at = time.time()
            now = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
            answered_at = time.time()
            is_read_only = await connection.fetchval("SHOW transaction_read_only") == "on"
            version = await connection.fetchval("SHOW server_version")
            append_only_gap = await find_append_only_gap(connection)
    except StoreUnfit as error:
        raise UnfitDependency(
            f"DATABASE_URL {mask_url(url)} cannot be used: {mask_text(error.reason, url)}", error.advice
        ) from None
    except (
        PersistenceError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        OSError,
        TimeoutError,
        ValueError,
    ) as error:
        raise UnfitDependency(
            f"DATABASE_URL {mask_url(url)} cannot be used: {_describe(error, url)}", _postgres_advice(error)
        ) from None
    finally:
        if connection is not None:
            connection.terminate()
    return PostgresFacts(
        version=str(version).split(" ")[0],
        schema_applied=status.applied,
        schema_newest=status.newest,
        schema_pending=status.pending,
        is_read_only=is_read_only,
        append_only_gap=append_only_gap,
        clock_ahead_s=_clock_ahead_s(float(now), asked_at, answered_at),
    )


async def check_redis(url: str, *, allow_volatile: bool) -> str:
    """
    Raise if players' steps are not safe there; otherwise '' or, when unsafe was allowed, why it is unsafe.

    Raises:
        UnfitDependency: unreachable, too old, not a primary; or it may forget and that was not allowed.
    """
    facts = await get_redis_facts(url)
    unfit = facts.find_unfit()
    if unfit is not None:
        raise UnfitDependency(f"REDIS_URL {mask_url(url)} cannot be used: {unfit[0]}", unfit[1])
    risks = facts.list_risks()
    if risks and not allow_volatile:
        raise UnfitDependency(
            f"Redis at {mask_url(url)} is not safe: {'; '.join(risks)}",
            "set maxmemory-policy noeviction and appendonly yes there, or accept it with --allow-volatile-redis",
        )
    return "; ".join(risks)


async def check_postgres(url: str, *, is_migrated_later: bool) -> None:
    """
    Raise if the database cannot be written to or has another schema than this release.

    `is_migrated_later`: a schema that is behind is fine, the caller will migrate it.

    Raises:
        UnfitDependency: see above.
    """
    facts = await get_postgres_facts(url)
    where = f"DATABASE_URL {mask_url(url)}"
    if facts.is_read_only:
        raise UnfitDependency(f"{where} cannot be used: it is read-only", "give the address of the primary")
    if facts.schema_applied > facts.schema_newest:
        raise UnfitDependency(
            f"{where}: its schema is {facts.schema_applied}, newer than this release knows ({facts.schema_newest})",
            "install the newer wayhold, or use another database",
        )
    if not facts.is_schema_current and not is_migrated_later:
        raise UnfitDependency(
            f"{where}: its schema is {facts.schema_applied}, this release needs {facts.schema_newest}",
            "bring it up to date: wayhold migrate",
        )


def _clock_ahead_s(their_s: float, asked_at: float, answered_at: float) -> float:
    """0 when their time lies within the question and the answer: the round trip explains it."""
    if their_s < asked_at:
        return their_s - asked_at
    return max(0.0, their_s - answered_at)


def _describe(error: BaseException, url: str) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {ANSWER_DEADLINE_S:g} s"
    # A driver's time-out has no text of its own and leaves a colon with nothing behind it.
    return mask_text(str(error).rstrip(": ") or type(error).__name__, url)


def _redis_advice(error: BaseException) -> str:
    text = str(error).upper()
    if "NOAUTH" in text or "WRONGPASS" in text or "AUTHENTICATION" in text:
        return "check the user and the password in REDIS_URL"
    if "NOPERM" in text:
        return "its user needs INFO, TIME, EVALSHA and the data commands"
    if "LOADING" in text:
        return "it is still reading its files; start again in a moment"
    return "check that the server runs and that this machine reaches it"


def _postgres_advice(error: BaseException) -> str:
    text = str(error)
    if "password" in text or "role" in text:
        return "check the user and the password in DATABASE_URL"
    if "does not exist" in text:
        return "create that database first (createdb), or correct DATABASE_URL"
    if "starting up" in text:
        return "start again in a moment"
    return "check that the server runs and that this machine reaches it"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
