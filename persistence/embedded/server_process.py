"""
What both embedded servers share: a start that goes on step by step, a lock that their processes hold while any of
them lives, a process that dies with its parent, a capped log.

The lock file is the answer to every question about leftovers. Its descriptor is inherited by the server and by all
its children, so it is free only when the last of them has gone; process numbers in files can only be guessed at, they
are used again by others.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from persistence.embedded.errors import ChildFailed, EmbeddedUnfit
from persistence.embedded.log_file import cap_log, open_log

# A leftover is asked to end; after this time it is killed, and after twice this time we give up.
LEFTOVER_STOP_S = 10.0
LOG_LOOK_S = 5.0
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


class EmbeddedServer(ABC):
    """A server process as a `Child`. Subclasses say how it is brought up and what its clean end is."""

    name: str
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, data_dir: Path | str, *, for_tests: bool = False) -> None:
        """`data_dir` is the whole data folder; the server keeps to its own names in it."""
        self._data_dir = Path(data_dir).absolute()
        self._for_tests = for_tests
        self._process: subprocess.Popen[bytes] | None = None
        self._helper: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._bringing_up: Iterator[None] | None = None
        self._is_ready = False
        self._lock_fd: int | None = None
        self._log_looked_at = 0.0

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients reach the server."""

    @abstractmethod
    def _bring_up(self) -> Iterator[None]:
        """Everything up to being ready; yields whenever it has to wait."""

    @property
    def log_path(self) -> Path:
        return self._data_dir / "logs" / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        process = self._process or self._helper
        return process.pid if process is not None and process.poll() is None else None

    def spawn(self) -> None:
        assert self.pid is None, f"{self.name} runs already"
        # The parent-death signal is bound to the thread that starts the process: a worker thread that ends would
        # take the server with it.
        assert threading.current_thread() is threading.main_thread(), "servers are started from the main thread"
        self._process = self._helper = None
        self._is_ready = False
        self._bringing_up = self._bring_up()
        self._advance()

    def check_ready(self) -> bool:
        self._advance()
        return self._is_ready and self.poll() is None

    def poll(self) -> int | None:
        if self._process is None:
            return None
        now = time.monotonic()
        if now - self._log_looked_at > LOG_LOOK_S:
            self._log_looked_at = now
            with contextlib.suppress(OSError):
                cap_log(self.log_path)
        code = self._process.poll()
        if code is not None:
            self._end_watcher()
        return code

    def request_stop(self) -> None:
        self._end_start()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self.stop_signal)
            # A stopped process would see the signal only when it is continued.
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._end_start()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _advance(self) -> None:
        if self._bringing_up is None:
            return
        try:
            next(self._bringing_up)
        except StopIteration:
            self._bringing_up = None
            self._is_ready = True
        except OSError as error:
            self._end_start()
            where = f" {error.filename}" if error.filename else ""
            raise EmbeddedUnfit(
                f"{self.name} cannot be started: {error.strerror or error}{where}",
                f"make {self._data_dir} and all in it yours (chown -R), or use another --data-dir",
            ) from error
        except BaseException:
            self._end_start()
            raise

    def _end_start(self) -> None:
        self._bringing_up = None
        self._release_lock()
        if self._helper is not None and self._helper.poll() is None:
            self._helper.kill()
            self._helper.wait(timeout=10)
        self._helper = None

    # --- for subclasses ---

    def _take_lock(self, is_ours: Callable[[str], bool], stray_pids: Callable[[], list[int]]) -> Iterator[None]:
        """
        Take this server's lock; a leftover that holds it is ended first.

        `is_ours` recognizes a leftover by its command line (the number in the lock file may belong to anybody by
        now); `stray_pids` finds processes that outlived the one in the lock file.

        Raises:
            EmbeddedUnfit: something holds the lock and cannot be ended.
        """
        path = self._data_dir / f"{self.name}.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._lock_fd = fd
        began = time.monotonic()
        is_asked = is_killed = False
        while not _try_lock(fd):
            waited_s = time.monotonic() - began
            pid = _read_pid(path)
            if not is_asked:
                is_asked = True
                if pid is not None and is_ours(read_command(pid)):
                    _send(pid, self.stop_signal, signal.SIGCONT)
            elif waited_s > LEFTOVER_STOP_S and not is_killed:
                is_killed = True
                pids = stray_pids()
                if pid is not None and is_ours(read_command(pid)):
                    pids.append(pid)
                for stray in pids:
                    _send(stray, signal.SIGKILL)
            elif waited_s > 2 * LEFTOVER_STOP_S:
                raise EmbeddedUnfit(
                    f"a {self.name} left over from an earlier run still holds {path}",
                    f"end it (its process id was {pid}) and start again",
                )
            yield
        os.ftruncate(fd, 0)

    def _note(self, text: str) -> None:
        """A line of our own in the server's log."""
        fd = open_log(self.log_path)
        try:
            os.write(fd, f"wayhold: {text}\n".encode("utf-8", "surrogateescape"))
        finally:
            os.close(fd)

    def _launch(
        self, argv: Sequence[str], *, uid: int | None = None, gid: int | None = None, env: dict[str, str] | None = None
    ) -> None:
        """Start the server itself; the lock passes into its hands."""
        assert self._lock_fd is not None
        self._process = self._popen(argv, uid=uid, gid=gid, env=env, death_signal=self.stop_signal)
        os.pwrite(self._lock_fd, f"{self._process.pid}\n".encode(), 0)
        self._release_lock()
        if _libc is None:
            self._watcher = _start_watcher(self._process.pid, self.stop_signal)

    def _run_helper(
        self, argv: Sequence[str], *, uid: int | None = None, gid: int | None = None, env: dict[str, str] | None = None
    ) -> Generator[None, None, int]:
        """Run a program that the start needs; yields while it runs, returns its exit code."""
        self._helper = self._popen(argv, uid=uid, gid=gid, env=env, death_signal=signal.SIGKILL)
        while (code := self._helper.poll()) is None:
            yield
        self._helper = None
        return code

    def _popen(
        self,
        argv: Sequence[str],
        *,
        uid: int | None,
        gid: int | None,
        env: dict[str, str] | None,
        death_signal: signal.Signals,
    ) -> subprocess.Popen[bytes]:
        log_fd = open_log(self.log_path)
        parent_pid = os.getpid()
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=env,
                # Ctrl-C at the terminal must reach the supervisor alone: it decides in which order things end.
                start_new_session=True,
                pass_fds=() if self._lock_fd is None else (self._lock_fd,),
                user=uid,
                group=gid,
                extra_groups=None if uid is None else [],
                preexec_fn=None if _libc is None else lambda: _die_with_parent(parent_pid, death_signal),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ChildFailed(self.name, f"could not be started: {error}") from error
        finally:
            os.close(log_fd)

    def _release_lock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _end_watcher(self) -> None:
        if self._watcher is not None:
            # Killed before its pipe is closed: the end of the pipe is what makes it act.
            self._watcher.kill()
            self._watcher.communicate(timeout=10)
            self._watcher = None


def read_command(pid: int) -> str:
    """The command line of a process, empty when it has ended or cannot be looked at."""
    proc = Path(f"/proc/{pid}/cmdline")
    if proc.exists():
        with contextlib.suppress(OSError):
            return proc.read_bytes().replace(b"\0", b" ").decode("utf-8", "surrogateescape").strip()
        return ""
    try:
        done = subprocess.run(
            ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _die_with_parent(parent_pid: int, death_signal: signal.Signals) -> None:
    """Runs in the new process before the program. The kernel sends the signal when the parent's thread ends."""
    assert _libc is not None
    _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent_pid:
        # The parent went before the request: nobody would tell us any more.
        os._exit(1)


def _start_watcher(pid: int, stop_signal: signal.Signals) -> subprocess.Popen[bytes]:
    """
    Where the kernel sends no signal at a parent's death: a shell that waits for the end of a pipe only we hold.

    We kill the watcher as soon as the server has ended, so that it cannot signal a stranger of the same number.
    """
    script = f'read -r _; kill -{int(stop_signal)} "$1"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(path: Path) -> int | None:
    text = path.read_text("ascii", "replace").strip()
    return int(text) if text.isdigit() and int(text) > 1 else None


def _send(pid: int, *signals: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        for number in signals:
            os.kill(pid, number)
