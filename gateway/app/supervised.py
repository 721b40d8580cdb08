"""
The inside of a supervised process: what it inherits, how it says that it is ready, when it must stop.

Promise: a process whose supervisor is gone (even by SIGKILL) is told at once and is dead `ORPHAN_DEADLINE_S` later,
whatever its event loop is doing. Works the same without a supervisor: nothing is inherited, signals still count.

The other side, with the whole contract, is `children.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

# Every child has ended 5 s after the supervisor was killed: what is left to do has until here, then the process ends.
ORPHAN_DEADLINE_S = 3.5
EXIT_ORPHAN = 70


@dataclass(frozen=True)
class Inheritance:
    """What the supervisor handed to this process. Everything is None or empty when there is no supervisor."""

    process: str  # "gateway-1", "flusher-1": the name in logs, metrics and ready.json
    lifeline_fd: int | None
    ready_fd: int | None
    play_socket: socket.socket | None  # listening already: give it to the server as it is
    ops_socket: socket.socket | None  # listening already; only ops-1 has one
    redis_warning: str  # why this Redis is unsafe (with --allow-volatile-redis): /readyz repeats it
    setup_key: str = ""  # opens the console's first page while there is no operator; only ops-1 has it
    setup_until_s: float = 0.0  # and until when, in seconds since 1970
    is_production: bool = False  # `serve` and not `dev`

    def report_ready(self, **facts: Any) -> None:
        """
        Tell the supervisor, once, that this process does its work from now on.

        A gateway reports `play_port`, ops-1 `ops_port` and `needs_setup`. Without a supervisor nothing happens.
        """
        if self.ready_fd is None:
            return
        try:
            os.write(self.ready_fd, json.dumps({"ready": True, "pid": os.getpid(), **facts}).encode() + b"\n")
            os.close(self.ready_fd)
        except OSError:  # the supervisor is gone (the lifeline will say so), or this was said already
            pass


def inherit(default_process: str) -> Inheritance:
    """
    Read what the supervisor handed over and take it out of the environment, so that our own children do not use it.

    Call it once, early.
    """
    return Inheritance(
        process=os.environ.pop("WAYHOLD_PROCESS", "") or default_process,
        lifeline_fd=_pop_fd("WAYHOLD_LIFELINE_FD"),
        ready_fd=_pop_fd("WAYHOLD_READY_FD"),
        play_socket=_pop_socket("WAYHOLD_PLAY_FD"),
        ops_socket=_pop_socket("WAYHOLD_OPS_FD"),
        redis_warning=os.environ.pop("WAYHOLD_REDIS_WARNING", ""),
        setup_key=os.environ.pop("WAYHOLD_SETUP_KEY", ""),
        setup_until_s=float(os.environ.pop("WAYHOLD_SETUP_UNTIL", "") or 0),
        is_production=os.environ.pop("WAYHOLD_PRODUCTION", "") == "1",
    )


class StopRequest:
    """
    When to stop and how quickly. Owned by the process's main coroutine.

    `requested`: stop cleanly (drain, final flush). `urgent`: a second signal came or the supervisor is gone; what takes
    long is skipped, nothing is lost by it. An orphan has `ORPHAN_DEADLINE_S` left, then it is ended.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.urgent = asyncio.Event()
        self.is_orphan = False

    def install(self, inheritance: Inheritance) -> None:
        """Listen to SIGTERM, SIGINT and the lifeline. Call it inside the running loop, in the main thread."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request)
        if inheritance.lifeline_fd is not None:
            # A thread and not a reader of the loop: it must also end a process whose loop is stuck.
            threading.Thread(
                target=self._watch_lifeline, args=(inheritance.lifeline_fd, loop), name="lifeline", daemon=True
            ).start()

    def request(self) -> None:
        """Ask to stop; asking again makes it urgent."""
        if self.requested.is_set():
            self.urgent.set()
        self.requested.set()

    def _orphaned(self) -> None:
        self.is_orphan = True
        self.urgent.set()
        self.requested.set()

    def _watch_lifeline(self, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while os.read(fd, 1):  # nobody writes: it returns when the last writer, the supervisor, is gone
                pass
        except OSError:
            pass
        try:
            loop.call_soon_threadsafe(self._orphaned)
        except RuntimeError:  # the loop has ended already, and with it this process soon
            pass
        time.sleep(ORPHAN_DEADLINE_S)
        try:
            print(
                f"the supervisor is gone and {ORPHAN_DEADLINE_S:g} s have passed: ending", file=sys.stderr, flush=True
            )
        finally:
            os._exit(EXIT_ORPHAN)


def _pop_fd(name: str) -> int | None:
    text = os.environ.pop(name, "")
    return int(text) if text.isdigit() else None


def _pop_socket(name: str) -> socket.socket | None:
    fd = _pop_fd(name)
    if fd is None:
        return None
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    return listener
