"""
The embedded servers come up, whatever their last end was, and never at the price of data.

Each test has a data folder of its own: what is tested here are starts and ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persistence.embedded.binaries import get_postgres
from persistence.embedded.child import Child, start_all_and_wait, start_and_wait, stop_all_and_wait, stop_and_wait
from persistence.embedded.data_folder import DataFolder, find_owner_pid
from persistence.embedded.errors import ChildFailed, DataFolderBusy, DataFolderUnusable, EmbeddedUnfit
from persistence.embedded.log_file import LOG_BYTES_MAX
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.embedded.postgres_wire import PostgresRefused
from persistence.embedded.server_process import is_alive
from persistence.embedded.sockets import SOCKET_PATH_BYTES_MAX
from persistence.embedded.valkey import EmbeddedValkey

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


class Pair:
    """Both servers on one data folder, and a word to remember in each."""

    def __init__(self, data_dir: Path) -> None:
        self.valkey = EmbeddedValkey(data_dir, for_tests=True)
        self.postgres = EmbeddedPostgres(data_dir, for_tests=True)
        self.children: list[Child] = [self.valkey, self.postgres]

    def start(self) -> None:
        start_all_and_wait(self.children)

    def stop(self) -> None:
        stop_all_and_wait(self.children)

    def remember(self, word: str) -> None:
        assert ask(self.valkey, f"SET word {word}") == "+OK"
        self.postgres.run_sql(f"CREATE TABLE remembered_{word} (id int)", database="wayhold")

    def check_remembers(self, word: str) -> None:
        assert ask(self.valkey, "GET word").endswith(word)
        # Making it again is refused when it is there.
        with pytest.raises(PostgresRefused, match="42P07"):
            self.postgres.run_sql(f"CREATE TABLE remembered_{word} (id int)", database="wayhold")


def ask(valkey: EmbeddedValkey, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(valkey.socket_path))
        client.sendall(command.encode() + b"\r\n")
        return client.recv(4096).decode().strip()


def wait_until(is_so: Callable[[], bool], what: str, deadline_s: float = 15.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """True also for a process that has ended and that nobody has asked about yet (an orphan in a container)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return not is_alive(pid)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wh-test-", dir="/tmp"))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    yield folder
    for link in folder.rglob("sockets"):
        if link.is_symlink():
            shutil.rmtree(link.readlink(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pair(data_dir: Path) -> Iterator[Pair]:
    pair = Pair(data_dir)
    yield pair
    for child in pair.children:
        child.kill()
    pair.stop()


@contextlib.contextmanager
def hold_servers(data_dir: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    """Both servers under another process; when the block ends that process and the servers are gone."""
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.hold_servers", str(data_dir), *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pids: dict[str, int] = {}
    try:
        assert holder.stdout is not None
        pids = json.loads(holder.stdout.readline())
        yield holder, pids
    finally:
        holder.kill()
        holder.communicate(timeout=10)
        for pid in pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(map(is_gone, pids.values())), "the servers' end")


def test_data_survives_a_clean_end_and_a_kill_of_each(pair: Pair) -> None:
    pair.start()
    pair.remember("first")
    pair.stop()
    assert [child.poll() for child in pair.children] == [0, 0]
    pair.start()
    pair.check_remembers("first")
    for child in pair.children:
        child.kill()
        wait_until(lambda child=child: child.poll() is not None, "the death")  # type: ignore[misc]
        assert child.poll() == -signal.SIGKILL
        start_and_wait(child)
    pair.check_remembers("first")


def test_postgres_comes_back_while_sessions_of_the_killed_one_still_end(pair: Pair) -> None:
    start_and_wait(pair.postgres)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(pair.postgres.socket_dir / ".s.PGSQL.5432"))
        hello = b"\x00\x03\x00\x00user\x00wayhold\x00database\x00wayhold\x00\x00"
        client.sendall((len(hello) + 4).to_bytes(4, "big") + hello)
        client.recv(4096)
        client.sendall(b"Q\x00\x00\x00\x19SELECT pg_sleep(300)\x00")
        pair.postgres.kill()
        wait_until(lambda: pair.postgres.poll() is not None, "the death")
        start_and_wait(pair.postgres)
    stop_and_wait(pair.postgres)
    assert pair.postgres.poll() == 0


@pytest.mark.parametrize("options", [(), ("--without-death-signals",)])
def test_a_killed_parent_ends_both_servers_within_five_seconds(
    data_dir: Path, pair: Pair, options: tuple[str, ...]
) -> None:
    with hold_servers(data_dir, *options) as (holder, pids):
        os.kill(holder.pid, signal.SIGKILL)
        wait_until(lambda: all(map(is_gone, pids.values())), "the servers' end", 5.0)
    with DataFolder(data_dir):
        pair.start()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs signals at a parent's death to be held back")
def test_servers_left_over_from_a_killed_parent_are_ended_before_new_ones_start(data_dir: Path, pair: Pair) -> None:
    """Stopped processes do not hear that their parent died: the nearest thing to orphans that live on."""
    with hold_servers(data_dir) as (holder, pids):
        for pid in pids.values():
            os.kill(pid, signal.SIGSTOP)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(timeout=10)
        with DataFolder(data_dir):
            pair.start()
        assert all(map(is_gone, pids.values()))


def test_a_second_valkey_never_shares_the_files_of_the_first(data_dir: Path, pair: Pair) -> None:
    start_and_wait(pair.valkey)
    ask(pair.valkey, "SET word kept")
    second = EmbeddedValkey(data_dir, for_tests=True)
    # It ends the first, as it would end one that a dead supervisor has left.
    start_and_wait(second)
    assert pair.valkey.poll() == 0
    assert ask(second, "GET word").endswith("kept")
    stop_and_wait(second)


def test_a_stale_pid_file_that_names_a_stranger_is_no_hindrance(data_dir: Path, pair: Pair) -> None:
    """After a kill in a container the number of the dead server soon belongs to another process."""
    start_and_wait(pair.postgres)
    pair.postgres.kill()
    wait_until(lambda: pair.postgres.poll() is not None, "the death")
    stranger = subprocess.Popen(
        ["sleep", "100"], user=(data_dir / "postgres").stat().st_uid if not os.geteuid() else None
    )
    try:
        for path in (data_dir / "postgres" / "postmaster.pid", data_dir / "sockets" / "pg" / ".s.PGSQL.5432.lock"):
            lines = path.read_text().splitlines(keepends=True)
            path.write_text(f"{stranger.pid}\n" + "".join(lines[1:]))
        start_and_wait(pair.postgres)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_interrupted_initdb_is_done_again(data_dir: Path, pair: Pair) -> None:
    pair.postgres.spawn()
    wait_until(lambda: (data_dir / "postgres.new" / "PG_VERSION").exists() or pair.postgres.check_ready(), "initdb")
    pair.postgres.kill()
    assert not (data_dir / "postgres").exists()
    start_and_wait(pair.postgres)
    assert not (data_dir / "postgres.new").exists()


def test_a_folder_no_postgres_could_start_is_put_aside_and_not_deleted(data_dir: Path, pair: Pair) -> None:
    folder = data_dir / "postgres"
    folder.mkdir(mode=0o700)
    (folder / "PG_VERSION").write_text(f"{get_postgres().major}\n")
    (folder / "somebody's.txt").write_text("precious")
    start_and_wait(pair.postgres)
    assert (data_dir / "postgres.incomplete-1" / "somebody's.txt").read_text() == "precious"


def test_data_of_another_major_version_stops_the_start_and_stays(data_dir: Path, pair: Pair) -> None:
    start_and_wait(pair.postgres)
    stop_and_wait(pair.postgres)
    version = data_dir / "postgres" / "PG_VERSION"
    version.write_text("13\n")
    before = sorted(path.name for path in data_dir.iterdir())
    told = r"PostgreSQL 13.*installed one is \d+.*wayhold dev --upgrade-data.*or install PostgreSQL 13 again"
    with pytest.raises(EmbeddedUnfit, match=told):
        start_and_wait(pair.postgres)
    assert sorted(path.name for path in data_dir.iterdir()) == before
    assert pair.postgres.pid is None


def test_a_database_without_its_version_file_is_not_made_anew(data_dir: Path, pair: Pair) -> None:
    (data_dir / "postgres" / "global").mkdir(parents=True)
    (data_dir / "postgres" / "global" / "pg_control").touch()
    with pytest.raises(EmbeddedUnfit, match="PG_VERSION file is missing"):
        start_and_wait(pair.postgres)


def test_a_torn_append_only_file_loses_its_torn_end_alone(data_dir: Path, pair: Pair) -> None:
    start_and_wait(pair.valkey)
    ask(pair.valkey, "SET word kept")
    stop_and_wait(pair.valkey)
    log = next((data_dir / "valkey" / "appendonlydir").glob("*.incr.aof"))
    log.write_bytes(log.read_bytes() + b"*3\r\n$3\r\nSET\r\n$4\r\nwo")
    start_and_wait(pair.valkey)
    assert ask(pair.valkey, "GET word").endswith("kept")


def test_a_server_that_cannot_start_says_why(data_dir: Path, pair: Pair) -> None:
    start_and_wait(pair.valkey)
    ask(pair.valkey, "SET word kept")
    stop_and_wait(pair.valkey)
    log = next((data_dir / "valkey" / "appendonlydir").glob("*.incr.aof"))
    log.write_bytes(b"no such thing\r\n" + log.read_bytes())
    with pytest.raises(ChildFailed, match=r"valkey ended with exit code 1.*[Bb]ad file format") as raised:
        start_and_wait(pair.valkey)
    assert raised.value.log_tail


@pytest.mark.parametrize("name", ["a" * (SOCKET_PATH_BYTES_MAX + 20), "with space, comma 'quote' and ü"])
def test_any_path_will_do(data_dir: Path, name: str) -> None:
    pair = Pair(data_dir / name)
    with DataFolder(data_dir / name):
        try:
            pair.start()
            pair.remember("here")
            first = pair.valkey.url
            pair.stop()
            again = Pair(data_dir / name)
            assert again.valkey.url == first, "killed runs would leave a folder each behind"
            pair.start()
            pair.check_remembers("here")
        finally:
            pair.stop()


def test_a_large_log_is_put_aside_while_the_server_writes_it(data_dir: Path, pair: Pair) -> None:
    start_and_wait(pair.valkey)
    with pair.valkey.log_path.open("ab") as log:
        log.write(b"x" * 100 + b"\n" + bytes(LOG_BYTES_MAX))
    pair.valkey._log_looked_at = 0.0
    pair.valkey.poll()
    assert pair.valkey.log_path.stat().st_size < 1000
    assert (data_dir / "logs" / "valkey.log.1").stat().st_size <= LOG_BYTES_MAX
    stop_and_wait(pair.valkey)
    assert b"bye bye" in pair.valkey.log_path.read_bytes()


def test_a_data_folder_has_one_owner(data_dir: Path) -> None:
    with DataFolder(data_dir) as folder:
        assert find_owner_pid(data_dir) == os.getpid()
        with pytest.raises(DataFolderBusy, match=rf"in use by process {os.getpid()}; stop that one"):
            DataFolder(data_dir)
        assert folder.path == data_dir
    assert find_owner_pid(data_dir) is None
    DataFolder(data_dir).close()


def test_who_only_looks_at_the_lock_is_no_owner(data_dir: Path) -> None:
    """`status` in another terminal tries the lock too, for an instant, and must not make a start fail."""
    DataFolder(data_dir).close()
    with (data_dir / "lock").open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        timer = threading.Timer(0.03, lambda: fcntl.flock(looker, fcntl.LOCK_UN))
        timer.start()
        DataFolder(data_dir).close()
        timer.join()


def test_a_nearly_full_disk_is_refused_before_anything_is_made(data_dir: Path) -> None:
    with pytest.raises(EmbeddedUnfit, match=r"nearly full \(\d+ MiB free, .* MiB needed\); make room"):
        DataFolder(data_dir / "new", disk_free_bytes_min=2**60)
    assert not (data_dir / "new").exists()


def test_a_file_in_place_of_the_folder_is_refused(data_dir: Path) -> None:
    (data_dir / "file").touch()
    with pytest.raises(DataFolderUnusable, match="is not a folder; choose another one with --data-dir"):
        DataFolder(data_dir / "file")


def test_server_data_goes_when_asked_and_nothing_else(data_dir: Path, pair: Pair) -> None:
    with DataFolder(data_dir) as folder:
        (data_dir / "jwt_secret").write_text("kept")
        pair.start()
        pair.stop()
        folder.remove_server_data()
    assert sorted(path.name for path in data_dir.iterdir()) == [
        "jwt_secret",
        "lock",
        "logs",
        "postgres.lock",
        "valkey.lock",
    ]
