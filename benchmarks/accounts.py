"""
What the operating system counted for processes: CPU time and memory.

Promise: CPU time has the kernel's own resolution (nanoseconds) for a living process with all its threads, those that
have ended too; children that ended and were waited for are added in ticks of a hundredth of a second. Nothing is
sampled, so nothing that runs between two looks is missed.

Not here: whose processes these are (installation.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process. `pss_bytes` shares what several processes map; equal to RSS where that is not told."""

    rss_bytes: int
    pss_bytes: int


def is_supported() -> bool:
    """Whether this system tells the CPU time of other processes the way it is read here (Linux)."""
    return Path("/proc/self/stat").exists() and hasattr(time, "clock_gettime")


def read_cpu_s(pid: int) -> float:
    """CPU seconds of a process and of the children that it has waited for; 0 when it is gone."""
    return _read_own_s(pid) + _read_waited_s(pid)


def read_tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and everything below it, living or waited for."""
    return sum(read_cpu_s(each) for each in list_tree(pid))


def read_core_wait_s(pid: int) -> float:
    """Seconds that the living threads of a process were ready to run and had no core; 0 where it is not told."""
    waited_ns = 0
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError, IndexError):
                waited_ns += int((thread / "schedstat").read_text().split()[1])
    return waited_ns / 1e9


def list_tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _read_stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, at = [pid], 0
    while at < len(found):
        found += children.get(found[at], [])
        at += 1
    return found


def read_memory(pid: int) -> Memory:
    """Raises OSError when the process is gone."""
    sizes: dict[str, int] = {}
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            sizes[name] = int(rest.split()[0]) * 1024
    if "Rss" not in sizes:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        sizes["Rss"] = pages * os.sysconf("SC_PAGE_SIZE")
    return Memory(sizes["Rss"], sizes.get("Pss", sizes["Rss"]))


@dataclass(frozen=True)
class CpuAccounts:
    """CPU seconds by name at one moment; `since` gives what was used in between."""

    at: float
    used_s: Mapping[str, float]

    @classmethod
    def take(cls, pids: Mapping[str, int], trees: Iterable[str] = ()) -> CpuAccounts:
        """For each name its process; for those in `trees` everything below it too."""
        whole = frozenset(trees)
        return cls(
            time.monotonic(),
            {name: read_tree_cpu_s(pid) if name in whole else read_cpu_s(pid) for name, pid in pids.items()},
        )

    def since(self, earlier: CpuAccounts) -> dict[str, float]:
        """Raises AssertionError when a process was started again in between: its account would be wrong."""
        used = {name: seconds - earlier.used_s.get(name, 0.0) for name, seconds in self.used_s.items()}
        assert all(seconds >= 0 for seconds in used.values()), f"a process was started again: {used}"
        return used


def pin(pid: int, cores: Iterable[int]) -> bool:
    """Bind a process with all its threads and all below it to cores; False where the system does not let us."""
    wanted = set(cores)
    try:
        for each in list_tree(pid):
            for thread in Path(f"/proc/{each}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), wanted)
    except (AttributeError, OSError):
        return False
    return True


def _read_own_s(pid: int) -> float:
    # The kernel numbers the CPU clock of every process by its complement; Python names only those of threads.
    with suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    fields = _read_stat(pid)
    return (int(fields[11]) + int(fields[12])) * _TICK_S if fields else 0.0


def _read_waited_s(pid: int) -> float:
    fields = _read_stat(pid)
    return (int(fields[13]) + int(fields[14])) * _TICK_S if fields else 0.0


def _read_stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name (which may hold blanks): state, parent, …; empty when gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
