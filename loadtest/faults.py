"""
Faults on real processes: signals by name, when somebody has taken the place of who was hit, and a Postgres that stands
still.

Promise: a frozen Postgres is always continued, whatever happens in between, and only processes that the running `dev`
names in its ready.json (and their own children) are touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtest.history import now_ms
from loadtest.target import Target, TargetMissing

KILLABLE = ("gateway", "flusher", "valkey", "postgres")

BACK_WAIT_S = 60.0
"""A drain and a final flush are shorter; whoever is not back then has been given up."""
BACK_LOOK_S = 0.05


@dataclass(slots=True)
class Fault:
    """A process that was killed, or asked to end. `back_ms`: when another one did its work; None: none did in time."""

    how: Literal["kill", "restart"]
    process: str
    pid: int
    at_ms: float
    back_ms: float | None = None
    back_pid: int | None = None

    @property
    def back_s(self) -> float | None:
        return None if self.back_ms is None else (self.back_ms - self.at_ms) / 1000


async def wait_back(target: Target, fault: Fault, wait_s: float = BACK_WAIT_S) -> None:
    """Until the supervisor names another process, and says that it is ready. Looks for `wait_s` at most."""
    deadline_ms = fault.at_ms + wait_s * 1000
    while True:
        with contextlib.suppress(TargetMissing):
            pid = target.list_processes(are_ready=True).get(fault.process, fault.pid)
            if pid != fault.pid:
                fault.back_ms, fault.back_pid = now_ms(), pid
                return
        if now_ms() >= deadline_ms:
            return
        await asyncio.sleep(BACK_LOOK_S)


def kill_processes(target: Target, names: Iterable[str], how: signal.Signals = signal.SIGKILL) -> list[tuple[str, int]]:
    """
    SIGKILL the processes of these names (`gateway` means every gateway), or with SIGTERM ask them to end; answers whom
    it hit, in that order.

    Raises:
        TargetMissing: no `dev` is running.
    """
    processes = target.list_processes()
    hit = []
    for wanted in names:
        for name, pid in sorted(processes.items()):
            if name == wanted or name.rpartition("-")[0] == wanted:
                # On SIGTERM Postgres waits until everybody has left by themselves, and lets nobody in meanwhile.
                is_patient = name == "postgres" and how == signal.SIGTERM
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT if is_patient else how)
                    hit.append((name, pid))
    return hit


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[list[int]]:
    """SIGSTOP a process and all its children while inside; SIGCONT on the way out."""
    stopped: list[int] = []
    try:
        # The parent first, so that it cannot start children while we look; children last in, first out.
        for found in _walk_tree(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(found, signal.SIGSTOP)
                stopped.append(found)
        yield stopped
    finally:
        for found in reversed(stopped):
            with contextlib.suppress(ProcessLookupError):
                os.kill(found, signal.SIGCONT)


def _walk_tree(pid: int) -> Iterator[int]:
    """A process, then its children as they are once the caller has dealt with it."""
    yield pid
    for child, parent in list_parents().items():
        if parent == pid:
            yield from _walk_tree(child)


def list_parents() -> dict[int, int]:
    """The parent of every process of this machine."""
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        parents = {}
        for entry in proc.iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    # The name in brackets may hold anything, so read from behind the last bracket.
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    parents[int(entry.name)] = int(fields[1])
        return parents
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, timeout=10, check=True)
    return {int(pid): int(parent) for pid, parent in (line.split() for line in listing.stdout.splitlines())}
