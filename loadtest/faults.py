"""
Faults on real processes: signals by name, and a Postgres that stands still.

Promise: a frozen Postgres is always continued, whatever happens in between, and only processes that the running `dev`
names in its ready.json (and their own children) are touched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from loadtest.target import Target

KILLABLE = ("gateway", "flusher", "valkey", "postgres")


def kill_processes(target: Target, names: Iterable[str], how: signal.Signals = signal.SIGKILL) -> list[tuple[str, int]]:
    """
    SIGKILL the processes of these names (`gateway` means every gateway), or ask them to end with another signal;
    answers whom it hit, in that order.

    Raises:
        TargetMissing: no `dev` is running.
    """
    processes = target.list_processes()
    hit = []
    for wanted in names:
        for name, pid in sorted(processes.items()):
            if name == wanted or name.rpartition("-")[0] == wanted:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
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
