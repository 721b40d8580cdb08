"""`wayhold dev` and `wayhold serve` as a whole: start, restart of every part, stop, and the next start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.app.ready import is_alive, read_ready
from persistence.embedded.child import start_and_wait, stop_and_wait
from persistence.embedded.data_folder import find_owner_pid
from persistence.embedded.valkey import EmbeddedValkey
from tests.acceptance.dev_rig import REPOSITORY, RunningDev, run_dev

pytestmark = pytest.mark.timeout(180)
DEADLINE_S = 30.0
WAYHOLD = (sys.executable, "-m", "gateway.cli")


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def is_ready(dev: RunningDev) -> bool:
    return dev.run("status").returncode == 0


async def add_user(database_url: str, user_id: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO users (id) VALUES ($1)", user_id)
    await connection.close()


async def count_users(database_url: str, user_id: str) -> int:
    connection = await asyncpg.connect(database_url)
    count = await connection.fetchval("SELECT count(*) FROM users WHERE id = $1", user_id)
    await connection.close()
    return int(count)


def start_again(dev: RunningDev, *flags: str) -> None:
    """Start after a kill: the killed supervisor's ready.json is still there for a moment."""
    dev.start(*flags)

    def is_ours() -> bool:
        assert dev._process is not None and dev._process.poll() is None, dev.read_log()
        found = read_ready(dev.data_dir / "ready.json")
        return found is not None and found.supervisor_pid == dev._process.pid

    wait_until(is_ours, "a new ready.json")


PLAYER = "6d3c1c0e-7b0b-4d0c-9d5a-0c8f4f2f9f11"


def test_start_look_stop_and_start_again() -> None:
    with run_dev() as dev:
        ready = dev.ready()
        lines = dev.read_log().splitlines()
        head = "\n".join(lines[:6])
        for shown in (ready["play_url"], ready["ops_url"], str(dev.data_dir), "walk --data-dir"):
            assert shown in head, head
        wait_until(lambda: any(line.startswith("ready in ") for line in dev.read_log().splitlines()), "ready in")
        assert set(ready["processes"]) == {"supervisor", "valkey", "postgres", "flusher-1", "gateway-1", "ops-1"}
        assert ready["play_url"].endswith("/v1/play") and ready["format"] == 1
        assert (dev.data_dir / "ready.json").stat().st_mode & 0o777 == 0o600
        assert (dev.data_dir / "jwt_secret").stat().st_mode & 0o777 == 0o600
        secret = (dev.data_dir / "jwt_secret").read_text()

        status = json.loads(dev.run("status", "--json").stdout)
        assert status["ready"] and status["processes"] == ready["processes"]
        doctor = dev.run("doctor")
        assert doctor.returncode == 0, doctor.stdout
        assert dev.run("migrate", "--check").returncode == 0
        assert get(ready["ops_url"] + "/livez")[0] == 200
        assert b"wayhold_updates_accepted_total" in get(ready["ops_url"] + "/metrics")[1]
        busy = dev.run("dev")
        assert busy.returncode == 4 and str(ready["processes"]["supervisor"]) in busy.stderr
        asyncio.run(add_user(ready["database_url"], PLAYER))

        began = time.monotonic()
        assert dev.stop() == 0
        assert time.monotonic() - began < 10
        assert not any(map(is_alive, ready["processes"].values()))
        assert not (dev.data_dir / "ready.json").exists()
        assert dev.run("status").returncode == 3

        began = time.monotonic()
        dev.start()
        took_s = time.monotonic() - began
        assert asyncio.run(count_users(dev.ready()["database_url"], PLAYER)) == 1
        assert (dev.data_dir / "jwt_secret").read_text() == secret
        stopped = dev.run("stop")
        assert stopped.returncode == 0 and "stopped" in stopped.stdout
        assert not (dev.data_dir / "ready.json").exists()
        dev.start("--fresh")
        assert asyncio.run(count_users(dev.ready()["database_url"], PLAYER)) == 0
        assert took_s < 3 * float(os.environ.get("WAYHOLD_TEST_SLOWNESS", "2")), f"a warm start took {took_s:.1f} s"


def test_every_process_that_is_killed_comes_back_by_itself() -> None:
    with run_dev("--workers", "2", "--flushers", "2") as dev:
        first = dev.ready()
        for name in ("gateway-1", "gateway-2", "flusher-1", "flusher-2", "ops-1", "valkey", "postgres"):
            before = dev.kill(name)
            wait_until(
                lambda name=name, before=before: dev.ready()["processes"].get(name) not in (None, before),  # type: ignore[misc]
                f"a new {name}",
            )
        wait_until(lambda: is_ready(dev), f"ready again: {dev.run('status').stdout}\n{dev.read_log()}")
        last = dev.ready()
        assert last["play_url"] == first["play_url"] and last["ops_url"] == first["ops_url"]
        assert set(last["processes"]) == set(first["processes"])
        assert last["processes"]["supervisor"] == first["processes"]["supervisor"]
        assert all(map(is_alive, last["processes"].values()))
        assert dev.stop() == 0


def test_everything_ends_with_a_killed_supervisor_and_the_next_start_finds_it_all() -> None:
    with run_dev() as dev:
        ready = dev.ready()
        asyncio.run(add_user(ready["database_url"], PLAYER))
        dev.kill("supervisor")
        wait_until(
            lambda: not any(map(is_alive, ready["processes"].values())),
            f"all end: {ready['processes']}",
            deadline_s=5.0,
        )
        assert (dev.data_dir / "ready.json").exists()
        assert dev.run("status").returncode == 3
        assert "nothing runs" in dev.run("stop").stdout
        start_again(dev)
        assert asyncio.run(count_users(dev.ready()["database_url"], PLAYER)) == 1
        # Started again at once on the same ports: what the killed one left behind is waited for.
        ports = ["--play-port", port_of(dev.ready()["play_url"]), "--ops-port", port_of(dev.ready()["ops_url"])]
        assert dev.stop() == 0
        dev.start(*ports)
        dev.kill("supervisor")
        assert dev._process is not None
        dev._process.wait(10)
        start_again(dev, *ports)
        assert is_ready(dev)


def port_of(url: str) -> str:
    return url.split(":")[2].split("/")[0]


def test_a_terminal_that_is_closed_stops_everything() -> None:
    with run_dev() as dev:
        ready = dev.ready()
        os.kill(ready["processes"]["supervisor"], signal.SIGHUP)
        wait_until(lambda: not any(map(is_alive, ready["processes"].values())), "all end")
        assert not (dev.data_dir / "ready.json").exists()


def test_stop_reaches_one_that_is_still_starting(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    starting = subprocess.Popen(
        [*WAYHOLD, "dev", "--play-port", "0", "--ops-port", "0", "--data-dir", str(data_dir)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: find_owner_pid(data_dir) == starting.pid or starting.poll() is not None, "it has its folder")
        stopped = subprocess.run(
            [*WAYHOLD, "stop", "--data-dir", str(data_dir)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        out, err = starting.communicate(timeout=DEADLINE_S)
        assert stopped.returncode == 0, stopped.stderr
        assert starting.returncode == 0, out + err
        assert "stopped" in out
    finally:
        starting.kill()
        starting.communicate()


class Serving:
    """A running `wayhold serve`."""

    def __init__(self, folder: Path, *flags: str, **environment: str) -> None:
        self.ready_json = folder / "serve-ready.json"
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.process = subprocess.Popen(
            [*WAYHOLD, "serve", "--play-port", "0", "--ops-port", "0", "--ready-json", str(self.ready_json), *flags],
            env=kept | {"PYTHONPATH": str(REPOSITORY), "WAYHOLD_JWT_SECRET": "k" * 40} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: self.ready_json.exists() or self.process.poll() is not None, "serve is ready")
        assert self.ready_json.exists(), self.process.communicate()[1]
        self.ready = json.loads(self.ready_json.read_text())

    def end(self, number: signal.Signals) -> tuple[int, str]:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            _out, err = self.process.communicate(timeout=DEADLINE_S)
        finally:
            self.process.kill()
        return self.process.returncode, err


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def run(*flags: str, **environment: str) -> Serving:
        started.append(Serving(tmp_path, *flags, **environment))
        return started[-1]

    yield run
    for each in started:
        each.end(signal.SIGKILL)


def test_serve_runs_on_servers_that_are_not_ours(
    serve: Callable[..., Serving], redis_url: str, database_url: str, tmp_path: Path
) -> None:
    serving = serve("--drain-s", "1", REDIS_URL=redis_url, DATABASE_URL=database_url)
    processes = {"supervisor", "gateway-1", "flusher-1", "ops-1"}
    assert set(serving.ready["processes"]) == processes
    assert get(serving.ready["ops_url"] + "/readyz")[0] == 200
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    status = subprocess.run(
        [*WAYHOLD, "status", "--ready-json", str(serving.ready_json)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert status.returncode == 0, status.stdout + status.stderr
    code, err = serving.end(signal.SIGTERM)
    assert code == 0
    assert not serving.ready_json.exists()
    for line in err.splitlines():
        assert json.loads(line)["process"] in processes, line
    assert not any(map(is_alive, serving.ready["processes"].values()))


def test_serve_that_is_interrupted_says_so(serve: Callable[..., Serving], redis_url: str, database_url: str) -> None:
    serving = serve("--drain-s", "1", REDIS_URL=redis_url, DATABASE_URL=database_url)
    assert serving.end(signal.SIGINT)[0] == 130


def test_an_unsafe_redis_that_was_allowed_is_named_by_readyz(
    serve: Callable[..., Serving], database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("v")
    valkey = EmbeddedValkey(folder, for_tests=True)
    start_and_wait(valkey)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(valkey.socket_path))
            client.sendall(b"CONFIG SET appendonly no\r\n")
            assert client.recv(64) == b"+OK\r\n"
        serving = serve("--allow-volatile-redis", "--drain-s", "1", REDIS_URL=valkey.url, DATABASE_URL=database_url)
        code, page = get(serving.ready["ops_url"] + "/readyz")
        assert code == 200
        assert "appendonly is off" in "".join(json.loads(page)["reasons"])
        serving.end(signal.SIGTERM)
    finally:
        stop_and_wait(valkey)
