"""Looks for texts everywhere in both stores: every column of every table, every key with all it holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import asyncpg
import redis.asyncio as redis_asyncio


def list_spellings(needles: Iterable[str]) -> dict[str, set[str]]:
    """How each needle may be written in the text of a row: as it is, without dashes, and both as hex (bytea)."""
    found: dict[str, set[str]] = {}
    for needle in needles:
        bare = needle.replace("-", "")
        found[needle] = {needle, bare, needle.encode().hex(), bare.encode().hex()}
    return found


async def grep_postgres(database_url: str, needles: Iterable[str]) -> list[str]:
    """`table: needle` for each find."""
    spellings = list_spellings(needles)
    connection = await asyncpg.connect(database_url)
    found = []
    try:
        tables = await connection.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
            " AND n.nspname NOT LIKE 'pg_toast%'"
        )
        assert len(tables) > 10
        for table in tables:
            for row in await connection.fetch(f"SELECT t::text AS text FROM {table['name']} t"):
                text = row["text"].lower()
                found += [
                    f"{table['name']}: {needle}"
                    for needle, some in spellings.items()
                    if any(one.lower() in text for one in some)
                ]
    finally:
        await connection.close()
    return found


async def grep_redis(redis_url: str, needles: Iterable[str]) -> list[str]:
    """`key: needle` for each find, in names and in whatever a key holds."""
    raw = {needle: {one.encode() for one in some} for needle, some in list_spellings(needles).items()}
    for needle in raw:
        bare = needle.replace("-", "")
        if len(bare) == 32:
            raw[needle].add(bytes.fromhex(bare))
    client = redis_asyncio.Redis.from_url(redis_url, protocol=2)
    found = []
    try:
        async for key in client.scan_iter(count=1000):
            held = b"\0".join([key, *await _read(client, key)])
            found += [f"{key!r}: {needle}" for needle, some in raw.items() if any(one in held for one in some)]
    finally:
        await client.aclose()
    return found


async def _read(client: Any, key: bytes) -> list[bytes]:
    match await client.type(key):
        case b"hash":
            return [part for pair in (await client.hgetall(key)).items() for part in pair]
        case b"list":
            return list(await client.lrange(key, 0, -1))
        case b"zset":
            return list(await client.zrange(key, 0, -1))
        case b"set":
            return list(await client.smembers(key))
        case b"string":
            return [await client.get(key)]
        case kind:
            raise AssertionError(f"{key!r} is a {kind!r}, and nobody looks into those")
