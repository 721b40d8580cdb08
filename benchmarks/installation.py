"""
A whole Wayhold to measure: `wayhold dev` as a child process in a temporary folder, with the settings of production.

Promise: what runs is what an operator runs: supervisor, gateway, flusher, Valkey with its append-only file and Postgres
with real syncs, tokens, limits and metrics on. Settings differ from production's defaults only by `DIFFERENT` and what
a part says, and both stand in the result. Nothing is left when the context ends, or when this process is killed.

Not here: players (load_processes.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis

from benchmarks.accounts import CpuAccounts, pin
from benchmarks.load_processes import ROOT, LoadProcess
from benchmarks.measure import settle
from benchmarks.walk_step import EXPERIENCE
from gateway.app.settings import list_settings

START_DEADLINE_S = 90.0
STOP_DEADLINE_S = 40.0

DIFFERENT: dict[str, Any] = {
    # All players of a benchmark come from one address, and most of them at once.
    "connections_per_address_max": 100_000,
    "handshakes_per_s": 5_000.0,
}
"""Settings that differ from production's defaults in every part."""

POSTGRES_SHOWN = frozenset({"jit", "max_connections", "max_wal_senders", "max_wal_size", "shared_buffers", "wal_level"})
"""Those settings of Postgres that a figure can depend on."""

# The kernel asks the supervisor to stop when we are gone; asked for between fork and exec.
STOP_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)

# ruff: noqa: ASYNC240 - what is read are small files of ours, and nothing else runs meanwhile.


class InstallationFailed(Exception):
    """The servers did not come up; the message holds their last words."""


@dataclass
class Cores:
    """Where the gateway and where everything else runs. None: wherever the system likes."""

    gateway: frozenset[int] | None = None
    rest: frozenset[int] | None = None

    @classmethod
    def choose(cls, is_wanted: bool = True) -> Cores:
        """The gateway alone on the first core, the rest on the second; only two are used, so that results compare."""
        try:
            usable = sorted(os.sched_getaffinity(0))
        except AttributeError:
            return cls()
        if not is_wanted or len(usable) < 2:
            return cls()
        return cls(frozenset(usable[:1]), frozenset(usable[1:2]))

    def describe(self) -> str:
        if self.gateway is None or self.rest is None:
            return "not pinned"
        return f"gateway on core {min(self.gateway)}, everything else on core {min(self.rest)}"


@dataclass
class Installation:
    """What runs where. Use `run_installation`."""

    folder: Path
    ready: dict[str, Any]
    secret: str
    settings: Mapping[str, Any]
    cores: Cores
    is_pinned: bool = False
    redis: Redis = field(init=False)
    database: asyncpg.Connection[asyncpg.Record] = field(init=False)

    @property
    def host(self) -> str:
        return str(urlsplit(self.ready["play_url"]).hostname)

    @property
    def port(self) -> int:
        return int(urlsplit(self.ready["play_url"]).port or 0)

    @property
    def players_on(self) -> frozenset[int] | None:
        return self.cores.rest

    @property
    def gateway_pid(self) -> int:
        return self.pids()["gateway-1"]

    async def settle(self, load: LoadProcess) -> None:
        await settle(load)

    def pids(self) -> dict[str, int]:
        """The processes as they are now; one that was started again has another number."""
        with contextlib.suppress(OSError, ValueError):
            self.ready = json.loads((self.folder / "ready.json").read_text())
        return dict(self.ready["processes"])

    def pin_all(self) -> None:
        """Bind every process of this installation to its core."""
        if self.cores.gateway is None or self.cores.rest is None:
            return
        pids = self.pids()
        # The supervisor first: its tree holds everybody, the gateway is moved after that.
        done = [pin(pids["supervisor"], self.cores.rest)]
        for name, pid in pids.items():
            if name.startswith("gateway"):
                done.append(pin(pid, self.cores.gateway))
        self.is_pinned = all(done)

    def let_go(self, load: LoadProcess) -> None:
        """From now on the system chooses the cores of everybody, players included."""
        usable = os.sched_getaffinity(0)
        for pid in (self.pids()["supervisor"], load.pid):
            pin(pid, usable)
        self.cores, self.is_pinned = Cores(), False

    def take_accounts(self, others: Mapping[str, int] | None = None) -> CpuAccounts:
        """CPU of all processes and of `others`."""
        trees = [name for name in self.pids() if name == "postgres" or name == "valkey"]
        return CpuAccounts.take({**self.pids(), **(others or {})}, trees)

    async def count_rows(self) -> int:
        """Rows that updates have left in Postgres, as the ground truth of what was done."""
        return int(
            await self.database.fetchval(
                "SELECT count(*) FROM player_progress_events e JOIN experience_progress p "
                "ON p.id = e.experience_progress_id WHERE p.experience_id = $1",
                EXPERIENCE,
            )
        )

    async def describe(self) -> dict[str, Any]:
        """Servers, and every setting of theirs and ours that is not the default of production."""
        info = await self.redis.info("server")
        redis = await self.redis.config_get("append*")
        shown = "SELECT name, current_setting(name) FROM pg_settings WHERE source = 'command line' ORDER BY 1"
        return {
            "valkey": str(info.get("valkey_version") or info.get("redis_version")),
            "postgres": str(await self.database.fetchval("SHOW server_version")),
            "settings": dict(self.settings),
            "pinned": self.cores.describe() if self.is_pinned else "not pinned",
            "valkey_settings": {
                _text(name): _text(value) for name, value in redis.items() if "name" not in _text(name)
            },
            "postgres_settings": {
                name: value for name, value in await self.database.fetch(shown) if name in POSTGRES_SHOWN
            },
        }


@asynccontextmanager
async def run_installation(
    cores: Cores | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    kept_in: Path | None = None,
    root: Path = ROOT,
) -> AsyncIterator[Installation]:
    """
    Start everything, and end it with the context. `settings` replace production's defaults and `DIFFERENT`.
    `kept_in`: a data folder that stays, instead of one that goes with the context. `root`: the tree that runs.

    Raises:
        InstallationFailed: it did not start.
    """
    changed = {**DIFFERENT, **(settings or {})}
    folder = Path(tempfile.mkdtemp(prefix="wayhold-bench-"))
    folder.chmod(0o711)  # Postgres runs as another user when we are root
    process = None
    try:
        data_dir = kept_in or folder / "data"
        # What a run that was killed has left behind is not what we are waiting for.
        (data_dir / "ready.json").unlink(missing_ok=True)
        with (folder / "output.txt").open("wb") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                _command(data_dir, changed),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(root),
                start_new_session=True,
            )
        ready = await _wait_ready(process, data_dir, folder / "output.txt")
        secret = (data_dir / "jwt_secret").read_text().strip()
        installation = Installation(data_dir, ready, secret, changed, cores or Cores())
        installation.pin_all()
        installation.redis = Redis.from_url(ready["redis_url"])
        installation.database = await asyncpg.connect(ready["database_url"])
        try:
            yield installation
        finally:
            await installation.redis.aclose()
            with contextlib.suppress(Exception):
                await installation.database.close(timeout=5)
    finally:
        if process is not None:
            await _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _command(data_dir: Path, changed: Mapping[str, Any]) -> list[str]:
    values = {setting.name: setting.default for setting in list_settings() if setting.default != setting.dev_default}
    values |= {"play_port": 0, "ops_port": 0, **changed}
    flags = []
    for setting in list_settings():
        if setting.name in values:
            flags += [setting.flag, str(values[setting.name])]
    command = [sys.executable, "-P", "-m", "gateway.cli", "dev", "--data-dir", str(data_dir), *flags]
    return [sys.executable, "-I", "-S", "-c", STOP_WITH_PARENT, *command] if sys.platform == "linux" else command


def _environment(root: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WAYHOLD_") and name not in ("REDIS_URL", "DATABASE_URL")
    }
    return kept | {"PYTHONPATH": str(root)}


async def _wait_ready(process: subprocess.Popen[bytes], data_dir: Path, output: Path) -> dict[str, Any]:
    give_up_at = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < give_up_at:
        with contextlib.suppress(OSError, ValueError):
            ready: dict[str, Any] = json.loads((data_dir / "ready.json").read_text())
            return ready
        if process.poll() is not None:
            break
        await asyncio.sleep(0.05)
    raise InstallationFailed("Wayhold did not start: " + " | ".join(_list_last(output.read_text().splitlines())))


async def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    give_up_at = time.monotonic() + STOP_DEADLINE_S
    while process.poll() is None:
        if time.monotonic() > give_up_at:
            process.kill()  # its children notice by themselves
        await asyncio.sleep(0.05)


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _list_last(lines: Iterable[str]) -> list[str]:
    return list(lines)[-10:]
