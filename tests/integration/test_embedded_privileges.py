"""
Postgres starts as root and as anybody, and no folder outside its own data changes its mode or owner for it.

Most of this can only be shown by root; an ordinary user's own run shows the ordinary case in every other test.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persistence.embedded import privileges
from persistence.embedded.binaries import get_postgres
from persistence.embedded.child import start_all_and_wait, start_and_wait, stop_all_and_wait, stop_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.errors import DataFolderUnusable, EmbeddedUnfit
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.embedded.valkey import EmbeddedValkey

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else"),
]

NAMELESS_UID = 54321


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that others may enter; what the way `copy` makes stays in it too."""
    folder = Path(tempfile.mkdtemp(prefix="wh-test-", dir="/tmp"))
    folder.chmod(0o755)
    copies = folder / "copies"
    copies.mkdir()
    monkeypatch.setattr(privileges, "COPY_PARENT", copies)
    monkeypatch.setattr("persistence.embedded.data_folder.COPY_PARENT", copies)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "_find_namespace", lambda binary, data_dir: None)


@pytest.fixture
def programs_open_to_all(parent: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    if not privileges._can_run(get_postgres(), parent / "none", nobody.pw_uid, nobody.pw_gid):
        pytest.skip("this installation lies in a folder that only root may enter")


def run_as(uid: int, work: Callable[[], None]) -> None:
    """Do some work in a forked process of another user. What it needs must have been imported here."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "see the captured output of the forked process"


def start_and_stop(data_dir: Path) -> None:
    with DataFolder(data_dir):
        children = [EmbeddedValkey(data_dir, for_tests=True), EmbeddedPostgres(data_dir, for_tests=True)]
        start_all_and_wait(children)
        stop_all_and_wait(children)
        assert [child.poll() for child in children] == [0, 0]


def list_modes(path: Path) -> list[tuple[str, int, int]]:
    return [(str(folder), folder.stat().st_mode, folder.stat().st_uid) for folder in (path, *path.parents)]


@pytest.mark.usefixtures("programs_open_to_all")
def test_root_drops_to_an_ordinary_user(parent: Path) -> None:
    before = list_modes(parent)
    postgres = EmbeddedPostgres(parent, for_tests=True)
    start_and_wait(postgres)
    try:
        owner = (parent / "postgres").stat().st_uid
        assert owner != 0
        assert postgres.pid is not None
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == owner
    finally:
        stop_and_wait(postgres)
    assert list_modes(parent) == before


def test_root_in_a_closed_folder_uses_a_namespace_and_opens_nothing(parent: Path) -> None:
    parent.chmod(0o700)
    before = list_modes(parent)
    postgres = EmbeddedPostgres(parent, for_tests=True)
    try:
        start_and_wait(postgres)
    except EmbeddedUnfit:
        pytest.skip("user namespaces are not allowed here")
    stop_and_wait(postgres)
    assert list_modes(parent) == before
    assert (parent / "postgres").stat().st_uid == 0
    # The same data, now that others may enter, and back again.
    for mode in (0o755, 0o700):
        parent.chmod(mode)
        start_and_wait(postgres)
        postgres.run_sql(f"CREATE TABLE seen_{mode} (id int)", database="wayhold")
        stop_and_wait(postgres)
    start_and_wait(postgres)
    postgres.run_sql("DROP TABLE seen_493, seen_448", database="wayhold")
    stop_and_wait(postgres)


@pytest.mark.usefixtures("no_namespaces")
def test_root_without_namespaces_copies_what_an_ordinary_user_needs(parent: Path) -> None:
    project = parent / "project"
    project.mkdir(mode=0o700)
    before = list_modes(project)
    start_and_stop(project / ".data")
    assert (project / ".data" / "postgres").is_symlink()
    postgres = EmbeddedPostgres(project / ".data", for_tests=True)
    start_and_wait(postgres)
    postgres.run_sql("CREATE TABLE kept (id int)", database="wayhold")
    stop_and_wait(postgres)
    start_and_stop(project / ".data")
    assert len(list((parent / "copies").iterdir())) == 1, "each start would leave a copy behind"
    assert list_modes(project) == before
    with DataFolder(project / ".data") as folder:
        folder.remove_server_data()
    assert not list((parent / "copies").iterdir())


@pytest.mark.usefixtures("no_namespaces", "programs_open_to_all")
def test_root_never_moves_data_that_is_there(parent: Path) -> None:
    project = parent / "project"
    project.mkdir(mode=0o755)
    start_and_stop(project / ".data")
    project.chmod(0o700)
    with pytest.raises(EmbeddedUnfit, match="does not run as root, and no other user can reach"):
        start_and_stop(project / ".data")
    assert (project / ".data" / "postgres" / "PG_VERSION").exists()
    assert not list((parent / "copies").iterdir())


@pytest.mark.usefixtures("programs_open_to_all")
def test_an_ordinary_user_runs_both(parent: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(parent, nobody, nobody)
    run_as(nobody, lambda: start_and_stop(parent / ".data"))
    assert (parent / ".data" / "postgres").stat().st_uid == nobody
    # `sudo make run` in between must not lock the user out afterwards.
    start_and_stop(parent / ".data")
    run_as(nobody, lambda: start_and_stop(parent / ".data"))


@pytest.mark.usefixtures("programs_open_to_all")
def test_a_user_without_a_name_runs_both(parent: Path) -> None:
    os.chown(parent, NAMELESS_UID, NAMELESS_UID)

    def start_if_allowed() -> None:
        try:
            start_and_stop(parent / ".data")
        except EmbeddedUnfit as error:
            assert "has no name" in str(error)

    run_as(NAMELESS_UID, start_if_allowed)


@pytest.mark.usefixtures("programs_open_to_all")
def test_root_in_a_users_folder_makes_data_that_the_user_can_use(parent: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    (parent / ".data").mkdir()
    os.chown(parent / ".data", nobody, nobody)
    start_and_stop(parent / ".data")
    run_as(nobody, lambda: start_and_stop(parent / ".data"))


def test_leftovers_of_another_user_are_named(parent: Path) -> None:
    data_dir = parent / ".data"
    data_dir.mkdir()
    (data_dir / "valkey.lock").touch(mode=0o600)
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(data_dir, nobody, nobody)

    def start() -> None:
        with pytest.raises(EmbeddedUnfit, match=r"valkey cannot be started: Permission denied .*/valkey.lock; make"):
            start_and_wait(EmbeddedValkey(data_dir))

    run_as(nobody, start)


def test_a_folder_one_may_not_write_to_is_refused(parent: Path) -> None:
    data_dir = parent / ".data"
    data_dir.mkdir(mode=0o755)

    def try_both() -> None:
        with pytest.raises(
            DataFolderUnusable, match=r"cannot write to .*Permission denied \(it belongs to root\); choose"
        ):
            DataFolder(data_dir)
        with pytest.raises(
            DataFolderUnusable, match=r"cannot make the data folder .*Permission denied; choose another"
        ):
            DataFolder(data_dir / "deeper")

    run_as(pwd.getpwnam("nobody").pw_uid, try_both)
    assert not list(data_dir.iterdir())
