"""`wayhold backup` and `wayhold restore` on the data folder of a `dev` that is stopped."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from gateway.app.backup import NAME_PATTERN, remove_oldest
from gateway.app.errors import ExitCode
from gateway.cli import main
from persistence.cold.migrate import migrate
from persistence.cold.tombstones import hash_of
from persistence.embedded.child import start_and_wait, stop_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.postgres import EmbeddedPostgres

KEPT, ERASED = uuid.uuid4(), uuid.uuid4()


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: as root, Postgres runs as somebody else who must be able to enter.
    path = Path(tempfile.mkdtemp(prefix="wh-backup-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def run_sql(data_dir: Path, *statements: tuple[object, ...], migrated: bool = False) -> list[object]:
    async def work(url: str) -> list[object]:
        if migrated:
            await migrate(url)
        connection = await asyncpg.connect(url)
        try:
            return [await connection.fetchval(*statement) for statement in statements]
        finally:
            await connection.close()

    with DataFolder(data_dir):
        server = EmbeddedPostgres(data_dir, for_tests=True)
        start_and_wait(server)
        try:
            return asyncio.run(work(server.url))
        finally:
            stop_and_wait(server)


def list_users(data_dir: Path) -> list[str]:
    (found,) = run_sql(data_dir, ("SELECT array_agg(id::text ORDER BY id) FROM users",))
    return found or []  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_backup_comes_back_here_elsewhere_and_over_a_damaged_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, old, newer = folder / "home", folder / "old.zip", folder / "newer.zip"

    def wayhold(command: str, *arguments: object, data_dir: Path = home) -> tuple[int, str, str]:
        code = main([command, *map(str, arguments), "--data-dir", str(data_dir)])
        said = capsys.readouterr()
        return code, said.out, said.err

    add = "INSERT INTO users (id) VALUES ($1)"
    (_, _, hash_key) = run_sql(home, (add, KEPT), (add, ERASED), ("SELECT hash_key FROM installation",), migrated=True)
    code, said, _ = wayhold("backup", old)
    assert code == ExitCode.OK and said.startswith(f"backed up 2 players to {old} (")
    user_hash = hash_of(hash_key, "user", str(ERASED))  # type: ignore[arg-type]
    tombstone = "INSERT INTO erased_players (user_hash, erased_at) VALUES ($1, now())"
    run_sql(home, ("DELETE FROM users WHERE id = $1", ERASED), (tombstone, user_hash))
    code, said, _ = wayhold("backup", newer, "--tombstones", folder / "tombstones.json", "--json")
    facts = json.loads(said)
    assert code == ExitCode.OK and (facts["users"], facts["erased"], facts["file"]) == (1, 1, str(newer))

    # Over what is there: asked first, backed up first, and who was erased stays erased.
    code, _, error = wayhold("restore", old)
    assert code == ExitCode.USAGE and "add --yes" in error
    (home / "valkey").mkdir()
    code, said, _ = wayhold("restore", old, "--yes")
    assert code == ExitCode.OK and "1 of its players had been erased since" in said
    assert list_users(home) == [str(KEPT)] and not (home / "valkey").exists()
    (safety,) = (home / "backups").iterdir()
    code, said, _ = wayhold("restore", "--check", safety)
    assert code == ExitCode.OK and "1 players" in said

    # Into an empty folder, without and with tombstones.
    second, third = folder / "second", folder / "third"
    code, said, _ = wayhold("restore", old, "--yes", data_dir=second)
    assert code == ExitCode.OK and "whoever was erased after this backup was taken is back" in said
    assert list_users(second) == sorted([str(KEPT), str(ERASED)])
    code, said, _ = wayhold("restore", old, "--yes", "--tombstones", folder / "tombstones.json", data_dir=third)
    assert code == ExitCode.OK and list_users(third) == [str(KEPT)]

    # Over a cluster that cannot be started.
    (third / "postgres" / "global" / "pg_control").write_bytes(b"damaged")
    code, _, error = wayhold("restore", newer, "--yes", data_dir=third)
    assert code == ExitCode.UNFIT and "cannot be started" in error and "--aside" in error
    code, said, _ = wayhold("restore", newer, "--yes", "--aside", data_dir=third)
    assert code == ExitCode.OK and "postgres.old-" in said
    assert list_users(third) == [str(KEPT)]


def test_what_cannot_be_is_said_in_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_backup = folder / "no.zip"
    no_backup.write_text("no backup")
    for arguments, code, said in (
        (["backup"], ExitCode.USAGE, "there is nowhere to write to"),
        (["backup", str(folder / "x" / "y.zip")], ExitCode.USAGE, "is not there"),
        (["backup", str(folder), "--keep", "0"], ExitCode.USAGE, "give a folder, and 1 or more"),
        (["backup", str(folder)], ExitCode.UNFIT, "there is no database in"),
        (["backup", str(folder), "--database-url", "postgresql://x/y"], ExitCode.USAGE, "use pg_dump"),
        (["restore", str(no_backup), "--yes"], ExitCode.UNFIT, "is no backup"),
        (["restore", str(folder / "none.zip"), "--yes"], ExitCode.UNFIT, "is not there"),
    ):
        assert main([*arguments, "--data-dir", str(folder / "data")]) == code, arguments
        assert said in capsys.readouterr().err
    assert sorted(entry.name for entry in folder.iterdir()) == ["no.zip"]


def test_keeping_the_newest_touches_no_other_file(tmp_path: Path) -> None:
    ours = [f"wayhold-2026112{day}-120000.backup.zip" for day in range(5)]
    for name in (*ours, "wayhold-20261120.zip", "holiday.zip", ".wayhold-20261120-120000.backup.zip.17"):
        (tmp_path / name).touch()
    assert all(map(NAME_PATTERN.fullmatch, ours))
    assert [path.name for path in remove_oldest(tmp_path, 2)] == ours[:3]
    assert remove_oldest(tmp_path, 2) == []
    assert len(list(tmp_path.iterdir())) == 5
