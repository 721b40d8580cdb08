"""
The embedded Redis-compatible server: Valkey from a wheel (or one on the system) on a private socket.

Promise: what a client was told to be written survives the end of the process, however it ends (append-only file;
a crash of the whole machine can lose the last second). Two servers never write to the same files.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from persistence.embedded.binaries import get_valkey
from persistence.embedded.server_process import EmbeddedServer
from persistence.embedded.sockets import get_sockets_dir

PING_TIMEOUT_S = 0.5


class EmbeddedValkey(EmbeddedServer):
    """Valkey as a child process; see `Child` for the calls."""

    name = "valkey"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket_path))}?db=0"

    @cached_property
    def socket_path(self) -> Path:
        return get_sockets_dir(self._data_dir) / "valkey.sock"

    def _bring_up(self) -> Iterator[None]:
        binary = get_valkey()
        folder = self._data_dir / "valkey"
        folder.mkdir(mode=0o700, exist_ok=True)
        yield from self._take_lock(lambda command: str(self.socket_path) in command, list)
        self._note(f"{binary.path.name} {binary.version} on {folder}")
        # The lock is ours, so whatever socket is here belongs to nobody.
        self.socket_path.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(folder.resolve()),
            "appendonly": "yes",
            "appendfsync": "no" if self._for_tests else "everysec",
            "save": "",
            "aof-load-truncated": "yes",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        if self._for_tests:
            options["enable-debug-command"] = "local"
        self._launch([str(binary.path), *(part for key, value in options.items() for part in (f"--{key}", value))])
        while not self._answers():
            yield

    def _answers(self) -> bool:
        """True for PONG; a server that still reads its file says LOADING."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PING_TIMEOUT_S)
                client.connect(str(self.socket_path))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False
