"""
Our own Python processes as the supervisor sees them: gateways, flushers and the ops process.

The contract between the supervisor and such a process (`supervised.py` is its other side):

    python -m gateway.app.run_gateway --worker I        I = 1 … workers
    python -m gateway.app.run_flusher --worker I        I = 1 … flushers
    python -m gateway.app.run_ops --worker 1

    environment            every setting under its own name; nothing else that starts with WAYHOLD_, except
    WAYHOLD_PROCESS        "gateway-1": the name in logs, metrics and ready.json
    WAYHOLD_LIFELINE_FD    read end of a pipe that only the supervisor can write to: end of file = it is gone
    WAYHOLD_READY_FD       write one line {"ready": true, "pid": …, "play_port": …, "ops_port": …} when the work starts
    WAYHOLD_PLAY_FD        a *listening* socket for players (gateways only)
    WAYHOLD_OPS_FD         a *listening* socket for health, metrics, live-ops API and console (ops-1 only)
    WAYHOLD_SETUP_KEY      what opens the console while there is no operator (ops-1 only) …
    WAYHOLD_SETUP_UNTIL    … and until when, in seconds since 1970; a process that is started again gets the same two
    WAYHOLD_PRODUCTION     "1" under `serve` (ops-1 only): the console marks it
    WAYHOLD_REDIS_WARNING  why this Redis is unsafe, when it was allowed to be
    PROMETHEUS_MULTIPROC_DIR  where the processes' metrics meet

    SIGTERM                stop cleanly: gateways drain, flushers do a final flush; a second one means faster
    exit code 0            it was asked to stop. 2, 3: its settings or a server are wrong, so starting it again is of
                           no use while everything is being started. Anything else: it died, and is started again.

Why sockets are inherited: the port must be known before the first gateway runs (`--play-port 0`), must survive a
gateway that is killed, and must be one for all workers. The supervisor binds it once and keeps it, so that while a
gateway is being restarted players wait in the kernel's queue and are not refused. Each worker has a listener of its
own on the same port (SO_REUSEPORT): with one shared listener an event loop takes whole runs of waiting sockets at once
and one worker ends up with most players; with one each the kernel spreads them evenly. Where the kernel does not
spread (macOS) all workers share one listener. A gateway must not bind anything by itself when it is handed a socket.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.app.errors import PortTaken, SettingsError
from persistence.embedded.log_file import open_log

LISTEN_BACKLOG = 4096
READY_LINE_BYTES_MAX = 4096


class PythonChild:
    """
    One supervised Python process; it can be spawned again after it died. Owns its log file and its ready pipe.

    Logs go straight into the file (or our stderr without one): a pipe through the supervisor could block a gateway's
    event loop whenever the supervisor is slow.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log_path: Path | None = None,
        sockets: Mapping[str, socket.socket] | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.facts: dict[str, Any] = {}
        self._command = list(command)
        self._environment = dict(environment)
        self._sockets = dict(sockets or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_fd: int | None = None
        self._ready_text = b""
        # The read end is kept here too, so that it can be handed to every new process; ends of file come from the
        # write end alone, which no child inherits.
        self._lifeline_read, self._lifeline_write = os.pipe()

    @property
    def pid(self) -> int | None:
        """The process id while the process lives, else None."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def spawn(self) -> None:
        self._close_ready()
        self._ready_text = b""
        self.facts = {}
        ready_read, ready_write = os.pipe()
        os.set_blocking(ready_read, False)
        self._ready_fd = ready_read
        environment = self._environment | {
            "WAYHOLD_PROCESS": self.name,
            "WAYHOLD_LIFELINE_FD": str(self._lifeline_read),
            "WAYHOLD_READY_FD": str(ready_write),
            **{name: str(listener.fileno()) for name, listener in self._sockets.items()},
        }
        log_fd = None
        try:
            if self.log_path is not None:
                log_fd = open_log(self.log_path)
            output = log_fd if log_fd is not None else sys.stderr.fileno()
            self._process = subprocess.Popen(
                self._command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(
                    self._lifeline_read,
                    ready_write,
                    *(listener.fileno() for listener in self._sockets.values()),
                ),
                # Ctrl-C goes to the whole foreground group; only the supervisor decides in which order things end.
                start_new_session=True,
            )
        finally:
            os.close(ready_write)
            if log_fd is not None:
                os.close(log_fd)

    def check_ready(self) -> bool:
        """Whether the process has said that it is ready. Cheap."""
        if self.facts:
            return True
        if self._ready_fd is None:
            return False
        try:
            chunk = os.read(self._ready_fd, READY_LINE_BYTES_MAX)
        except BlockingIOError:
            return False
        self._ready_text += chunk
        line, newline, _rest = self._ready_text.partition(b"\n")
        if not newline:
            if not chunk or len(line) > READY_LINE_BYTES_MAX:
                self._close_ready()
            return False
        self._close_ready()
        try:
            facts = json.loads(line)
        except ValueError:
            return False
        if isinstance(facts, dict) and facts.get("ready") is True:
            self.facts = facts
        return bool(self.facts)

    def poll(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    def request_stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Give up the pipes, once the process is gone for good."""
        self._close_ready()
        for fd in (self._lifeline_read, self._lifeline_write):
            os.close(fd)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _close_ready(self) -> None:
        if self._ready_fd is not None:
            os.close(self._ready_fd)
            self._ready_fd = None


def open_listeners(host: str, port: int, count: int, setting: str) -> list[socket.socket]:
    """
    `count` listening sockets on one port (0: any free one), one for each worker; see the top of this file.

    Raises:
        PortTaken: somebody listens there, or the port needs rights we do not have.
        SettingsError: the host is no address of this machine.
    """
    family, address = _resolve(host, port, setting)
    is_spread = count > 1 and sys.platform == "linux"
    try:
        if is_spread and port != 0:
            # SO_REUSEPORT would let us join the port of another program of the same user: look first.
            _listener(family, address, is_shared=False).close()
        first = _listener(family, address, is_shared=is_spread)
    except OSError as error:
        raise _listen_error(error, host, port, setting) from None
    listeners = [first]
    if is_spread:
        address = (address[0], first.getsockname()[1], *address[2:])
        listeners += [_listener(family, address, is_shared=True) for _ in range(count - 1)]
        return listeners
    return listeners * count


def _resolve(host: str, port: int, setting: str) -> tuple[int, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            f"{setting}_host {host!r} cannot be resolved ({error})",
            f"give an address of this machine with --{setting}-host",
        ) from None
    family, _kind, _protocol, _name, address = found[0]
    return int(family), address


def _listener(family: int, address: tuple[Any, ...], *, is_shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(LISTEN_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _listen_error(error: OSError, host: str, port: int, setting: str) -> PortTaken | SettingsError:
    if error.errno == errno.EADDRINUSE:
        return PortTaken(
            f"port {port} on {host} is taken by another program",
            f"choose another with --{setting}-port N (0 = any free one), or find it: ss -ltnp 'sport = :{port}'",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return PortTaken(f"port {port} needs rights this user does not have", f"choose one with --{setting}-port N")
    return SettingsError(
        f"cannot listen on {host} port {port} ({error.strerror})",
        f"give an address of this machine with --{setting}-host",
    )
