"""A gateway as a process of its own: ready line, ops port, drain, a second signal, a supervisor that is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from gateway.app.children import open_listeners
from protocol.closes import CloseCode
from protocol.codec import MSGPACK
from tests.integration.gateway_rig import SECRET, Bare, new_user
from tests.integration.test_gateway_outages import away, frozen
from tests.servers import Servers

pytestmark = pytest.mark.slow  # processes are killed and outages waited for

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """A gateway started as its supervisor starts it."""

    def __init__(self, process: asyncio.subprocess.Process, play_port: int, ops_port: int, lifeline: int) -> None:
        self.process = process
        self.play_port = play_port
        self.ops_port = ops_port
        self.lifeline = lifeline

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[Bare]:
        url = f"ws://127.0.0.1:{self.play_port}/v1/play"
        async with connect(url, subprotocols=[MSGPACK.subprotocol], ping_interval=None, close_timeout=1) as client:
            yield Bare(client, MSGPACK)

    async def get(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{self.ops_port}{path}")

    async def wait_for_ready(self, is_ready: bool) -> dict[str, Any]:
        async with asyncio.timeout(15):
            while True:
                status, text = await self.get("/readyz")
                if (status == 200) is is_ready:
                    found: dict[str, Any] = json.loads(text)
                    return found
                await asyncio.sleep(0.05)

    async def wait_for(self, path: str, text: str) -> None:
        async with asyncio.timeout(15):
            while True:
                if text in (await self.get(path))[1]:
                    return
                await asyncio.sleep(0.05)

    async def exit_code(self, deadline_s: float) -> int:
        async with asyncio.timeout(deadline_s):
            return await self.process.wait()


def _get(url: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@asynccontextmanager
async def run_process(redis_url: str, database_url: str, tmp_path: Path, **settings: str) -> AsyncIterator[Process]:
    play, ops = (open_listeners("127.0.0.1", 0, 1, name)[0] for name in ("play", "ops"))
    life_read, life_write = os.pipe()
    ready_read, ready_write = os.pipe()
    fds = {
        "WAYHOLD_PLAY_FD": play.fileno(),
        "WAYHOLD_OPS_FD": ops.fileno(),
        "WAYHOLD_LIFELINE_FD": life_read,
        "WAYHOLD_READY_FD": ready_write,
    }
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    environment = os.environ | {name: str(fd) for name, fd in fds.items()} | settings
    environment |= {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "WAYHOLD_JWT_SECRET": SECRET.decode(),
        "WAYHOLD_PROCESS": "gateway-1",
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "PYTHONPATH": str(ROOT),
    }
    log = (tmp_path / "gateway.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.app.run_gateway",
        "--worker",
        "1",
        env=environment,
        pass_fds=tuple(fds.values()),
        stderr=log,
    )
    for fd in (life_read, ready_write):
        os.close(fd)
    try:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ready_read, "rb", buffering=0)
        )
        async with asyncio.timeout(20):
            line = await reader.readline()
        assert line, (tmp_path / "gateway.log").read_text()
        facts = json.loads(line)
        assert facts["ready"] is True and facts["pid"] == process.pid
        assert facts["play_port"] == play.getsockname()[1] and facts["ops_port"] == ops.getsockname()[1]
        yield Process(process, facts["play_port"], facts["ops_port"], life_write)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        for listener in (play, ops):
            listener.close()
        try:
            os.close(life_write)
        except OSError:
            pass
        log.close()


async def test_a_gateway_serves_drains_and_ends(redis_url: str, database_url: str, tmp_path: Path) -> None:
    async with run_process(redis_url, database_url, tmp_path, WAYHOLD_DRAIN_S="2") as gateway:
        assert (await gateway.get("/livez"))[0] == 200
        assert (await gateway.wait_for_ready(True))["status"] == "ready"
        status, text = await gateway.get("/health/player-progress")
        assert status == 200
        assert json.loads(text) == {"status": "healthy", "redis": "ok", "postgresql": "ok"}
        assert (await gateway.get("/nothing"))[0] == 404
        async with gateway.bare() as bare, gateway.bare() as silent:
            await bare.hello(user_id=new_user())
            await bare.accept(1)
            await gateway.wait_for("/metrics", "wayhold_updates_accepted_total 1.0")
            gateway.process.send_signal(signal.SIGTERM)
            await bare.expect("drain")
            assert (await bare.expect("bye"))["code"] == CloseCode.DRAINING
            assert await bare.close_code() == CloseCode.DRAINING
            assert await silent.close_code() == CloseCode.DRAINING
        assert await gateway.exit_code(5) == 0
    log = (tmp_path / "gateway.log").read_text()
    assert "Traceback" not in log and '"event": "stopped"' in log


async def test_readiness_follows_the_stores(
    servers: Servers, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async with run_process(redis_url, database_url, tmp_path) as gateway:
        async with away(servers.postgres):
            await gateway.wait_for("/readyz", "postgres")
            assert (await gateway.get("/readyz"))[0] == 200
            assert json.loads((await gateway.get("/health/player-progress"))[1])["postgresql"] == "error"
        async with frozen(servers.valkey):
            readiness = await gateway.wait_for_ready(False)
            assert any("redis" in reason for reason in readiness["reasons"])
            started = time.monotonic()
            status, text = await gateway.get("/health/player-progress")
            assert status == 200 and json.loads(text)["redis"] == "error"
            assert time.monotonic() - started < 3
            assert (await gateway.get("/livez"))[0] == 200
        await gateway.wait_for_ready(True)


async def test_a_second_signal_hurries_a_drain(
    servers: Servers, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async with run_process(redis_url, database_url, tmp_path, WAYHOLD_DRAIN_S="60") as gateway, gateway.bare() as bare:
        await bare.hello(user_id=new_user())
        async with frozen(servers.valkey):
            # Busy: its update cannot be answered, so the drain waits for it.
            await bare.update(1)
            gateway.process.send_signal(signal.SIGTERM)
            await bare.expect("drain")
            gateway.process.send_signal(signal.SIGTERM)
            assert await gateway.exit_code(10) == 0


async def test_a_gateway_without_a_supervisor_is_gone_in_five_seconds(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async with run_process(redis_url, database_url, tmp_path, WAYHOLD_DRAIN_S="60") as gateway, gateway.bare() as bare:
        await bare.hello(user_id=new_user())
        os.close(gateway.lifeline)
        await gateway.exit_code(5)
        assert await bare.close_code() in (CloseCode.DRAINING, 1006)


async def test_a_gateway_killed_and_started_again_goes_on_with_every_session(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    user_id = new_user()
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    async with run_process(redis_url, database_url, first) as gateway, gateway.bare() as bare:
        await bare.hello(user_id=user_id)
        await bare.accept(1)
        await bare.accept(2)
        gateway.process.send_signal(signal.SIGKILL)
        await gateway.exit_code(5)
    async with run_process(redis_url, database_url, second) as gateway, gateway.bare() as again:
        welcome = await again.hello(user_id=user_id, resume=bare.resume())
        assert welcome["resumed"] is True and welcome["seq"]["accepted"] == 2
        assert (await again.accept(3))["seq"] == 3


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"WAYHOLD_JWT_SECRET": "short"}, 2), ({"WAYHOLD_HEARTBEAT_S": "many"}, 2)],
)
async def test_wrong_settings_are_one_line_and_an_exit_code(
    redis_url: str, database_url: str, settings: dict[str, str], code: int
) -> None:
    environment = os.environ | {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}
    environment |= {"WAYHOLD_JWT_SECRET": SECRET.decode()} | settings
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.app.run_gateway", env=environment, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    assert process.returncode == code
    assert len(errors.decode().strip().splitlines()) == 1, errors
