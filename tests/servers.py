"""
Real servers for tests: one Valkey and one Postgres per test run, on sockets, without fsync, in a short folder.

They die with the process that started them, so a killed test run leaves none behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from persistence.cold.migrate import migrate
from persistence.embedded.child import start_all_and_wait, stop_all_and_wait
from persistence.embedded.data_folder import DataFolder, find_owner_pid
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.embedded.valkey import EmbeddedValkey

TEMPLATE = "template_wayhold"
START_DEADLINE_S = 60.0
FOLDER_PREFIX = "wh-test-"
# Far longer than any test keeps a folder of its own without its lock.
LEFTOVER_AGE_S = 3600.0


class Servers:
    """Both servers and what tests do to them; `valkey` and `postgres` are children that a test may kill and spawn."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.valkey = EmbeddedValkey(data_dir, for_tests=True)
        self.postgres = EmbeddedPostgres(data_dir, for_tests=True)
        self._numbers = itertools.count(1)
        self._has_template = False
        self._shared: str | None = None

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    @property
    def database_url(self) -> str:
        """A migrated database for the whole run. Take one of your own (`create_database`) for anything that writes."""
        if self._shared is None:
            self._shared = self.create_database()
        return self._shared

    def start(self) -> None:
        start_all_and_wait([self.valkey, self.postgres], START_DEADLINE_S)

    def stop(self) -> None:
        stop_all_and_wait([self.valkey, self.postgres])

    def flush_redis(self) -> None:
        """Empty Redis, its scripts included: what a script cache hides shows in the next test."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.valkey.socket_path))
            for command in (b"FLUSHALL\r\n", b"SCRIPT FLUSH\r\n"):
                client.sendall(command)
                answer = client.recv(256)
                assert answer == b"+OK\r\n", answer

    def create_database(self, *, migrated: bool = True) -> str:
        """A fresh database; returns its URL."""
        if migrated:
            self._make_template()
        name = f"test_{next(self._numbers)}"
        template = TEMPLATE if migrated else "template1"
        self.postgres.run_sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.postgres.get_url(name)

    def drop_database(self, url: str) -> None:
        name = url.split("?")[0].rsplit("/", 1)[1]
        self.postgres.run_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _make_template(self) -> None:
        if self._has_template:
            return
        self.postgres.run_sql(f"CREATE DATABASE {TEMPLATE}")
        url = self.postgres.get_url(TEMPLATE)
        _run_apart(lambda: asyncio.run(migrate(url)))
        self._has_template = True


@contextmanager
def run_servers() -> Iterator[Servers]:
    """Both servers in a folder of their own, which goes when they have ended."""
    # Not pytest's tmp_path: it is closed to everybody else, and as root Postgres runs as somebody else.
    parent = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    _remove_leftovers(parent)
    data_dir = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
    data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        with DataFolder(data_dir):
            servers = Servers(data_dir)
            try:
                servers.start()
                yield servers
            finally:
                servers.stop()
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Folders of runs that were killed: their servers died with them, 60 MB each stayed."""
    for folder in parent.glob(FOLDER_PREFIX + "*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            is_old = time.time() - found.st_mtime > LEFTOVER_AGE_S
            if is_old and found.st_uid == os.geteuid() and find_owner_pid(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)


def _run_apart(work: Callable[[], object]) -> None:
    """Run in a thread: the caller may have an event loop, and asyncio.run must not touch it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
