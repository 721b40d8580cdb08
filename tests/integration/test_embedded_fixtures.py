"""The servers that tests run on are real, and every test starts on clean ground."""

import asyncpg
import redis.asyncio


async def test_redis_is_empty_and_real(redis_url: str) -> None:
    client = redis.asyncio.from_url(redis_url)
    try:
        assert await client.dbsize() == 0
        await client.set("left", "behind")
    finally:
        await client.aclose()


async def test_redis_is_empty_again(redis_url: str) -> None:
    await test_redis_is_empty_and_real(redis_url)


async def test_each_database_is_fresh(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("CREATE TABLE left_behind (id int)")
        assert int(await connection.fetchval("SHOW server_version_num")) >= 150000
    finally:
        await connection.close()


async def test_each_database_is_fresh_again(database_url: str) -> None:
    await test_each_database_is_fresh(database_url)
