"""Migrations arrive at `schema.sql`, two that migrate do not meet, constraints mirror what the gateway checks."""

from __future__ import annotations

import asyncio
import uuid
from importlib import resources
from typing import Any

import asyncpg
import pytest

from persistence.cold.migrate import check, list_migrations, migrate
from persistence.errors import StoreUnavailable, StoreUnfit
from tests.servers import Servers

DESCRIBE = """
SELECT 'column', table_name, column_name, data_type, is_nullable, column_default, generation_expression,
       character_maximum_length::text
FROM information_schema.columns WHERE table_schema = 'public' AND table_name !~ '_[0-9]{4}_[0-9]{2}$'
UNION ALL SELECT 'index', tablename, indexname, indexdef, NULL, NULL, NULL, NULL
FROM pg_indexes WHERE schemaname = 'public' AND tablename !~ '_[0-9]{4}_[0-9]{2}$'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), NULL, NULL, NULL, NULL
FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid <> 0 AND conrelid::regclass::text !~ '_[0-9]{4}_[0-9]{2}$'
UNION ALL SELECT 'function', proname, pg_get_functiondef(oid), NULL, NULL, NULL, NULL, NULL
FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), NULL, NULL, NULL, NULL
FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'options', relname, reloptions::text, relkind::text, NULL, NULL, NULL, NULL
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname !~ '_[0-9]{4}_[0-9]{2}$'
ORDER BY 1, 2, 3, 4
"""


async def describe(url: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(DESCRIBE)]
    finally:
        await connection.close()


@pytest.fixture
def empty_database_url(servers: Servers) -> Any:
    url = servers.create_database(migrated=False)
    yield url
    servers.drop_database(url)


async def test_migrations_arrive_at_the_schema(servers: Servers, empty_database_url: str, database_url: str) -> None:
    schema = (resources.files("persistence.cold") / "sql" / "schema.sql").read_text()
    connection = await asyncpg.connect(empty_database_url)
    try:
        await connection.execute(schema)
    finally:
        await connection.close()
    fresh, migrated = await describe(empty_database_url), await describe(database_url)
    assert len(fresh) > 50
    assert fresh == migrated


async def test_migrating_twice_and_at_once_applies_each_step_once(empty_database_url: str) -> None:
    applied = await asyncio.gather(*[migrate(empty_database_url) for _ in range(3)])
    assert sorted(len(names) for names in applied) == [0, 0, len(list_migrations())]
    assert await migrate(empty_database_url) == []
    status = await check(empty_database_url)
    assert status.is_current and not status.pending


async def test_newer_schema_is_left_alone(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("INSERT INTO schema_migrations (number, name) VALUES (9999, 'of_tomorrow')")
    finally:
        await connection.close()
    assert (await check(database_url)).is_newer
    with pytest.raises(StoreUnfit, match="9999"):
        await migrate(database_url)


async def test_unmigrated_database_says_what_is_pending(empty_database_url: str) -> None:
    status = await check(empty_database_url)
    assert not status.is_current and status.applied == 0 and status.pending[0] == "0001_first_schema"


async def test_unreachable_postgres_is_said_so() -> None:
    with pytest.raises(StoreUnavailable):
        await check("postgresql://wayhold@127.0.0.1:1/wayhold")


async def test_months_of_the_past_and_the_future_have_partitions(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        months = await connection.fetch(
            "SELECT generate_series(now() - interval '90 days', now() + interval '60 days', '1 day')::date AS day"
        )
        for month in months:
            name = f"player_progress_events_{month['day']:%Y_%m}"
            assert await connection.fetchval("SELECT to_regclass($1)", name) is not None, name
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("location_lat", "90.0001"),
        ("location_lat", "'NaN'"),
        ("location_lng", "'-Infinity'"),
        ("location_lng", "180.1"),
        ("event_type", "''"),
        ("seq", "0"),
        ("version", "0"),
    ],
)
async def test_bad_event_value_is_refused_by_its_constraint(database_url: str, column: str, value: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        row_id, user_id = uuid.uuid4(), uuid.uuid4()
        await connection.execute("INSERT INTO users VALUES ($1)", user_id)
        await connection.execute("INSERT INTO player_profiles (id, user_id) VALUES ($1, $1)", user_id)
        await connection.execute(
            "INSERT INTO experience_progress (id, last_entry, player_id, experience_id) VALUES ($1, $1, $2, 'x')",
            row_id,
            user_id,
        )
        values = {"event_type": "'x'", "location_lat": "1.0", "location_lng": "1.0", "seq": "1", "version": "1"}
        insert = (
            "INSERT INTO player_progress_events (id, experience_progress_id, event_type, location_lat, location_lng,"
            ' "timestamp", device_id, seq, version, received_at) VALUES ($1, $1, {event_type}, {location_lat},'
            " {location_lng}, now(), 'd', {seq}, {version}, now())"
        )
        await connection.execute(insert.format(**values), row_id)
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(insert.format(**{**values, "version": "2", column: value}), row_id)
    finally:
        await connection.close()
