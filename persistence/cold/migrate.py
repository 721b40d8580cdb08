"""
Brings a database to the schema of this release: numbered SQL files, each in a transaction of its own, forward only.

Promise: two that migrate at once do not meet (an advisory lock); a migration is applied whole or not at all; a schema
newer than this release is never touched. Partitions of the coming months are made here and by the flusher; the role
that may append only is made and granted here, where that is allowed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from typing import Any

import asyncpg

from persistence.cold.connect import CONNECT_TIMEOUT_S, UNAVAILABLE_ERRORS
from persistence.cold.grants import grant_app_role
from persistence.errors import StoreUnavailable, StoreUnfit

log = logging.getLogger("wayhold.migrate")

EVENTS_BACK_DAYS = 92
"""How far back an event may lie (an offline walk, see the gateway's bound of 90 days), with room for the clock."""
EVENTS_AHEAD_DAYS = 62
POSTGRES_MAJOR_MIN = 15
MIGRATION_TIMEOUT_S = 24 * 3600.0
"""A migration may have to write every row of a large table; whoever runs it is there to stop it."""
_LOCK = 0x7761_7968_6F6C_64
_FILE = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """`applied` is the newest number in the database (0: none), `newest` that of this release."""

    applied: int
    newest: int
    pending: tuple[str, ...]

    @property
    def is_current(self) -> bool:
        return self.applied == self.newest

    @property
    def is_newer(self) -> bool:
        return self.applied > self.newest


def list_migrations() -> list[Migration]:
    folder = resources.files("persistence.cold") / "sql" / "migrations"
    found = []
    for file in folder.iterdir():
        match = _FILE.match(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text()))
    return sorted(found, key=lambda m: m.number)


async def migrate(database_url: str) -> list[str]:
    """
    Apply what is missing and make the partitions of the coming months. Returns the names that were applied.

    Raises:
        StoreUnavailable: Postgres did not answer.
        StoreUnfit: it is too old, or its schema is newer than this release.
    """
    connection = await _connect(database_url)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        status = await _status(connection)
        if status.is_newer:
            raise StoreUnfit(
                "postgres",
                f"its schema is {status.applied}, this release knows {status.newest}",
                "install the newer release",
            )
        applied = []
        for migration in list_migrations():
            if migration.number <= status.applied:
                continue
            async with connection.transaction():
                await connection.execute(
                    "CREATE TABLE IF NOT EXISTS schema_migrations "
                    "(number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
                )
                await connection.execute(migration.sql, timeout=MIGRATION_TIMEOUT_S)
                await connection.execute(
                    "INSERT INTO schema_migrations (number, name) VALUES ($1, $2)", migration.number, migration.name
                )
            applied.append(f"{migration.number:04d}_{migration.name}")
        await ensure_event_partitions(connection)
        gap = await grant_app_role(connection)
        if gap:
            log.warning("events are not append-only: the role cannot be made or granted", extra={"reason": gap})
        return applied
    except UNAVAILABLE_ERRORS as error:
        raise StoreUnavailable("postgres", "migrate", error or type(error).__name__) from error
    finally:
        await _close(connection)


async def check(database_url: str) -> SchemaStatus:
    """Compare the database with this release; changes nothing. Raises as `migrate` does."""
    connection = await _connect(database_url)
    try:
        return await _status(connection)
    except UNAVAILABLE_ERRORS as error:
        raise StoreUnavailable("postgres", "check_schema", error or type(error).__name__) from error
    finally:
        await _close(connection)


async def ensure_event_partitions(connection: Any, today: date | None = None) -> int:
    """Make the months that events may fall into from now on. Returns how many were missing."""
    day = today or datetime.now(UTC).date()
    made: int = await connection.fetchval(
        "SELECT ensure_event_partitions($1, $2)",
        day - timedelta(days=EVENTS_BACK_DAYS),
        day + timedelta(days=EVENTS_AHEAD_DAYS),
    )
    return made


async def _connect(database_url: str) -> Any:
    try:
        connection = await asyncpg.connect(
            database_url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=60.0,
            server_settings={"application_name": "wayhold-migrate", "timezone": "UTC"},
        )
    except UNAVAILABLE_ERRORS as error:
        raise StoreUnavailable("postgres", "connect", error or type(error).__name__) from error
    except asyncpg.PostgresError as error:
        raise StoreUnfit(
            "postgres", str(error), "check the user, the password and the database name in DATABASE_URL"
        ) from error
    version = connection.get_server_version()
    if version.major < POSTGRES_MAJOR_MIN:
        await _close(connection)
        raise StoreUnfit("postgres", f"it is version {version.major}", f"Wayhold needs {POSTGRES_MAJOR_MIN} or newer")
    return connection


async def _close(connection: Any) -> None:
    try:
        await asyncio.wait_for(connection.close(), 2.0)
    except UNAVAILABLE_ERRORS:
        connection.terminate()


async def _status(connection: Any) -> SchemaStatus:
    applied = 0
    if await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL"):
        applied = await connection.fetchval("SELECT COALESCE(max(number), 0) FROM schema_migrations")
    migrations = list_migrations()
    newest = migrations[-1].number if migrations else 0
    pending = tuple(f"{m.number:04d}_{m.name}" for m in migrations if m.number > applied)
    return SchemaStatus(applied, newest, pending)
