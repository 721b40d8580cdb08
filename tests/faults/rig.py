"""
A whole installation to break: gateways, flushers, Valkey and Postgres as processes of their own, every link between
them through a proxy of ours, and players in front of a balancer.

Promise: what dies is started again, with a back-off, unless somebody said otherwise (`is_wanted`). The addresses stay
the same through everything. When this process ends, however it ends, nothing is left: see undertaker.py.

The links: `players` (to any gateway), and for each gateway and flusher one to Valkey and one to Postgres, for example
`gateway-1:valkey`. What the rig itself asks goes past the proxies (`redis_url`, `database_url`).

Not here: what to break (kinds.py), who plays (players.py).
"""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - a rig blocks nobody but itself, and asks processes, who signal nothing.

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.app.children import PythonChild, open_listeners
from gateway.app.launch import child_environment
from gateway.app.settings import Settings
from loadtest.faults import list_parents
from persistence.cold.migrate import migrate
from persistence.embedded.child import Child, start_all_and_wait
from persistence.embedded.postgres import DATABASE, PORT, USER, EmbeddedPostgres
from persistence.embedded.valkey import EmbeddedValkey
from persistence.hot.store import HotStore
from tests.faults.proxy import Address, Proxy

TICK_S = 0.02
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.1, 1.0
"""Shorter than a real supervisor's: a run has many deaths to see."""
STEADY_S = 2.0
START_DEADLINE_S = 60.0
READY_DEADLINE_S = 45.0

# The kernel kills a process whose parent has died; asked for between fork and exec, which a gateway cannot do itself.
DIE_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass(slots=True)
class RigPlan:
    """What to build. `settings` are the product's, for all its processes."""

    gateways: int = 2
    flushers: int = 2
    flush_interval_s: float = 0.5
    settings: dict[str, Any] = field(default_factory=dict)
    is_durable: bool = True
    """Real syncs, as an operator would have them. Without them a killed Postgres forgets commits, by its own choice."""
    is_breakable: bool = True
    """Flushers die after a step and handlers of gateways raise, when they are told to."""


@dataclass(eq=False)
class Member:
    """One process of the rig and what is wanted of it."""

    child: Child
    is_wanted: bool = True
    is_ready: bool = False
    is_frozen: bool = False
    is_out: bool = False
    """The balancer sends nobody there."""
    deaths: int = 0
    started_at: float = 0.0
    start_again_at: float | None = None
    backoff_s: float = BACKOFF_FIRST_S

    @property
    def is_up(self) -> bool:
        return self.is_ready and not self.is_frozen and self.child.pid is not None


class Rig:
    """Use `run_rig`. Names: gateway-1 …, flusher-1 …, valkey, postgres."""

    def __init__(self, plan: RigPlan, folder: Path, undertaker: subprocess.Popen[bytes]) -> None:
        self.plan = plan
        self.folder = folder
        self.secret = secrets.token_hex(24)
        self.members: dict[str, Member] = {}
        self.links: dict[str, Proxy] = {}
        self.valkey = EmbeddedValkey(folder, for_tests=not plan.is_durable)
        self.valkey_folder = folder
        self.postgres = EmbeddedPostgres(folder, for_tests=not plan.is_durable)
        self.play_port = 0
        self.unexpected: list[str] = []
        """What went wrong with the rig itself: a process that ended with an exit code that means settings."""
        self.sigkills = 0
        """How many processes were ended by SIGKILL; those that faults end in other ways add theirs."""
        self._undertaker = undertaker
        self._turn = 0
        self._ticker: asyncio.Task[None] | None = None
        self._hot: HotStore | None = None
        self._listeners: list[Any] = []

    # ── addresses ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    @property
    def database_url(self) -> str:
        return self.postgres.url

    @property
    def play_url(self) -> str:
        return f"ws://127.0.0.1:{self.play_port}/v1/play"

    @property
    def orders(self) -> Path:
        return self.folder / "orders"

    @property
    def hot(self) -> HotStore:
        """The rig's own eyes: past every proxy."""
        if self._hot is None:
            raise AssertionError("the rig does not run")
        return self._hot

    def names(self, kind: str) -> list[str]:
        """Members of a kind ("gateway", "flusher"), in order."""
        return sorted(name for name in self.members if name.rpartition("-")[0] == kind or name == kind)

    def links_between(self, near: str, far: str) -> list[Proxy]:
        """All links from members of a kind (or one member) to a server."""
        return [self.links[f"{name}:{far}"] for name in self.names(near) or [near]]

    def pid(self, name: str) -> int:
        pid = self.members[name].child.pid
        if pid is None:
            raise LookupError(f"{name} does not run")
        return pid

    # ── start and end ───────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        plan = self.plan
        for name in ("links", "metrics", "orders", "logs", "players"):
            (self.folder / name).mkdir()
        start_all_and_wait([self.valkey, self.postgres], START_DEADLINE_S)
        self.members["valkey"] = Member(self.valkey, is_ready=True)
        self.members["postgres"] = Member(self.postgres, is_ready=True)
        await migrate(self.database_url)
        await self._open_hot()
        front = Proxy("players", self._choose_gateway)
        self.links["players"] = front
        self.play_port = await front.listen_tcp()
        for number in range(1, plan.flushers + 1):
            await self._add_python("flusher", number)
        for number in range(1, plan.gateways + 1):
            await self._add_python("gateway", number)
        for member in self.members.values():
            if isinstance(member.child, PythonChild):
                self._spawn(member)
        self._ticker = asyncio.create_task(self._tick_for_ever(), name="keep the rig up")
        await self.wait_up()

    async def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for name, member in self.members.items():
            member.is_wanted = False
            if member.is_frozen:
                self.unfreeze(name)
            member.child.kill()
        if self._hot is not None:
            await self._hot.close()
        for link in self.links.values():
            await link.close()
        give_up_at = time.monotonic() + 10
        while any(member.child.pid is not None for member in self.members.values()) and time.monotonic() < give_up_at:
            await asyncio.sleep(TICK_S)
        for member in self.members.values():
            if isinstance(member.child, PythonChild):
                member.child.close()
        for listener in self._listeners:
            listener.close()

    async def _add_python(self, kind: str, number: int) -> None:
        name = f"{kind}-{number}"
        links = self.folder / "links" / name
        links.mkdir()
        valkey, postgres = Proxy(f"{name}:valkey", self._valkey_address), Proxy(f"{name}:postgres", self._postgres)
        await valkey.listen_unix(links / "v.sock")
        await postgres.listen_unix(links / f".s.PGSQL.{PORT}")
        self.links[valkey.name], self.links[postgres.name] = valkey, postgres
        settings = Settings.for_dev(
            data_dir=self.folder,
            redis_url=f"unix://{quote(str(links / 'v.sock'))}?db=0",
            database_url=f"postgresql://{USER}@/{DATABASE}?host={quote(str(links), safe='')}&port={PORT}",
            jwt_secret=self.secret,
            **{
                "flush_interval_s": self.plan.flush_interval_s,
                "updates_per_s": 2000.0,
                "updates_burst": 5000,
                "handshakes_per_s": 2000.0,
                "connections_per_address_max": 5000,
                "heartbeat_s": 2.0,
                "session_expiry_s": 600.0,
                "log_level": "info",
            }
            | self.plan.settings,
        )
        environment = child_environment(settings, self.folder / "metrics")
        command = [sys.executable, "-P", "-m", f"gateway.app.run_{kind}"]
        if self.plan.is_breakable:
            program = {"flusher": "run_dying_flusher", "gateway": "run_faulty_gateway"}[kind]
            command = [sys.executable, "-P", "-m", f"tests.faults.{program}", "--orders", str(self.orders), "--"]
        command = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, *command, "--worker", str(number)]
        sockets = {}
        if kind == "gateway":
            sockets["WAYHOLD_PLAY_FD"] = open_listeners("127.0.0.1", 0, 1, "play")[0]
            if number == 1:
                sockets["WAYHOLD_OPS_FD"] = open_listeners("127.0.0.1", 0, 1, "ops")[0]
            self._listeners += sockets.values()
        child = PythonChild(name, command, environment, log_path=self.folder / "logs" / f"{name}.log", sockets=sockets)
        self.members[name] = Member(child)

    def _valkey_address(self) -> Address:
        return self.valkey.socket_path

    def _postgres(self) -> Address:
        return self.postgres.socket_dir / f".s.PGSQL.{PORT}"

    def _choose_gateway(self) -> Address | None:
        """As a balancer with health checks would: never to one that is away, unless all are."""
        names = self.names("gateway")
        up = [name for name in names if self.members[name].is_up and not self.members[name].is_out]
        if not up:
            return None
        self._turn += 1
        child = self.members[up[self._turn % len(up)]].child
        assert isinstance(child, PythonChild)
        return "127.0.0.1", int(child.facts["play_port"])

    async def _open_hot(self) -> None:
        if self._hot is not None:
            await self._hot.close()
        self._hot = await HotStore.open(self.redis_url, flush_interval_s=self.plan.flush_interval_s)

    # ── keeping it up ───────────────────────────────────────────────────────────────────────────────────────────────

    async def wait_up(self, names: Iterable[str] | None = None, deadline_s: float = READY_DEADLINE_S) -> None:
        """Until these members (or all) work. Raises TimeoutError naming who does not."""
        wanted = list(self.members if names is None else names)
        give_up_at = time.monotonic() + deadline_s
        while missing := [name for name in wanted if not self.members[name].is_up]:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"not up after {deadline_s:g} s: {', '.join(missing)}; see {self.folder}/logs")
            await asyncio.sleep(TICK_S)

    async def wait_dead(self, name: str, deaths: int, deadline_s: float = 15.0) -> None:
        """Until a member has died more than `deaths` times."""
        give_up_at = time.monotonic() + deadline_s
        while self.members[name].deaths <= deaths:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{name} has not died within {deadline_s:g} s")
            await asyncio.sleep(TICK_S)

    async def _tick_for_ever(self) -> None:
        while True:
            for name, member in list(self.members.items()):
                try:
                    self._tick(name, member)
                except Exception as error:
                    self.unexpected.append(f"{name}: {error!r}")
                    member.start_again_at = time.monotonic() + BACKOFF_MAX_S
            await asyncio.sleep(TICK_S)

    def _tick(self, name: str, member: Member) -> None:
        now = time.monotonic()
        if member.start_again_at is not None:
            if member.is_wanted and now >= member.start_again_at:
                self._spawn(member)
            return
        code = member.child.poll()
        if code is not None:
            member.deaths += 1
            if member.is_ready and now - member.started_at > STEADY_S:
                member.backoff_s = BACKOFF_FIRST_S
            if code in (2, 3):
                self.unexpected.append(f"{name} ended with exit code {code}")
            member.is_ready = member.is_frozen = False
            member.start_again_at = now + member.backoff_s
            member.backoff_s = min(member.backoff_s * 2, BACKOFF_MAX_S)
        elif not member.is_ready:
            member.is_ready = member.child.check_ready()

    def _spawn(self, member: Member) -> None:
        member.start_again_at = None
        member.started_at = time.monotonic()
        member.is_ready = False
        member.child.spawn()

    # ── hurting it ──────────────────────────────────────────────────────────────────────────────────────────────────

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal; answers the process id. Raises LookupError when it does not run."""
        pid = self.pid(name)
        os.kill(pid, number)
        self.sigkills += number is signal.SIGKILL
        return pid

    def freeze(self, name: str) -> None:
        """SIGSTOP it and its children."""
        self.members[name].is_frozen = True
        for pid in walk_tree(self.pid(name)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def unfreeze(self, name: str) -> None:
        self.members[name].is_frozen = False
        with contextlib.suppress(LookupError):
            for pid in walk_tree(self.pid(name)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def stop_server(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End Valkey or Postgres and keep it down."""
        member = self.members[name]
        member.is_wanted = False
        deaths = member.deaths
        with contextlib.suppress(LookupError):
            self.kill(name, number)
            await self.wait_dead(name, deaths)

    async def start_server(self, name: str) -> None:
        member = self.members[name]
        member.backoff_s = BACKOFF_FIRST_S
        member.is_wanted = True
        await self.wait_up([name])

    async def replace_valkey(self, promoted: EmbeddedValkey, folder: Path) -> None:
        """Another server takes the address; the old one is killed."""
        await self.stop_server("valkey")
        self.valkey, self.valkey_folder = promoted, folder
        self.members["valkey"] = Member(promoted, is_ready=True, started_at=time.monotonic())
        for name, link in self.links.items():
            if name.endswith(":valkey"):
                link.cut()
        await self._open_hot()

    def heal_links(self) -> None:
        for link in self.links.values():
            link.heal()

    # ── looking at it ───────────────────────────────────────────────────────────────────────────────────────────────

    def count(self, metric: str) -> float:
        """The sum of a counter over all processes that ever ran here."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.folder / "metrics"))  # type: ignore[no-untyped-call]
        return sum(
            sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == metric and "pid" not in sample.labels
        )

    def highest_bucket(self, histogram: str) -> float:
        """The upper bound of the highest bucket that anything fell into."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.folder / "metrics"))  # type: ignore[no-untyped-call]
        buckets: dict[float, float] = {}
        for family in registry.collect():
            for sample in family.samples:
                if sample.name == f"{histogram}_bucket":
                    bound = float(sample.labels["le"])
                    buckets[bound] = buckets.get(bound, 0.0) + sample.value
        ordered = sorted(buckets.items())
        total = ordered[-1][1] if ordered else 0.0
        return next((bound for bound, count in ordered if count >= total), 0.0)

    def read_log(self, name: str) -> str:
        path = self.members[name].child.log_path
        return path.read_text("utf-8", "replace") if path is not None and path.exists() else ""

    async def wait_nothing_pending(self, deadline_s: float = 60.0) -> None:
        """Until Postgres has everything that Redis ever took. Raises TimeoutError."""
        async with asyncio.timeout(deadline_s):
            while (await self.hot.count_pending()).updates:
                await asyncio.sleep(0.1)


def walk_tree(pid: int) -> list[int]:
    """A process and all that came of it."""
    parents = list_parents()
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


@asynccontextmanager
async def run_rig(plan: RigPlan | None = None, *, keep_folder: bool = False) -> AsyncIterator[Rig]:
    """A rig that works, in a folder of its own. Call it in the main thread."""
    assert sys.platform == "linux", "faults are injected through /proc and prctl"
    folder = Path(tempfile.mkdtemp(prefix="wh-faults-", dir="/tmp"))
    folder.chmod(0o711)
    undertaker = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.undertaker", str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert undertaker.stdin is not None
    rig = Rig(plan or RigPlan(), folder, undertaker)
    try:
        await rig.start()
        yield rig
    finally:
        await rig.close()
        if keep_folder:
            undertaker.stdin.write(b"done")
        undertaker.stdin.close()
        # Not a clean end without "done": whatever the rig has overlooked is ended, and the folder goes.
        undertaker.wait(timeout=30)
        if not keep_folder:
            shutil.rmtree(folder, ignore_errors=True)
