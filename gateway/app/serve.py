"""
Run gateways and flushers on your own Redis and Postgres (REDIS_URL, DATABASE_URL).

The same supervisor as `dev`, without embedded servers, without a data folder and without migrating: the schema must be
there. Logs of all processes go to stderr. SIGTERM drains, flushes and ends with 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from gateway.app.checks import check_postgres, check_redis
from gateway.app.errors import CommandError, ExitCode, SettingsError
from gateway.app.experience_files import load_experiences
from gateway.app.launch import Ports, add_children, raise_file_limit
from gateway.app.ready import Ready, remove_ready, write_ready
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.supervisor import StopRequested, Supervisor
from gateway.app.version import get_version
from gateway.telemetry.logs import get_logger, set_up_logs
from gateway.telemetry.metrics import forget_process

CHECK_DEADLINE_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ready-json", metavar="FILE", type=Path, help="write what runs where into FILE")
    add_setting_flags(parser)


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    require_server_urls(settings, "serve")
    settings.get_jwt_secret()
    load_experiences(settings)
    set_up_logs(settings.log_level, settings.log_format, "supervisor")
    with ExitStack() as stack:
        metrics_dir = Path(tempfile.mkdtemp(prefix="wayhold-metrics-"))
        stack.callback(shutil.rmtree, metrics_dir, ignore_errors=True)
        return _serve(settings, args.ready_json, metrics_dir)


def require_server_urls(settings: Settings, command: str) -> None:
    """Raises SettingsError when a URL is missing."""
    for name, value in (("REDIS_URL", settings.redis_url), ("DATABASE_URL", settings.database_url)):
        if value is None:
            raise SettingsError(
                f"{command} needs {name}", "set it, or start everything on this machine with: wayhold dev"
            )


def _serve(settings: Settings, ready_json: Path | None, metrics_dir: Path) -> int:
    assert settings.redis_url is not None and settings.database_url is not None
    log = get_logger("supervisor")
    ready_json = ready_json.absolute() if ready_json else None
    state: dict[str, Ready] = {}

    def write() -> None:
        if ready_json is not None and "ready" in state:
            processes = {"supervisor": os.getpid(), **supervisor.list_pids()}
            ready = replace(state["ready"], processes=processes, starting=supervisor.list_starting())
            write_ready(ready_json, ready)

    def rewrite() -> None:
        try:
            write()
        except CommandError as error:  # a full disk must not end the game
            log.warning("ready_json_not_written", error=str(error))

    supervisor = Supervisor(log=log, on_change=rewrite, on_death=lambda pid: forget_process(metrics_dir, pid))
    with ExitStack() as stack:
        holder = stack.enter_context(ExitStack())
        stack.enter_context(supervisor)
        with suppress(StopRequested):
            ports = Ports.open(settings)
            holder.callback(ports.close)
            redis_warning = supervisor.run_async(
                check_redis(settings.redis_url, allow_volatile=settings.allow_volatile_redis), CHECK_DEADLINE_S
            )
            supervisor.run_async(check_postgres(settings.database_url, is_migrated_later=False), CHECK_DEADLINE_S)
            if redis_warning:
                log.warning("unsafe_redis", why=redis_warning)
            raise_file_limit()
            console = add_children(supervisor, settings, ports, metrics_dir=metrics_dir, redis_warning=redis_warning)
            supervisor.start_all()
            state["ready"] = Ready(
                version=get_version(),
                play_url=ports.play_url,
                ops_url=ports.ops_url,
                redis_url=settings.redis_url,
                database_url=settings.database_url,
                data_dir="",
                processes={},
            )
            if ready_json is not None:
                holder.callback(remove_ready, ready_json)
            write()
            log.info("ready", play_url=ports.play_url, ops_url=ports.ops_url, workers=settings.workers)
            if console.link != console.url:
                # The one time that a secret is logged: it opens nothing once the first operator is made.
                log.warning("console_has_no_operator_yet", open_once=console.link)
            stack.callback(ports.close)
            stack.callback(state.clear)
            supervisor.watch()
            log.info("stopping")
    log.info("stopped")
    return ExitCode.INTERRUPTED if supervisor.first_signal == signal.SIGINT else ExitCode.OK
