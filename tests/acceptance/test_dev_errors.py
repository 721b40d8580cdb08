"""
When things are wrong: each ends in one clear line on stderr that says what to do, with the promised exit code, and
nothing was changed.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app.children import open_listeners
from persistence.embedded.child import start_and_wait, stop_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.valkey import EmbeddedValkey
from tests.servers import Servers

ROOT = Path(__file__).parents[2]
DEADLINE_S = 40.0


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The installed command, in an environment without settings but these."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("WAYHOLD_", "REDIS_", "DATABASE_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def check_refusal(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "; " in lines[0], f"no next step in: {lines[0]}"
    for word in words:
        assert word in lines[0], lines[0]
    assert "Traceback" not in done.stderr and "hunter2" not in done.stderr + done.stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's tmp_path: as root, Postgres runs as somebody else and must be able to pass through.
    path = Path(tempfile.mkdtemp(prefix="wh-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def start_dev(folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("dev", "--data-dir", str(folder / "data"), "--play-port", "0", "--ops-port", "0", *flags, **environment)


def list_tree(path: Path) -> list[str]:
    return sorted(str(entry) for entry in path.rglob("*"))


@pytest.mark.parametrize("which", ["play", "ops"])
def test_a_port_that_is_taken(folder: Path, which: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        done = start_dev(folder, f"--{which}-port", str(port))
    check_refusal(done, 2, f"port {port}", f"--{which}-port")
    assert list_tree(folder) == []


def test_a_data_folder_that_is_in_use(folder: Path) -> None:
    with DataFolder(folder / "data"):
        before = list_tree(folder)
        done = start_dev(folder)
        assert list_tree(folder) == before
        check_refusal(run("status", "--data-dir", str(folder / "data")), 1, "starting or stopping")
    check_refusal(done, 4, "in use", str(os.getpid()), "stop")


def test_a_data_folder_of_another_postgres(folder: Path) -> None:
    (folder / "data" / "postgres" / "global").mkdir(parents=True)
    (folder / "data" / "lock").touch()
    (folder / "data" / "postgres" / "PG_VERSION").write_text("9.6\n")
    (folder / "data" / "postgres" / "global" / "pg_control").write_text("precious")
    before = list_tree(folder)
    check_refusal(start_dev(folder), 3, "9.6", "--data-dir")
    assert list_tree(folder) == before
    assert (folder / "data" / "postgres" / "global" / "pg_control").read_text() == "precious"


def test_a_data_folder_of_somebody_else(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "thesis.tex").write_text("precious")
    check_refusal(start_dev(folder, "--fresh"), 2, "thesis.tex", "--data-dir")
    assert list_tree(folder) == [str(folder / "data"), str(folder / "data" / "thesis.tex")]


def test_a_data_folder_that_is_a_file(folder: Path) -> None:
    (folder / "data").write_text("precious")
    check_refusal(start_dev(folder), 2, "not a folder", "--data-dir")


def obey_modes() -> None:
    """Runs in the new process: root too must not write where the modes forbid it."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform != "linux", reason="drops capabilities")
def test_no_write_permission(folder: Path) -> None:
    locked = folder / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    ports = ["--play-port", "0", "--ops-port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "dev", "--data-dir", str(locked / "data"), *ports],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        preexec_fn=obey_modes,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    check_refusal(done, 2, "ermission", "--data-dir")
    assert list_tree(folder) == [str(locked)]


def test_a_disk_that_is_nearly_full(folder: Path) -> None:
    done = start_dev(folder, WAYHOLD_DISK_FREE_MIN_BYTES=str(2**60))
    check_refusal(done, 3, "nearly full", "make room")
    assert list_tree(folder) == []


@pytest.mark.parametrize("command", ["dev", "serve", "flusher", "settings", "doctor", "token", "status"])
def test_an_unknown_setting(folder: Path, command: str) -> None:
    flags = ["--player", "x"] if command == "token" else []
    done = run(command, *flags, WAYHOLD_PLAY_PROT="1", WAYHOLD_DATA_DIR=str(folder / "data"))
    if command == "doctor":
        assert done.returncode == 1 and "WAYHOLD_PLAY_PORT" in done.stdout
        return
    check_refusal(done, 2, "WAYHOLD_PLAY_PROT", "did you mean WAYHOLD_PLAY_PORT?")
    assert list_tree(folder) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:hunter2@127.0.0.1:1/0", ["REDIS_URL", "redis://:***@127.0.0.1:1"]),
        ("unix:///nonexistent/redis.sock", ["REDIS_URL", "/nonexistent/redis.sock"]),
        ("redis://no.such.host.invalid/0", ["REDIS_URL", "no.such.host.invalid"]),
    ],
)
def test_a_redis_that_cannot_be_reached(folder: Path, url: str, words: list[str]) -> None:
    check_refusal(start_dev(folder, REDIS_URL=url), 3, *words)
    assert list_tree(folder) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@127.0.0.1:1/d",
        "postgresql://u@/d?host=%2Fnonexistent",
        "postgresql://u:hunter2@no.such.host.invalid/d",
    ],
)
def test_a_postgres_that_cannot_be_reached(folder: Path, url: str) -> None:
    check_refusal(start_dev(folder, DATABASE_URL=url), 3, "DATABASE_URL", "cannot be used")
    assert list_tree(folder) == []


def test_a_server_that_never_answers(folder: Path) -> None:
    silent = open_listeners("127.0.0.1", 0, 1, "play")[0]
    port = silent.getsockname()[1]
    try:
        check_refusal(start_dev(folder, REDIS_URL=f"redis://127.0.0.1:{port}/0"), 3, "REDIS_URL")
        check_refusal(start_dev(folder, DATABASE_URL=f"postgresql://u@127.0.0.1:{port}/d"), 3, "DATABASE_URL")
    finally:
        silent.close()


def test_a_database_that_is_not_there(folder: Path, servers: Servers) -> None:
    done = start_dev(folder, DATABASE_URL=servers.postgres.get_url("no_such_database"))
    check_refusal(done, 3, "DATABASE_URL", "no_such_database")


@pytest.fixture
def volatile_redis(folder: Path) -> Iterator[Callable[..., str]]:
    valkey = EmbeddedValkey(folder, for_tests=True)
    start_and_wait(valkey)

    def configure(*commands: bytes) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(valkey.socket_path))
            for command in commands:
                client.sendall(command + b"\r\n")
                answer = client.recv(1024)
                assert answer.startswith(b"+OK"), answer
        return valkey.url

    yield configure
    stop_and_wait(valkey)


SECRET = {"WAYHOLD_JWT_SECRET": "k" * 40}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (b"CONFIG SET maxmemory-policy allkeys-lru", "evicts"),
        (b"CONFIG SET maxmemory-policy volatile-ttl", "evicts"),
        (b"CONFIG SET appendonly no", "appendonly is off"),
    ],
)
def test_a_redis_that_may_forget(
    volatile_redis: Callable[..., str], database_url: str, command: bytes, words: str
) -> None:
    url = volatile_redis(command)
    done = run("serve", "--play-port", "0", "--ops-port", "0", REDIS_URL=url, DATABASE_URL=database_url, **SECRET)
    check_refusal(done, 3, words, "--allow-volatile-redis")


def test_a_redis_is_judged_by_info_alone(volatile_redis: Callable[..., str], database_url: str) -> None:
    """A user of a managed Redis may have no CONFIG."""
    url = volatile_redis(
        b"CONFIG SET appendonly no", b"ACL SETUSER guest on >hunter2 ~* &* +@all -config", b"ACL SETUSER default off"
    )
    url = url.replace("unix://", "unix://guest:hunter2@")
    done = run("serve", "--play-port", "0", "--ops-port", "0", REDIS_URL=url, DATABASE_URL=database_url, **SECRET)
    check_refusal(done, 3, "appendonly is off")


def test_a_redis_that_refuses_our_password(volatile_redis: Callable[..., str], database_url: str) -> None:
    url = volatile_redis(b"ACL SETUSER guest on >right ~* &* +@all").replace("unix://", "unix://guest:hunter2@")
    done = run("serve", "--play-port", "0", "--ops-port", "0", REDIS_URL=url, DATABASE_URL=database_url, **SECRET)
    check_refusal(done, 3, "REDIS_URL", "password")


def test_a_schema_that_is_not_there(redis_url: str, servers: Servers) -> None:
    url = servers.create_database(migrated=False)
    try:
        done = run("serve", "--play-port", "0", "--ops-port", "0", REDIS_URL=redis_url, DATABASE_URL=url, **SECRET)
        check_refusal(done, 3, "schema is 0", "wayhold migrate")
        checked = run("migrate", "--check", DATABASE_URL=url)
        assert checked.returncode == 1 and "wayhold migrate" in checked.stdout
        check_refusal(run("flusher", REDIS_URL=redis_url, DATABASE_URL=url), 3, "wayhold migrate")
        assert run("migrate", "--check", DATABASE_URL=url).returncode == 1, "looking has migrated it"
        assert run("migrate", DATABASE_URL=url).returncode == 0
        assert run("migrate", "--check", DATABASE_URL=url).returncode == 0
    finally:
        servers.drop_database(url)


@pytest.mark.parametrize("command", ["dev", "serve", "migrate"])
def test_a_schema_that_is_newer_than_this_release(
    folder: Path, redis_url: str, database_url: str, command: str
) -> None:
    asyncio.run(_pretend_newer(database_url))
    flags = [] if command == "migrate" else ["--play-port", "0", "--ops-port", "0", "--data-dir", str(folder / "data")]
    done = run(command, *flags, REDIS_URL=redis_url, DATABASE_URL=database_url, **SECRET)
    check_refusal(done, 3, "9999", "newer")
    assert list_tree(folder) == []


async def _pretend_newer(database_url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO schema_migrations (number, name) VALUES (9999, 'from_the_future')")
    await connection.close()


class OldRedis:
    """Answers INFO and TIME as a server would that is too old, or a replica."""

    def __init__(self, info: str) -> None:
        self._listener = open_listeners("127.0.0.1", 0, 1, "play")[0]
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._info = info.encode()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    while command := connection.recv(65536):
                        connection.sendall(b"".join(self._answer(part) for part in command.split(b"*")[1:]))
        except OSError:
            pass

    def _answer(self, command: bytes) -> bytes:
        if b"INFO" in command and b"SETINFO" not in command:
            return b"$%d\r\n%s\r\n" % (len(self._info), self._info)
        if b"TIME" in command:
            return b"*2\r\n$10\r\n1900000000\r\n$1\r\n0\r\n"
        return b"+OK\r\n"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=5)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ("redis_version:6.2.14\r\nrole:master\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\n", "too old"),
        ("redis_version:7.2.4\r\nvalkey_version:7.2.5\r\nrole:master\r\n", "too old"),
        ("redis_version:7.2.4\r\nrole:slave\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\n", "refuses writes"),
        ("redis_version:7.2.4\r\nrole:master\r\ncluster_enabled:1\r\n", "cluster"),
    ],
)
def test_a_redis_that_is_unfit(folder: Path, info: str, words: str) -> None:
    old = OldRedis(info)
    try:
        check_refusal(start_dev(folder, REDIS_URL=old.url), 3, words)
    finally:
        old.close()


def test_serve_without_servers_or_key(redis_url: str, database_url: str) -> None:
    check_refusal(run("serve"), 2, "REDIS_URL", "wayhold dev")
    check_refusal(run("serve", REDIS_URL=redis_url), 2, "DATABASE_URL")
    check_refusal(run("serve", REDIS_URL=redis_url, DATABASE_URL=database_url), 2, "WAYHOLD_JWT_SECRET_FILE")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["walkk"], ["did you mean walk?"]),
        (["dev", "--play-prt", "1"], ["did you mean --play-port?"]),
        (["dev", "--play-port"], ["expected one argument"]),
        (["dev", "--play-port", "x"], ["--play-port", "whole number"]),
        (["dev", "--play-port", "65536"], ["65,535", "change --play-port"]),
        (["dev", "--play-host", "192.0.2.1", "--ops-port", "0"], ["192.0.2.1"]),
        (["dev", "extra"], ["extra"]),
        (["token", "--player", "nobody"], ["not a UUID"]),
        (["token"], ["--player"]),
        (["serve", "--config", "/nonexistent.toml"], ["/nonexistent.toml"]),
    ],
)
def test_what_was_typed_is_wrong(arguments: list[str], words: list[str]) -> None:
    check_refusal(run(*arguments), 2, *words)


def test_nothing_runs(folder: Path) -> None:
    data = str(folder / "data")
    # In the words of whoever typed it: here as a module.
    check_refusal(run("status", "--data-dir", data), 3, "start one: ", "-m gateway.cli dev --data-dir")
    stopped = run("stop", "--data-dir", data)
    assert stopped.returncode == 0 and "nothing runs" in stopped.stdout
    assert list_tree(folder) == []


def test_a_file_that_only_says_that_something_runs(folder: Path) -> None:
    """What a killed supervisor left behind: its number may be somebody else's by now, who must not be stopped."""
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        data = folder / "data"
        data.mkdir()
        ready: dict[str, Any] = {
            "format": 1,
            "version": "0",
            "play_url": "ws://127.0.0.1:1/v1/play",
            "ops_url": "http://127.0.0.1:1",
            "redis_url": "redis://h",
            "database_url": "postgresql://h/d",
            "data_dir": str(data),
            "processes": {"supervisor": stranger.pid},
        }
        (data / "ready.json").write_text(json.dumps(ready))
        assert run("status", "--data-dir", str(data)).returncode == 3
        assert "nothing runs" in run("stop", "--data-dir", str(data)).stdout
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()
