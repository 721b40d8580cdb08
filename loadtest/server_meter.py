"""
CPU and memory of processes of this machine, from /proc: the servers that a load test plays on, and its own.

Promise: a process that was killed and started again is counted through; one that cannot be looked at counts nothing.
Where there is no /proc every figure is None, and nothing is guessed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtest.tally import find_rss_bytes

_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(slots=True)
class Use:
    """Of all processes of one kind: CPU since the first look, CPU per second since the last one, memory."""

    cpu_s: float = 0.0
    cores: float = 0.0
    rss_bytes: int = 0


class ServerMeter:
    """Looks at processes again and again; they are told by name, `gateway-1` is of the kind `gateway`."""

    def __init__(self) -> None:
        self._cpu_of: dict[int, float] = {}
        self._at_s: float | None = None
        self.kinds: dict[str, Use] = {}

    def look(self, processes: Mapping[str, int], now_s: float) -> dict[str, Use]:
        elapsed_s = now_s - self._at_s if self._at_s is not None else 0.0
        self._at_s = now_s
        for use in self.kinds.values():
            use.cores, use.rss_bytes = 0.0, 0
        for name, pid in processes.items():
            cpu_s = find_cpu_s(pid)
            if cpu_s is None:
                continue
            kind = name.rpartition("-")[0] or name
            use = self.kinds.setdefault(kind, Use())
            # A process seen for the first time in the middle of a run was just started: all it used counts.
            before_s = self._cpu_of.get(pid, cpu_s if not elapsed_s else 0.0)
            used_s = max(0.0, cpu_s - before_s)
            self._cpu_of[pid] = cpu_s
            use.cpu_s += used_s
            use.cores += used_s / elapsed_s if elapsed_s > 0 else 0.0
            use.rss_bytes += find_rss_bytes(pid)
        return self.kinds


def find_cpu_s(pid: int | str) -> float | None:
    """CPU that a process and its threads have used; of Postgres, with the backends that it still has."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name in brackets may hold anything, so read from behind the last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return None
