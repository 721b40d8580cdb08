"""Backups of a database that is in use, and what becomes of them: whole, damaged, old, of somebody else, erased."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from persistence.cold.migrate import check, list_migrations
from persistence.embedded import backup_file
from persistence.embedded.backup import back_up, read_present_tombstones
from persistence.embedded.backup_file import BackupWriter, Tombstones, check_backup, read_dump, read_tombstones
from persistence.embedded.errors import EmbeddedUnfit
from persistence.embedded.postgres import DATABASE, REPLACED, RESTORING, EmbeddedPostgres
from persistence.embedded.restore import restore
from persistence.erase import erase_player
from persistence.errors import StoreUnavailable
from tests.servers import Servers
from tests.stores.conftest import StorePlayer, Stores
from tests.stores.grep_stores import grep_postgres
from tests.waiting import wait_until

CAR = {"type": "waypoint_visited", "content_id": "8_inter_gravity_car", "data": {"note": "größer", "time_spent": 3}}
Made = Callable[..., Awaitable[Path]]


@pytest.fixture
def postgres(servers: Servers) -> EmbeddedPostgres:
    """The test run's server, whose database of the usual name no other test uses: a restore replaces that one."""
    servers.postgres.run_sql(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    servers.postgres.run_sql(f"CREATE DATABASE {DATABASE}")
    return servers.postgres


@pytest.fixture
async def make_backup(stores: Stores, postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Made]:
    numbers = iter(range(100))

    async def make() -> Path:
        path = tmp_path / f"{next(numbers)}.zip"
        await back_up(stores.database_url, path, postgres.binary, "0.1.0")
        return path

    yield make


async def played(stores: Stores, user_id: str | None = None, device: str = "phone") -> StorePlayer:
    player = stores.player(user_id=user_id, device=device)
    started_ms = await stores.hot.time_ms()
    # With the token of somebody who may have been erased before.
    await stores.hot.install(await stores.cold.open_progress(player.key, device, time.time() + 2), started_ms)
    assert await player.hello_without_hydrate() is not None
    await player.send(player.make(CAR), player.make({"type": "achievement_unlocked", "content_id": "first"}))
    await stores.flush()
    return player


async def bring_back(postgres: EmbeddedPostgres, path: Path, *more: Tombstones) -> Any:
    return await restore(postgres, path, check_backup(path), more)


async def read_everything(url: str) -> dict[str, list[str]]:
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch(
            "SELECT oid::regclass::text AS name FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"
        )
        return {
            table["name"]: sorted(
                row["text"] for row in await connection.fetch(f"SELECT t::text AS text FROM {table['name']} t")
            )
            for table in tables
        }
    finally:
        await connection.close()


async def list_users(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    try:
        return {str(row["id"]) for row in await connection.fetch("SELECT id FROM users")}
    finally:
        await connection.close()


async def test_what_was_backed_up_comes_back_the_same(
    stores: Stores, postgres: EmbeddedPostgres, make_backup: Made
) -> None:
    for _ in range(3):
        await played(stores)
    erased = await played(stores)
    await erase_player(stores.hot, stores.database_url, erased.key.user_id)
    await stores.fetch(
        "INSERT INTO dead_letters SELECT gen_random_uuid(), id, 'd', 1, 1, '\\x00ff'::bytea, 'why', '22000'"
        " FROM experience_progress LIMIT 1 RETURNING 1"
    )
    path = await make_backup()
    assert path.stat().st_mode & 0o777 == 0o600
    report = await bring_back(postgres, path)
    assert (report.erased, report.migrations, report.manifest.users) == (0, [], 3)
    before, after = await read_everything(stores.database_url), await read_everything(postgres.url)
    assert before == after and sum(map(len, after.values())) > 30
    assert (await check(postgres.url)).is_current
    # It is a database to work with: sequences go on behind what is there, constraints hold.
    connection = await asyncpg.connect(postgres.url)
    try:
        await connection.execute("INSERT INTO contents (experience_id, event_type, content_id) VALUES ('a', 'b', 'c')")
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await connection.execute("INSERT INTO player_profiles (user_id) VALUES (gen_random_uuid())")
    finally:
        await connection.close()


@pytest.mark.slow
async def test_a_backup_is_of_one_instant_while_players_play(
    stores: Stores, postgres: EmbeddedPostgres, make_backup: Made
) -> None:
    stop = asyncio.Event()

    async def keep_coming() -> int:
        connection = await asyncpg.connect(stores.database_url)
        count = 0
        try:
            while not stop.is_set():
                async with connection.transaction():
                    user = uuid.uuid4()
                    await connection.execute("INSERT INTO users (id) VALUES ($1)", user)
                    await asyncio.sleep(0)
                    await connection.execute("INSERT INTO player_profiles (user_id) VALUES ($1)", user)
                count += 1
        finally:
            await connection.close()
        return count

    coming = asyncio.create_task(keep_coming())
    try:
        await wait_until("somebody came", lambda: list_users(stores.database_url))
        path = await make_backup()
    finally:
        stop.set()
        made = await coming
    report = await bring_back(postgres, path)
    everything = await read_everything(postgres.url)
    assert len(everything["users"]) == len(everything["player_profiles"]) == report.manifest.users
    assert 0 < report.manifest.users < made


async def test_whoever_was_erased_since_stays_erased(
    stores: Stores, postgres: EmbeddedPostgres, make_backup: Made
) -> None:
    kept, erased, anew = [await played(stores) for _ in range(3)]
    # Erased before the backup, and back with a new device: their new rows are nobody's to take.
    await erase_player(stores.hot, stores.database_url, anew.key.user_id)
    await stores.fetch("UPDATE erased_players SET erased_at = now() - interval '1 hour' RETURNING 1")
    await played(stores, anew.key.user_id, "new-phone")
    old = await make_backup()
    await erase_player(stores.hot, stores.database_url, erased.key.user_id)
    newer = await make_backup()
    assert erased.key.user_id in await list_users_of_backup(postgres, old)

    # Known from a newer backup, on an empty server …
    report = await bring_back(postgres, old, read_tombstones(newer))
    assert report.erased == 1
    assert await list_users(postgres.url) == {kept.key.user_id, anew.key.user_id}
    assert await grep_postgres(postgres.url, [erased.key.user_id]) == []
    visits = "SELECT sum(events)::int FROM content_hours h JOIN contents c ON c.id = h.content"
    connection = await asyncpg.connect(postgres.url)
    try:
        # … and their share of the totals went with them.
        assert await connection.fetchval(f"{visits} WHERE c.content_id = '8_inter_gravity_car'") == 2
    finally:
        await connection.close()
    # … then from the database that is there: it has the tombstone now.
    assert (await bring_back(postgres, old)).erased == 1
    assert await list_users(postgres.url) == {kept.key.user_id, anew.key.user_id}
    tombstones = await read_present_tombstones(postgres.url)
    assert len(tombstones.erased) == 2
    assert tombstones.erased == read_tombstones(newer).erased


async def list_users_of_backup(postgres: EmbeddedPostgres, path: Path) -> set[str]:
    """Without any tombstone: as it was taken."""
    postgres.run_sql(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    postgres.run_sql(f"CREATE DATABASE {DATABASE}")
    await bring_back(postgres, path)
    users = await list_users(postgres.url)
    postgres.run_sql(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    postgres.run_sql(f"CREATE DATABASE {DATABASE}")
    return users


@pytest.mark.slow
async def test_an_erase_that_was_under_way_counts(
    stores: Stores, postgres: EmbeddedPostgres, make_backup: Made
) -> None:
    player = await played(stores)
    old = await make_backup()
    await erase_player(stores.hot, stores.database_url, player.key.user_id)
    await stores.fetch("UPDATE erased_players SET erased_at = 'infinity' RETURNING 1")
    report = await bring_back(postgres, old, await read_present_tombstones(stores.database_url))
    assert report.erased == 1 and await list_users(postgres.url) == set()
    assert (await read_present_tombstones(postgres.url)).erased[0].erased_at == "infinity"


@pytest.mark.slow
async def test_tombstones_in_a_file_of_their_own(
    stores: Stores, postgres: EmbeddedPostgres, make_backup: Made, tmp_path: Path
) -> None:
    player = await played(stores)
    old = await make_backup()
    await erase_player(stores.hot, stores.database_url, player.key.user_id)
    path = tmp_path / "tombstones.json"
    backup_file.write_small_file(path, (await read_present_tombstones(stores.database_url)).to_json())
    assert player.key.user_id not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    assert (await bring_back(postgres, old, read_tombstones(path))).erased == 1


@pytest.mark.slow
async def test_tombstones_of_another_installation_are_no_use(
    stores: Stores, servers: Servers, postgres: EmbeddedPostgres, make_backup: Made
) -> None:
    """Hashes made with another key match nobody: an erased player would come back, and nobody would notice."""
    await played(stores)
    path = await make_backup()
    other_url = servers.create_database()
    try:
        # Databases of tests are copies of one another; installations are not.
        connection = await asyncpg.connect(other_url)
        await connection.execute("UPDATE installation SET hash_key = hash_key || 'x'::bytea")
        await connection.close()
        foreign = await read_present_tombstones(other_url)
    finally:
        servers.drop_database(other_url)
    with pytest.raises(EmbeddedUnfit, match="another installation"):
        await bring_back(postgres, path, foreign)
    assert await has_no_tables(postgres)


async def has_no_tables(postgres: EmbeddedPostgres) -> bool:
    return await read_everything(postgres.url) == {}


def rewrite(path: Path, to: Path, **changes: bytes | None) -> Path:
    """The same zip with members changed or left out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            raw = changes.get(name.split(".")[0], old.read(name))
            if raw is not None:
                new.writestr(name, raw)
    return to


async def test_a_damaged_backup_is_refused_before_anything_happens(
    stores: Stores, postgres: EmbeddedPostgres, make_backup: Made, tmp_path: Path
) -> None:
    await played(stores)
    path = await make_backup()
    raw = path.read_bytes()
    manifest = json.loads(zipfile.ZipFile(path).read("manifest.json"))
    dump = b"".join(read_dump(path))
    cases = {
        "absent": None,
        "empty": b"",
        "text": b"no backup",
        "cut short": raw[: len(raw) // 2],
        "a bit of the dump": raw[:2000] + bytes([raw[2000] ^ 1]) + raw[2001:],
        "the end": raw[:-5],
    }
    for name, content in cases.items():
        case = tmp_path / "case.zip"
        case.unlink(missing_ok=True)
        if content is not None:
            case.write_bytes(content)
        with pytest.raises(EmbeddedUnfit) as refused:
            check_backup(case)
        assert str(case) in str(refused.value), name
    for name, changes in {
        "another dump": {"postgres": dump + b"x"},
        "no dump": {"postgres": None},
        "other tombstones": {"tombstones": b'{"kind": "wayhold tombstones", "format": 1, "erased": []}'},
        "no manifest": {"manifest": None},
        "half a manifest": {"manifest": json.dumps({"format": 1, "kind": "wayhold backup"}).encode()},
        "another kind": {"manifest": json.dumps({**manifest, "kind": "x"}).encode()},
        "another format": {"manifest": json.dumps({**manifest, "format": 2}).encode()},
    }.items():
        with pytest.raises(EmbeddedUnfit):
            check_backup(rewrite(path, tmp_path / "case.zip", **changes))
            pytest.fail(name)
    assert await has_no_tables(postgres)


async def test_a_backup_from_tomorrow_is_refused(stores: Stores, postgres: EmbeddedPostgres, make_backup: Made) -> None:
    path = await make_backup()
    manifest = check_backup(path)
    with pytest.raises(EmbeddedUnfit, match=r"schema 9999, this release knows .*install wayhold 0\.1\.0 or newer"):
        await restore(postgres, path, replace(manifest, schema=9999))
    with pytest.raises(EmbeddedUnfit, match=r"PostgreSQL 99\.1, the one here is"):
        await restore(postgres, path, replace(manifest, postgres="99.1"))


@pytest.mark.slow
async def test_a_backup_from_yesterday_is_brought_to_the_schema_of_today(
    servers: Servers, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    url = servers.create_database(migrated=False)
    connection = await asyncpg.connect(url)
    try:
        first = list_migrations()[0]
        await connection.execute(
            "CREATE TABLE schema_migrations (number integer PRIMARY KEY, name text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
        await connection.execute(first.sql)
        await connection.execute("INSERT INTO schema_migrations VALUES (1, 'first_schema')")
        await connection.execute("INSERT INTO users VALUES (gen_random_uuid())")
        path = tmp_path / "old.zip"
        await back_up(url, path, postgres.binary, "0.1.0")
    finally:
        await connection.close()
        servers.drop_database(url)
    report = await bring_back(postgres, path)
    assert len(report.migrations) == len(list_migrations()) - 1
    assert (await check(postgres.url)).is_current and len(await list_users(postgres.url)) == 1


@pytest.mark.slow
async def test_a_restore_that_fails_changes_nothing_and_may_be_repeated(
    stores: Stores, postgres: EmbeddedPostgres, make_backup: Made, tmp_path: Path
) -> None:
    player = await played(stores)
    path = await make_backup()
    await bring_back(postgres, path)
    before = await read_everything(postgres.url)
    # The dump is as it was written, and pg_restore cannot read it.
    broken = tmp_path / "broken.zip"
    with BackupWriter(broken) as writer:
        writer.write_dump(b"".join(read_dump(path))[:-3000])
        writer.finish(check_backup(path), await read_present_tombstones(stores.database_url))
    with pytest.raises(EmbeddedUnfit, match="pg_restore failed"):
        await bring_back(postgres, broken)
    assert await read_everything(postgres.url) == before

    def die(step: str) -> None:
        if step == "swapping":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await restore(postgres, path, check_backup(path), (), die)
    assert await read_everything(postgres.url) == before
    await bring_back(postgres, path)
    assert await list_users(postgres.url) == {player.key.user_id}
    connection = await asyncpg.connect(postgres.get_url("postgres"))
    try:
        names = {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
    finally:
        await connection.close()
    assert DATABASE in names and RESTORING not in names and REPLACED not in names


@pytest.mark.slow
async def test_grants_come_back_with_roles_that_were_missing(
    stores: Stores, postgres: EmbeddedPostgres, make_backup: Made
) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    await stores.fetch(f"CREATE ROLE {role}")
    await stores.fetch(f"GRANT SELECT ON users TO {role}")
    path = await make_backup()
    await stores.fetch(f"REVOKE SELECT ON users FROM {role}")
    await stores.fetch(f"DROP ROLE {role}")
    await bring_back(postgres, path)
    connection = await asyncpg.connect(postgres.url)
    try:
        assert await connection.fetchval("SELECT has_table_privilege($1, 'users', 'SELECT')", role)
        assert not await connection.fetchval("SELECT has_table_privilege($1, 'users', 'INSERT')", role)
        await connection.execute(f"DROP OWNED BY {role}")
        await connection.execute(f"DROP ROLE {role}")
    finally:
        await connection.close()


async def test_a_backup_that_fails_leaves_no_file(postgres: EmbeddedPostgres, tmp_path: Path, stores: Stores) -> None:
    with pytest.raises(StoreUnavailable):
        await back_up("postgresql://x@127.0.0.1:1/x", tmp_path / "a.zip", postgres.binary, "0")
    with pytest.raises(StoreUnavailable):  # a database that is not ours
        await back_up(postgres.url, tmp_path / "a.zip", postgres.binary, "0")
    with pytest.raises(EmbeddedUnfit, match="cannot be written"):
        await back_up(stores.database_url, tmp_path / "nowhere" / "a.zip", postgres.binary, "0")
    no_tools = replace(postgres.binary, path=tmp_path / "postgres")
    with pytest.raises(EmbeddedUnfit, match="without pg_dump"):
        await back_up(stores.database_url, tmp_path / "a.zip", no_tools, "0")
    failing = tmp_path / "pg_dump"
    failing.write_text("#!/bin/sh\necho half\necho 'pg_dump: error: out of luck' >&2\nexit 1\n")
    failing.chmod(0o755)
    with pytest.raises(EmbeddedUnfit, match="out of luck"):
        await back_up(stores.database_url, tmp_path / "a.zip", no_tools, "0")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pg_dump"]  # noqa: ASYNC240
