"""
Takes a backup of a database that is in use, into one file (backup_file.py).

Promise: everything in the file is of one instant: the dump and the tombstones come from one snapshot, which is held
until both are written. Players play on; nothing waits for a backup but the removal of whole months of old events.

Redis is not backed up. What it knows and Postgres does not is on its way there, and stands in the journals of the
devices until it has arrived.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from persistence.cold.connect import CONNECT_TIMEOUT_S, POSTGRES_ERRORS
from persistence.cold.queries import queries
from persistence.embedded.backup_file import BackupWriter, Erased, Manifest, Tombstones
from persistence.embedded.binaries import ServerBinary
from persistence.embedded.postgres_tools import get_tool, read_from_tool
from persistence.errors import StoreUnavailable

STATEMENT_TIMEOUT_S: Final = 60.0
COMPRESSION: Final = "3"
"""Of pg_dump, 0 to 9: events are repetitive, and 9 takes four times as long for a tenth less."""


async def back_up(
    database_url: str,
    path: Path,
    binary: ServerBinary,
    wayhold: str,
    on_progress: Callable[[int], None] = lambda _bytes: None,
) -> Manifest:
    """
    Write a backup to `path`. `binary`: the Postgres whose pg_dump is used, of the server's major version or newer.

    Raises:
        EmbeddedUnfit: there is no pg_dump, it failed, or the file cannot be written. No file appears.
        StoreUnavailable: Postgres did not answer.
    """
    pg_dump = get_tool(binary, "pg_dump")
    connection = await _connect(database_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
            manifest = await _describe(connection, wayhold)
            tombstones = await list_tombstones(connection)
            with BackupWriter(path) as writer:
                arguments = [f"--dbname={database_url}", f"--snapshot={snapshot}", "--format=custom"]
                arguments += [f"--compress={COMPRESSION}", "--no-password", "--lock-wait-timeout=30s"]
                # How columns are compressed depends on how a server was built: another one could not be told.
                arguments += ["--no-toast-compression"]
                async with aclosing(read_from_tool(pg_dump, arguments)) as chunks:
                    async for chunk in chunks:
                        writer.write_dump(chunk)
                        on_progress(writer.dump_bytes)
                writer.finish(manifest, tombstones)
            return manifest
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "back_up", error or type(error).__name__) from error
    finally:
        connection.terminate()


async def read_present_tombstones(database_url: str) -> Tombstones:
    """Those of a database. Raises StoreUnavailable."""
    connection = await _connect(database_url)
    try:
        return await list_tombstones(connection)
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "list_tombstones", error or type(error).__name__) from error
    finally:
        connection.terminate()


async def list_tombstones(connection: Any) -> Tombstones:
    sql = queries("backup")
    described = await connection.fetchrow(sql["describe_database"])
    rows = await connection.fetch(sql["list_tombstones"])
    erased = [Erased(row["user_hash"], list(row["device_hashes"]), row["erased_at"]) for row in rows]
    return Tombstones(fingerprint(described["hash_key"]), _now(), erased)


def fingerprint(hash_key: bytes) -> str:
    """Tells installations apart without giving their key away."""
    return hashlib.sha256(b"wayhold installation:" + hash_key).hexdigest()[:16]


async def _describe(connection: Any, wayhold: str) -> Manifest:
    sql = queries("backup")
    described = await connection.fetchrow(sql["describe_database"])
    roles = [row["rolname"] for row in await connection.fetch(sql["list_granted_roles"])]
    return Manifest(
        wayhold=wayhold,
        created_at=_now(),
        schema=described["schema"],
        postgres=described["postgres"].split(" ")[0],
        installation=fingerprint(described["hash_key"]),
        roles=roles,
        users=described["users"],
    )


async def _connect(database_url: str) -> Any:
    try:
        return await asyncpg.connect(
            database_url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings={"application_name": "wayhold-backup", "timezone": "UTC"},
        )
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "back_up", error or type(error).__name__) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
