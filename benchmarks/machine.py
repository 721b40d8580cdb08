"""
Where a result comes from: the machine, the versions, the tree, and who else was at work.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgpack

from benchmarks.load_processes import ROOT
from benchmarks.walk_step import make_update

PACKAGES = ("uvloop", "websockets", "redis", "hiredis", "asyncpg", "msgpack", "pydantic", "PyJWT", "prometheus_client")


def describe_machine() -> dict[str, Any]:
    return {
        "processor": _read_processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def describe_versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0], "wayhold": _read_commit()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


YARDSTICK_OF_BARS_US = 0.8
"""What `measure_yardstick` says on the machine that the bars were set on."""


def measure_yardstick(rounds: int = 5, turns: int = 4_000) -> float:
    """
    CPU, in µs, of `msgpack.unpackb` of one `walk-step` frame: how fast this machine is just now. It has nothing of ours
    in it, so what grows with it is the machine's.
    """
    payload = msgpack.packb(make_update(1, 1))
    found = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(turns):
            msgpack.unpackb(payload)
        found.append((time.process_time() - began) / turns * 1e6)
    return round(sorted(found)[rounds // 2], 2)


def show_yardsticks(result: Mapping[str, Any]) -> str:
    """Before and after each part of a result; parts of older ones have none."""
    found = {name: part["yardstick_us"] for name, part in result["parts"].items() if "yardstick_us" in part}
    return ", ".join(f"{name} {before:g} and {after:g}" for name, (before, after) in found.items())


class Noise:
    """How much of the machine others used while we measured: what makes figures of two runs differ."""

    def __init__(self) -> None:
        self._before = _read_busy_s(), _read_ours_s()
        self._at = os.times().elapsed

    def read_cores(self) -> float:
        """Cores that were busy on average for somebody else, the virtual machine's neighbours included."""
        busy = _read_busy_s() - self._before[0]
        ours = _read_ours_s() - self._before[1]
        return round(max(0.0, busy - ours) / max(0.001, os.times().elapsed - self._at), 2)


def _read_busy_s() -> float:
    with suppress(OSError):
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _read_ours_s() -> float:
    """Of this process and all that it waited for: call it when nothing that it started runs."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _read_processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _read_commit() -> str:
    """The commit, with `+changes` when the tree differs from it; the version where there is no git."""
    with suppress(OSError, subprocess.SubprocessError):
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=ROOT, capture_output=True, text=True, timeout=30, check=True,
        ).stdout.strip()  # fmt: skip
        return head + ("+changes" if changed else "")
    with suppress(PackageNotFoundError):
        return version("wayhold")
    return "unknown"
