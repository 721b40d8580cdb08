"""
The embedded PostgreSQL: from a wheel (or one on the system), on a private socket, as a direct child.

Promise: a start after any kind of end finds the data as it was committed. A data folder is made aside and renamed
when it is complete, so a half-made one is never started. What a person could still need is never deleted: a folder
of another major version stops the start and says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from persistence.embedded.binaries import ServerBinary, get_postgres
from persistence.embedded.child import LOG_TAIL_LINES
from persistence.embedded.errors import ChildFailed, EmbeddedUnfit
from persistence.embedded.log_file import list_last_lines
from persistence.embedded.postgres_wire import DATABASE_MISSING, PostgresRefused, run_sql
from persistence.embedded.privileges import RunAs, choose_run_as, hand_over
from persistence.embedded.server_process import EmbeddedServer, is_alive, read_command
from persistence.embedded.sockets import get_sockets_dir

USER = "wayhold"
DATABASE = "wayhold"
RESTORING, REPLACED = "wayhold_restoring", "wayhold_replaced"
PORT = 5432
MAX_CONNECTIONS = 100
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/local/bin:/usr/bin:/bin"}

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "max_connections": str(MAX_CONNECTIONS),
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    # No standby ever reads from a development server; minimal WAL is less to write.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "jit": "off",
}
SETTINGS_FOR_TESTS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL as a child process; see `Child` for the calls. The database is there when it is ready."""

    name = "postgres"
    # SIGINT is the "fast" end: SIGTERM would wait until every client has gone by itself.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, data_dir: Path | str, *, for_tests: bool = False, binary: ServerBinary | None = None) -> None:
        """`binary`: another Postgres than the installed one, for data of its major version."""
        super().__init__(data_dir, for_tests=for_tests)
        self._given_binary = binary

    @cached_property
    def binary(self) -> ServerBinary:
        """Raises EmbeddedUnfit: there is none."""
        return self._given_binary or get_postgres()

    @property
    def url(self) -> str:
        return self.get_url(DATABASE)

    def get_url(self, database: str) -> str:
        """The URL of another database on this server."""
        return f"postgresql://{USER}@/{quote(database)}?host={quote(str(self.socket_dir), safe='')}&port={PORT}"

    @cached_property
    def socket_dir(self) -> Path:
        return get_sockets_dir(self._data_dir) / "pg"

    def run_sql(self, sql: str, *, database: str = "postgres") -> None:
        """Run statements from outside any event loop (making databases, in tests)."""
        run_sql(self.socket_dir / f".s.PGSQL.{PORT}", USER, database, sql)

    def drop_leftovers(self) -> None:
        """Databases of a restore that was killed: one that is half there, and one that was replaced already."""
        for name in (RESTORING, REPLACED):
            self.run_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _bring_up(self) -> Iterator[None]:
        binary = self.binary
        folder = self._data_dir.resolve() / "postgres"
        _check_folder(folder, binary)
        yield from self._take_lock(lambda command: _is_postgres_on(command, folder), lambda: _list_strays(folder))
        run_as = choose_run_as(binary, folder)
        self._note(f"PostgreSQL {binary.version} on {run_as.data_dir}, programs in {run_as.binary.path.parent}")
        if not _is_complete(run_as.data_dir):
            yield from self._initialize(run_as, folder)
        hand_over(run_as.data_dir, run_as)
        yield from self._clear_pid_files(run_as.data_dir)
        settings = SETTINGS | {"unix_socket_directories": str(self._make_socket_dir(run_as, folder))}
        if self._for_tests:
            settings |= SETTINGS_FOR_TESTS
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        argv = [*run_as.prefix, str(run_as.binary.path), "-D", str(run_as.data_dir), *options]
        self._launch(argv, uid=run_as.uid, gid=run_as.gid, env=ENVIRONMENT)
        while not (self._is_pid_file_ready(run_as.data_dir) and self._has_database()):
            yield

    def _initialize(self, run_as: RunAs, folder: Path) -> Iterator[None]:
        """Make the data folder aside, then rename it into place."""
        target = run_as.data_dir
        half = target.with_name(target.name + ".new")
        if half.exists():
            shutil.rmtree(half)
        half.mkdir(mode=0o700)
        hand_over(half, run_as)
        argv = [
            *run_as.prefix,
            str(run_as.binary.path.with_name("initdb")),
            *("-D", str(half), "-U", USER, "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8"),
            "--no-instructions",
        ]
        # The builtin provider sorts by code point everywhere and never changes with the system's C library.
        if run_as.binary.major >= 17:
            argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        else:
            argv += ["--no-locale"]
        if self._for_tests:
            argv += ["--no-sync"]
        code = yield from self._run_helper(argv, uid=run_as.uid, gid=run_as.gid, env=ENVIRONMENT)
        if code != 0:
            tail = list_last_lines(self.log_path, LOG_TAIL_LINES)
            raise ChildFailed("initdb", f"ended with exit code {code}", tail, f"see {self.log_path}")
        if target.exists():
            if any(target.iterdir()):
                # Neither complete nor empty: no Postgres can start it. Somebody may still want to look.
                target.rename(_find_free_name(target.with_name(target.name + ".incomplete")))
            else:
                target.rmdir()
        half.rename(target)

    def _clear_pid_files(self, data_dir: Path) -> Iterator[None]:
        """
        Deal with the process number that a killed server has left: a server on our folder is ended, a stranger who
        got the same number since (common in containers) is left alone and the file removed. The rest is Postgres's.
        """
        pid = _read_pid(data_dir / "postmaster.pid")
        if pid is not None and is_alive(pid):
            began = time.monotonic()
            while _is_postgres_on(read_command(pid), data_dir):
                waited_s = time.monotonic() - began
                if waited_s > 20:
                    raise EmbeddedUnfit(f"another postgres (process {pid}) uses {data_dir}", "stop it and start again")
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGINT)
                yield
            else:
                (data_dir / "postmaster.pid").unlink(missing_ok=True)
        for path in (self.socket_dir / f".s.PGSQL.{PORT}", self.socket_dir / f".s.PGSQL.{PORT}.lock"):
            path.unlink(missing_ok=True)

    def _make_socket_dir(self, run_as: RunAs, folder: Path) -> Path:
        """The folder as the server must name it. Clients always go through `socket_dir`."""
        if run_as.data_dir == folder:
            if self.socket_dir.is_symlink():
                self.socket_dir.unlink()
            self.socket_dir.mkdir(mode=0o700, exist_ok=True)
            hand_over(self.socket_dir, run_as)
            return self.socket_dir
        # The server cannot enter the data folder, so its socket lies beside its data and a link leads there.
        beside = run_as.data_dir.with_name("sockets")
        beside.mkdir(mode=0o700, exist_ok=True)
        hand_over(beside, run_as)
        if self.socket_dir.is_dir() and not self.socket_dir.is_symlink():
            shutil.rmtree(self.socket_dir)
        self.socket_dir.unlink(missing_ok=True)
        self.socket_dir.symlink_to(beside)
        return beside

    def _is_pid_file_ready(self, data_dir: Path) -> bool:
        try:
            lines = (data_dir / "postmaster.pid").read_text("utf-8", "replace").splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(self.pid) and lines[7].strip() == "ready"

    def _has_database(self) -> bool:
        """Log in to our database; make it when it is not there. False while the server does not answer yet."""
        try:
            self.run_sql("SELECT 1", database=DATABASE)
        except PostgresRefused as error:
            if error.sqlstate == DATABASE_MISSING:
                self.run_sql(f"CREATE DATABASE {DATABASE}")
                return True
            return False
        except OSError:
            return False
        return True


def _check_folder(folder: Path, binary: ServerBinary) -> None:
    if not (folder / "PG_VERSION").exists():
        if (folder / "global" / "pg_control").exists():
            raise EmbeddedUnfit(
                f"{folder} holds a database but its PG_VERSION file is missing", "restore the folder from a backup"
            )
        return
    major = (folder / "PG_VERSION").read_text("ascii", "replace").strip()
    if major != str(binary.major):
        raise EmbeddedUnfit(
            f"{folder} was made by PostgreSQL {major}, and the installed one is {binary.version}",
            f"wayhold dev --upgrade-data converts it; or install PostgreSQL {major} again, or use another --data-dir",
        )


def _is_complete(folder: Path) -> bool:
    return (folder / "PG_VERSION").exists() and (folder / "global" / "pg_control").exists()


def _find_free_name(path: Path) -> Path:
    for number in range(1, 1000):
        candidate = path.with_name(f"{path.name}-{number}")
        if not candidate.exists():
            return candidate
    raise EmbeddedUnfit(f"there are a thousand folders named {path.name}-N", "remove those you do not need")


def _is_postgres_on(command: str, folder: Path) -> bool:
    return "postgres" in command and f" {folder.resolve()} " in command + " "


def _list_strays(folder: Path) -> list[int]:
    """Processes of a killed server that have not noticed yet: they work in its data folder."""
    strays = []
    for proc in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (proc / "cwd").readlink() == folder.resolve():
                strays.append(int(proc.name))
    return strays


def _read_pid(path: Path) -> int | None:
    try:
        first = path.read_text("ascii", "replace").split("\n", 1)[0].strip()
    except OSError:
        return None
    return int(first) if first.isdigit() and int(first) > 1 else None
