"""
Start everything on this machine: servers, gateway and flusher, for development and demos.

It looks at everything that could be wrong, then takes the data folder, then starts servers, schema and processes.
Whatever stops the start is one line, and nothing was changed before it. Ctrl-C stops cleanly and is a success.
"""

# The text above is shown by --help. Not here: how processes are kept alive (supervisor.py), what the folder holds
# (dev_folder.py).

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from gateway.app.checks import check_postgres, check_redis
from gateway.app.dev_folder import check_is_ours, empty_folder, make_secret
from gateway.app.errors import CommandError, ExitCode, PortTaken, SettingsError, UnfitDependency
from gateway.app.experience_files import load_experiences
from gateway.app.launch import STAGE_POSTGRES, STAGE_VALKEY, Console, Ports, add_children, raise_file_limit
from gateway.app.ready import FILE_NAME, Ready, is_alive, read_ready, remove_ready, write_ready
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.supervisor import StopRequested, Supervisor
from gateway.app.typed import typed_command, typed_data_dir
from gateway.app.version import get_version
from gateway.telemetry.logs import get_logger, set_up_logs
from gateway.telemetry.metrics import forget_process, wipe_metrics_dir
from persistence.embedded.data_folder import DataFolder, find_owner_pid
from persistence.embedded.errors import DataFolderBusy
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.embedded.valkey import EmbeddedValkey

SERVER_START_DEADLINE_S = 60.0
SERVER_STOP_DEADLINE_S = 6.0  # then SIGKILL: both recover from it at the next start
MIGRATE_DEADLINE_S = 120.0
CHECK_DEADLINE_S = 20.0
ORPHANS_WAIT_S = 7.0
LOCK_WAIT_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ready-json", metavar="FILE", type=Path, help="also write ready.json there")
    parser.add_argument("--fresh", action="store_true", help="empty the data folder first")
    parser.add_argument(
        "--upgrade-data", action="store_true", help="convert the data of another major version of Postgres first"
    )
    parser.add_argument(
        "--old-postgres",
        metavar="DIR",
        type=Path,
        help="where that version is, for --upgrade-data (else it is looked for)",
    )
    add_setting_flags(parser)


def run(args: argparse.Namespace) -> int:
    began = time.monotonic()
    settings = load_settings(args, for_dev=True).settings
    set_up_logs("info", "text", "supervisor")
    if args.old_postgres is not None and not args.upgrade_data:
        raise SettingsError("--old-postgres does nothing by itself", "add --upgrade-data")
    if args.upgrade_data:
        from gateway.app.upgrade_data import upgrade_data

        # Before anything else is up: nothing of it can be interrupted by a child that dies.
        upgrade_data(settings, args.old_postgres)
    Dev(settings, ready_json=args.ready_json, is_fresh=args.fresh, began=began).run()
    return ExitCode.OK


class Dev:
    """One run of `wayhold dev`."""

    def __init__(self, settings: Settings, *, ready_json: Path | None, is_fresh: bool, began: float) -> None:
        self._settings = settings
        self._data_dir = settings.data_dir.absolute()
        self._ready_files = [self._data_dir / FILE_NAME] + ([ready_json.absolute()] if ready_json else [])
        self._is_fresh = is_fresh
        self._began = began
        self._metrics_dir = self._data_dir / "run" / "metrics"
        self._is_up = False
        self._ports: Ports
        self._supervisor: Supervisor

    def run(self) -> None:
        """Until a signal. Raises CommandError, EmbeddedError."""
        supervisor = self._supervisor = Supervisor(
            log=get_logger("supervisor"),
            on_change=self._rewrite_ready,
            on_death=lambda pid: forget_process(self._metrics_dir, pid),
            show_line=lambda line: _print([line], to_stderr=True),
        )
        with ExitStack() as stack:
            # The folder outlives the children, the children outlive ready.json.
            holder = stack.enter_context(ExitStack())
            stack.enter_context(supervisor)
            with suppress(StopRequested):
                self._start(holder)
                stack.callback(self._stopping)
                supervisor.watch()
        _print(["stopped"])

    def _start(self, holder: ExitStack) -> None:
        settings, supervisor = self._settings, self._supervisor
        owner = find_owner_pid(self._data_dir)
        if owner is not None:
            raise DataFolderBusy(
                f"the data folder {self._data_dir} is in use by process {owner}",
                f"stop that one ({typed_command()} stop{typed_data_dir(self._data_dir)}), or give another --data-dir",
            )
        check_is_ours(self._data_dir)
        if settings.jwt_secret is not None or settings.jwt_secret_file is not None:
            settings.get_jwt_secret()
        load_experiences(settings)
        self._ports = self._open_ports()
        holder.callback(self._ports.close)
        redis_warning = self._check_external_servers()
        folder = holder.enter_context(self._take_folder())
        for path in self._ready_files:
            remove_ready(path)  # a killed supervisor's: whoever waits for the file must wait for ours
        if self._is_fresh:
            empty_folder(folder)
        self._tidy_up()
        self._greet()
        raise_file_limit()
        settings = self._start_servers(settings)
        assert settings.database_url is not None
        self._migrate(settings.database_url)
        if settings.jwt_secret is None and settings.jwt_secret_file is None:
            settings = replace(settings, jwt_secret_file=make_secret(self._data_dir))
        self._settings = settings
        wipe_metrics_dir(self._metrics_dir)
        folder.logs_dir.mkdir(mode=0o700, exist_ok=True)
        console = add_children(
            supervisor,
            settings,
            self._ports,
            metrics_dir=self._metrics_dir,
            logs_dir=folder.logs_dir,
            redis_warning=redis_warning,
            is_production=False,
        )
        supervisor.start_all()
        self._is_up = True
        for path in self._ready_files:
            holder.callback(remove_ready, path)
        self._write_ready()
        self._say_ready(redis_warning, console)

    def _tidy_up(self) -> None:
        """An upgrade that died between its two renames is brought to its end."""
        if (self._data_dir / "upgrade").exists():
            from persistence.embedded.upgrade import finish_upgrade

            finish_upgrade(self._data_dir)

    def _take_folder(self) -> DataFolder:
        try:
            return DataFolder(self._data_dir, disk_free_bytes_min=self._settings.disk_free_min_bytes)
        except DataFolderBusy:
            # Whoever asks who holds the folder (`status`, in a loop perhaps) holds its lock for a moment.
            self._supervisor.wait_until(lambda: False, LOCK_WAIT_S)
            return DataFolder(self._data_dir, disk_free_bytes_min=self._settings.disk_free_min_bytes)

    def _open_ports(self) -> Ports:
        try:
            return Ports.open(self._settings)
        except PortTaken:
            # After a SIGKILL of the supervisor its gateways end by themselves within seconds; a restart may be quicker.
            orphans = self._list_orphans()
            if not orphans:
                raise
            _print([f"waiting for the processes of a killed supervisor to end ({len(orphans)})"])
            self._supervisor.wait_until(lambda: not any(map(is_alive, orphans)), ORPHANS_WAIT_S)
            return Ports.open(self._settings)

    def _list_orphans(self) -> list[int]:
        left = read_ready(self._data_dir / FILE_NAME)
        if left is None or is_alive(left.supervisor_pid):
            return []
        return [pid for name, pid in left.processes.items() if name != "supervisor" and is_alive(pid)]

    def _check_external_servers(self) -> str:
        """Raises UnfitDependency; returns why an allowed Redis is unsafe."""
        settings, warning = self._settings, ""
        if settings.redis_url is not None:
            warning = self._supervisor.run_async(
                check_redis(settings.redis_url, allow_volatile=settings.allow_volatile_redis), CHECK_DEADLINE_S
            )
        if settings.database_url is not None:
            self._supervisor.run_async(check_postgres(settings.database_url, is_migrated_later=True), CHECK_DEADLINE_S)
        return warning

    def _start_servers(self, settings: Settings) -> Settings:
        """Start what no URL was given for; returns the settings with both URLs."""
        valkey = EmbeddedValkey(self._data_dir) if settings.redis_url is None else None
        postgres = EmbeddedPostgres(self._data_dir) if settings.database_url is None else None
        # Postgres first: it has more reasons to refuse a folder, and then Valkey has not touched it either.
        for server, stage in ((postgres, STAGE_POSTGRES), (valkey, STAGE_VALKEY)):
            if server is not None:
                self._supervisor.add(
                    server,
                    stage=stage,
                    stop_deadline_s=SERVER_STOP_DEADLINE_S,
                    start_deadline_s=SERVER_START_DEADLINE_S,
                )
        self._supervisor.start_all()
        if valkey is not None:
            settings = replace(settings, redis_url=valkey.url)
        if postgres is not None:
            postgres.drop_leftovers()
            settings = replace(settings, database_url=postgres.url)
        return settings

    def _migrate(self, database_url: str) -> None:
        from persistence.cold.migrate import migrate
        from persistence.errors import PersistenceError, StoreUnfit

        try:
            self._supervisor.run_async(migrate(database_url), MIGRATE_DEADLINE_S)
        except StoreUnfit as error:
            raise UnfitDependency(f"the database cannot be migrated: {error.reason}", error.advice) from None
        except (PersistenceError, TimeoutError) as error:
            raise UnfitDependency(f"the database cannot be migrated: {error}", f"see {self._data_dir}/logs") from None

    def _write_ready(self) -> None:
        if not self._is_up:
            return
        assert self._settings.redis_url is not None and self._settings.database_url is not None
        ready = Ready(
            version=get_version(),
            play_url=self._ports.play_url,
            ops_url=self._ports.ops_url,
            redis_url=self._settings.redis_url,
            database_url=self._settings.database_url,
            data_dir=str(self._data_dir),
            processes={"supervisor": os.getpid(), **self._supervisor.list_pids()},
            starting=self._supervisor.list_starting(),
        )
        for path in self._ready_files:
            write_ready(path, ready)

    def _rewrite_ready(self) -> None:
        try:
            self._write_ready()
        except CommandError as error:  # a full disk must not end the game
            get_logger("supervisor").warning("ready_json_not_written", error=str(error))

    def _stopping(self) -> None:
        """The first thing after the last look at the children: nobody new comes in, nobody is told we are ready."""
        self._is_up = False
        for path in self._ready_files:
            remove_ready(path)
        self._ports.close()
        _print(["", "stopping: players are told, then everything pending is written (Ctrl-C again to hurry)"])

    def _greet(self) -> None:
        _print(
            [
                f"wayhold {get_version()}",
                f"  play  {self._ports.play_url}",
                f"  ops   {self._ports.ops_url}",
                f"  data  {self._data_dir}",
                f"  next  {self._next_line()}   (in another terminal, once this one is ready)",
            ]
        )

    def _say_ready(self, redis_warning: str, console: Console) -> None:
        lines = [f"ready in {time.monotonic() - self._began:.1f} s; Ctrl-C stops it"]
        why = "   (once, within an hour: you choose your name and password)" if console.link != console.url else ""
        lines.append(f"  console  {console.link}{why}")
        if redis_warning:
            lines.append(f"WARNING: this Redis is not safe: {redis_warning}")
        _print(lines)

    def _next_line(self) -> str:
        return f"{typed_command()} walk{typed_data_dir(self._data_dir)}"


def _print(lines: Iterable[str], *, to_stderr: bool = False) -> None:
    # A terminal that is gone is no reason to stop.
    with suppress(OSError, ValueError):
        for line in lines:
            print(line, file=sys.stderr if to_stderr else sys.stdout, flush=True)
