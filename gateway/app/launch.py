"""
What `dev` and `serve` have in common: ports, the environment of the children, the children themselves, the addresses.
"""

from __future__ import annotations

import os
import resource
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import gateway
from gateway.app.children import PythonChild, open_listeners
from gateway.app.experience_files import hold_experiences
from gateway.app.settings import Settings
from gateway.app.settings_source import environment_of
from gateway.app.supervisor import Supervisor

# Children of a higher stage start later and stop earlier: gateways first stop making work, then flushers finish it.
# The ops process goes last of them: until the end it can be asked how far it is.
STAGE_VALKEY, STAGE_POSTGRES, STAGE_OPS, STAGE_FLUSHERS, STAGE_GATEWAYS = range(5)

STOP_MARGIN_S = 2.0  # after its own deadline a child is not trusted to end by itself
START_DEADLINE_S = 30.0
OPS_STOP_S = 3.0
SETUP_KEY_S = 3600.0
"""How long the printed link makes the first operator: terminals and logs keep it for longer."""
FILES_WANTED = 65_536
FILES_SPARE = 200
"""Descriptors of a process that are no players: pools, logs, libraries."""


@dataclass(frozen=True)
class Ports:
    """The sockets that players and operators connect to. Bound once, kept through every restart of a gateway."""

    play: Sequence[socket.socket]
    ops: socket.socket
    play_host: str
    ops_host: str

    @classmethod
    def open(cls, settings: Settings) -> Ports:
        """Raises PortTaken, SettingsError."""
        play = open_listeners(settings.play_host, settings.play_port, settings.workers, "play")
        try:
            ops = open_listeners(settings.ops_host, settings.ops_port, 1, "ops")[0]
        except BaseException:
            for listener in play:
                listener.close()
            raise
        return cls(play, ops, settings.play_host, settings.ops_host)

    @property
    def play_port(self) -> int:
        return int(self.play[0].getsockname()[1])

    @property
    def ops_port(self) -> int:
        return int(self.ops.getsockname()[1])

    @property
    def play_url(self) -> str:
        return f"ws://{_reachable(self.play_host)}:{self.play_port}/v1/play"

    @property
    def ops_url(self) -> str:
        return f"http://{_reachable(self.ops_host)}:{self.ops_port}"

    def close(self) -> None:
        """Nobody new comes in once the gateways have closed theirs too."""
        for listener in (*self.play, self.ops):
            listener.close()


def add_children(
    supervisor: Supervisor,
    settings: Settings,
    ports: Ports,
    *,
    metrics_dir: Path,
    logs_dir: Path | None = None,
    redis_warning: str = "",
    is_production: bool = True,
) -> Console:
    """
    Gateways, flushers and the ops process, not started yet. `settings` has the URLs and the key that they shall use.
    """
    experiences_dir = hold_experiences(settings, metrics_dir / "experiences")
    settings = replace(settings, play_port=ports.play_port, ops_port=ports.ops_port, experiences_dir=experiences_dir)
    environment = child_environment(settings, metrics_dir)
    if redis_warning:
        environment["WAYHOLD_REDIS_WARNING"] = redis_warning
    for number in range(1, settings.flushers + 1):
        name = f"flusher-{number}"
        supervisor.add(
            PythonChild(name, _command("run_flusher", number), environment, log_path=_log_path(logs_dir, name)),
            stage=STAGE_FLUSHERS,
            stop_deadline_s=settings.final_flush_s + STOP_MARGIN_S,
            start_deadline_s=START_DEADLINE_S,
            is_log_shown=True,
        )
    for number in range(1, settings.workers + 1):
        name = f"gateway-{number}"
        supervisor.add(
            PythonChild(
                name,
                _command("run_gateway", number),
                environment,
                log_path=_log_path(logs_dir, name),
                sockets={"WAYHOLD_PLAY_FD": ports.play[number - 1]},
            ),
            stage=STAGE_GATEWAYS,
            stop_deadline_s=settings.drain_s + STOP_MARGIN_S,
            start_deadline_s=START_DEADLINE_S,
            is_log_shown=True,
        )
    setup_key, setup_until = secrets.token_urlsafe(24), round(time.time() + SETUP_KEY_S)
    ops = PythonChild(
        "ops-1",
        _command("run_ops", 1),
        environment
        | {
            "WAYHOLD_SETUP_KEY": setup_key,
            "WAYHOLD_SETUP_UNTIL": str(setup_until),
            "WAYHOLD_PRODUCTION": "1" if is_production else "0",
        },
        log_path=_log_path(logs_dir, "ops-1"),
        sockets={"WAYHOLD_OPS_FD": ports.ops},
    )
    supervisor.add(
        ops,
        stage=STAGE_OPS,
        stop_deadline_s=OPS_STOP_S + STOP_MARGIN_S,
        start_deadline_s=START_DEADLINE_S,
        is_log_shown=True,
        # Nobody's game ends because nobody can watch it.
        is_vital=False,
    )
    return Console(f"{ports.ops_url}/console/", setup_key, ops)


@dataclass(frozen=True)
class Console:
    """Where operators sign in; complete once the ops process is ready."""

    url: str
    setup_key: str
    child: PythonChild

    @property
    def link(self) -> str:
        """The address to open; the first time with the key that makes the first operator."""
        return f"{self.url}#setup={self.setup_key}" if self.child.facts.get("needs_setup") else self.url


def child_environment(settings: Settings, metrics_dir: Path) -> dict[str, str]:
    """Our environment with exactly these settings in it."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WAYHOLD_") and name not in ("REDIS_URL", "DATABASE_URL")
    }
    environment |= environment_of(settings)
    environment["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
    environment["PYTHONFAULTHANDLER"] = "1"
    # The children run with -P (a folder named `protocol` where the user stands must not be imported), so a source
    # tree that is not installed has to be named.
    root = Path(gateway.__file__).resolve().parents[1]
    if root.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH", "")]))
    return environment


def count_connections_possible(connections_max: int) -> int:
    """How many players this process can hold: each is a file, and some files are needed for other things."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections_max if soft == resource.RLIM_INFINITY else max(1, min(connections_max, soft - FILES_SPARE))


def raise_file_limit() -> None:
    """Each player is a file. Children inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _command(module: str, number: int) -> list[str]:
    return [sys.executable, "-P", "-m", f"gateway.app.{module}", "--worker", str(number)]


def _log_path(logs_dir: Path | None, name: str) -> Path | None:
    return logs_dir / f"{name}.log" if logs_dir is not None else None


def _reachable(host: str) -> str:
    """The host as somebody on this machine would write it into a URL."""
    if host in ("", "0.0.0.0"):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
