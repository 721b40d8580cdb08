"""
What a supervisor needs to know about a process it owns, and the helpers to start and stop one.

Promise: a child is started without blocking, asked whether it is ready, and stopped with a deadline. Nothing here
knows which program runs.

Refused: restarting. When and how often a dead child comes back is the supervisor's decision.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from persistence.embedded.errors import ChildFailed
from persistence.embedded.log_file import list_last_lines

__all__ = ["Child", "ChildFailed", "start_all_and_wait", "start_and_wait", "stop_all_and_wait", "stop_and_wait"]

READY_POLL_S = 0.01
LOG_TAIL_LINES = 20


@runtime_checkable
class Child(Protocol):
    """A process with a start, a state of being ready, and an end. All calls are cheap and come from the main thread."""

    name: str

    @property
    def log_path(self) -> Path | None: ...

    @property
    def pid(self) -> int | None:
        """The process id while the process lives, else None."""

    def spawn(self) -> None:
        """
        Begin to start the process and return at once. May be called again after the process has ended.

        Raises:
            EmbeddedError: it cannot be started here, and says what to do.
        """

    def check_ready(self) -> bool:
        """
        True once the process answers. Call it every 50 ms: it also carries the start forward.

        Raises:
            EmbeddedError: the start cannot succeed.
        """

    def poll(self) -> int | None:
        """The exit code if the process has ended, else None (also before the first spawn)."""

    def request_stop(self) -> None:
        """Ask for a clean end. Does nothing when there is no process."""

    def kill(self) -> None:
        """End the process at once. Does nothing when there is no process."""


def start_and_wait(child: Child, deadline_s: float = 60.0) -> None:
    """
    Start a child and return when it is ready.

    Raises:
        ChildFailed: it ended, or was not ready in time (it is killed then).
    """
    start_all_and_wait([child], deadline_s)


def start_all_and_wait(children: Sequence[Child], deadline_s: float = 60.0) -> None:
    """As `start_and_wait`, for several at the same time. When one fails the others are stopped."""
    deadline = time.monotonic() + deadline_s
    started: list[Child] = []
    try:
        for child in children:
            started.append(child)
            child.spawn()
        waiting = list(children)
        while waiting:
            waiting = [child for child in waiting if not _check_started(child)]
            if waiting and time.monotonic() > deadline:
                late = waiting[0]
                raise ChildFailed(late.name, f"was not ready within {deadline_s:g} s", _list_log_tail(late))
            if waiting:
                time.sleep(READY_POLL_S)
    except BaseException:
        for child in started:
            child.kill()
        raise


def stop_and_wait(child: Child, deadline_s: float = 20.0) -> int | None:
    """Ask a child to end, kill it at the deadline; returns its exit code (None if there was no process)."""
    stop_all_and_wait([child], deadline_s)
    return child.poll()


def stop_all_and_wait(children: Sequence[Child], deadline_s: float = 20.0) -> None:
    """As `stop_and_wait`, for several at the same time under one deadline."""
    deadline = time.monotonic() + deadline_s
    for child in children:
        child.request_stop()
    is_killed = False
    while any(child.pid is not None for child in children):
        if not is_killed and time.monotonic() > deadline:
            for child in children:
                child.kill()
            is_killed = True
        elif is_killed and time.monotonic() > deadline + 5:
            # SIGKILL waits only for a process stuck in the kernel; there is nothing more to do about one.
            return
        time.sleep(READY_POLL_S)


def _check_started(child: Child) -> bool:
    if child.check_ready():
        return True
    code = child.poll()
    if code is not None:
        raise ChildFailed(child.name, f"ended with exit code {code} while starting", _list_log_tail(child))
    return False


def _list_log_tail(child: Child) -> list[str]:
    return list_last_lines(child.log_path, LOG_TAIL_LINES) if child.log_path else []
