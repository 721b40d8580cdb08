"""
Brings a backup back into a running embedded Postgres.

The dump is restored into a database beside the present one, brought to this release's schema and told who was erased
since; only then the two change names, in one transaction. Until that moment nothing has changed, and dying at any line
before it costs nothing but the time.

Promise: who was erased stays erased. A tombstone that is not in the backup, or newer there than in it, removes its
player from what was restored; players who were erased before the backup was taken and came back anew are untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from persistence.cold.connect import CONNECT_TIMEOUT_S, POSTGRES_ERRORS
from persistence.cold.migrate import list_migrations, migrate
from persistence.cold.queries import queries
from persistence.cold.tombstones import hash_of
from persistence.embedded.backup import fingerprint, list_tombstones, read_present_tombstones
from persistence.embedded.backup_file import Erased, Manifest, Tombstones, read_dump
from persistence.embedded.binaries import ServerBinary
from persistence.embedded.errors import EmbeddedUnfit
from persistence.embedded.postgres import DATABASE, REPLACED, RESTORING, USER, EmbeddedPostgres
from persistence.embedded.postgres_tools import get_tool, write_to_tool
from persistence.errors import StoreUnavailable

log = logging.getLogger("wayhold.restore")

STATEMENT_TIMEOUT_S: Final = 600.0
USERS_PAGE: Final = 5_000


@dataclass(slots=True)
class RestoreReport:
    """`erased`: players of the backup who had been erased since and went again."""

    manifest: Manifest
    erased: int
    migrations: list[str]


def check_fits(manifest: Manifest, binary: ServerBinary) -> None:
    """
    Whether this release and this Postgres can take a backup.

    Raises:
        EmbeddedUnfit: it is of a newer schema or a newer Postgres.
    """
    newest = list_migrations()[-1].number
    if manifest.schema > newest:
        raise EmbeddedUnfit(
            f"the backup has schema {manifest.schema}, this release knows {newest}",
            f"install wayhold {manifest.wayhold} or newer",
        )
    if manifest.postgres_major > binary.major:
        raise EmbeddedUnfit(
            f"the backup was made on PostgreSQL {manifest.postgres}, the one here is {binary.version}",
            f"install PostgreSQL {manifest.postgres_major} or newer",
        )


async def restore(
    postgres: EmbeddedPostgres,
    path: Path,
    manifest: Manifest,
    more_tombstones: Sequence[Tombstones] = (),
    on_step: Callable[[str], None] = lambda _step: None,
) -> RestoreReport:
    """
    Replace the database of a running server, to which nobody else is connected, by a backup that was checked.

    Raises:
        EmbeddedUnfit: it does not fit here, or pg_restore failed; tombstones are of another installation.
        StoreUnavailable: Postgres did not answer. In either case the present database is as it was.
    """
    check_fits(manifest, postgres.binary)
    pg_restore = get_tool(postgres.binary, "pg_restore")
    try:
        present = await _find_present_tombstones(postgres)
        _check_installation(manifest, [present] if present is not None and present.erased else [])
        _check_installation(manifest, more_tombstones)
        admin = await _connect(postgres.get_url("postgres"))
        try:
            for leftover in (RESTORING, REPLACED):
                await admin.execute(f"DROP DATABASE IF EXISTS {leftover} WITH (FORCE)")
            await _make_roles(admin, manifest.roles)
            await admin.execute(f"CREATE DATABASE {RESTORING} TEMPLATE template0")
            on_step("restoring")
            url = postgres.get_url(RESTORING)
            arguments = [f"--dbname={url}", "--exit-on-error", "--no-owner", "--no-password"]
            await write_to_tool(pg_restore, arguments, read_dump(path))
            on_step("migrating")
            applied = await migrate(url)
            on_step("honouring tombstones")
            known = [present] if present is not None else []
            erased = await _honour_tombstones(url, [*known, *more_tombstones])
            await _prepare(url)
            on_step("swapping")
            await _swap(admin)
        finally:
            admin.terminate()
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "restore", error or type(error).__name__) from error
    return RestoreReport(manifest, erased, applied)


async def _find_present_tombstones(postgres: EmbeddedPostgres) -> Tombstones | None:
    """Those of the database that is there; None when it is a new one."""
    connection = await _connect(postgres.url)
    try:
        if not await connection.fetchval("SELECT to_regclass('erased_players') IS NOT NULL"):
            return None
    finally:
        connection.terminate()
    return await read_present_tombstones(postgres.url)


def _check_installation(manifest: Manifest, some: Sequence[Tombstones]) -> None:
    for tombstones in some:
        if tombstones.installation != manifest.installation:
            raise EmbeddedUnfit(
                "the backup is of another installation than the tombstones, which cannot be compared with its players",
                "restore into an empty --data-dir, with tombstones of the same installation",
            )


async def _make_roles(admin: Any, roles: Sequence[str]) -> None:
    """Grants of the dump name them; a new server has none. They can do nothing until somebody lets them log in."""
    present = {row["rolname"] for row in await admin.fetch("SELECT rolname FROM pg_roles")}
    for role in roles:
        if role not in present and role != USER:
            quoted = '"' + role.replace('"', '""') + '"'
            await admin.execute(f"CREATE ROLE {quoted} NOLOGIN")


async def _honour_tombstones(url: str, some: Sequence[Tombstones]) -> int:
    """Remove who was erased since the backup. Returns how many of its players that were."""
    connection = await _connect(url)
    try:
        sql, erase_sql = queries("backup"), queries("erase")
        hash_key = await connection.fetchval(erase_sql["find_hash_key"])
        restored = await list_tombstones(connection)
        before = {one.user_hash: one.erased_at for one in restored.erased}
        newer: dict[str, Erased] = {}
        for tombstones in some:
            # Without a tombstone it does not matter whose they are: there is nothing to compare.
            assert not tombstones.erased or tombstones.installation == fingerprint(hash_key)
            for one in tombstones.erased:
                if _is_later(one.erased_at, before.get(one.user_hash)):
                    known = newer.get(one.user_hash)
                    if known is None or _is_later(one.erased_at, known.erased_at):
                        newer[one.user_hash] = one
        if not newer:
            return 0
        erased = 0
        after = None
        while True:
            page = await connection.fetch(sql["list_users_after"], after, USERS_PAGE)
            if not page:
                break
            after = page[-1]["id"]
            for row in page:
                if hash_of(hash_key, "user", str(row["id"])).hex() in newer:
                    async with connection.transaction():
                        await connection.execute(erase_sql["erase_rollups"], row["id"])
                        await connection.execute(erase_sql["delete_player"], row["id"])
                    erased += 1
        for tombstones in some:
            for one in tombstones.erased:
                if one.user_hash in newer:
                    await connection.execute(sql["merge_tombstone"], one.user_hash, one.device_hashes, one.erased_at)
        return erased
    finally:
        connection.terminate()


def _is_later(erased_at: str, than: str | None) -> bool:
    """Times as `list_tombstones` writes them compare as text; "infinity" is later than all."""
    if than is None:
        return True
    if than == "infinity":
        return False
    return erased_at == "infinity" or erased_at > than


async def _prepare(url: str) -> None:
    """What a dump does not bring: how new rows are compressed, and statistics, which the first plans need."""
    connection = await _connect(url)
    try:
        await connection.execute(queries("backup")["choose_compression"])
        await connection.execute("ANALYZE")
    finally:
        connection.terminate()


async def _swap(admin: Any) -> None:
    async with admin.transaction():
        await admin.execute(f"ALTER DATABASE {DATABASE} RENAME TO {REPLACED}")
        await admin.execute(f"ALTER DATABASE {RESTORING} RENAME TO {DATABASE}")
    # What was replaced holds players whom no erase would reach any more.
    await admin.execute(f"DROP DATABASE IF EXISTS {REPLACED} WITH (FORCE)")


async def _connect(url: str) -> Any:
    return await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=STATEMENT_TIMEOUT_S,
        server_settings={"application_name": "wayhold-restore", "timezone": "UTC"},
    )
