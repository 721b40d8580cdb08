"""
One window of load with the accounts of everybody around it.

A window begins and ends settled (all that was accepted is saved), so that the work of an update is counted whole: its
ack, its flush, its rollups, its `saved`. What was used is divided by the rows that are in Postgres afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Protocol

from benchmarks.accounts import CpuAccounts
from benchmarks.load_processes import LoadFailed, LoadProcess, Target

SETTLE_DEADLINE_S = 240.0
CONNECT_DEADLINE_S = 180.0
CONNECT_PER_S = 500.0
WARM_S = 3.0


class Measured(Target, Protocol):
    """A server with everything behind it, as a window of load sees it."""

    @property
    def gateway_pid(self) -> int: ...

    def pin_all(self) -> None:
        """Bind all processes to their cores, those that were started since too."""

    def take_accounts(self, others: dict[str, int]) -> CpuAccounts: ...

    async def count_rows(self) -> int: ...

    async def settle(self, load: LoadProcess) -> None:
        """Wait until everything that was accepted is in Postgres. Raises LoadFailed."""


async def bring_in(load: LoadProcess, *, is_seeded: bool = True, per_s: float = CONNECT_PER_S) -> dict[str, Any]:
    """
    Connect all players, give them the state of the workload and wait until it is saved.

    Raises:
        LoadFailed: somebody did not come in.
    """
    found = await load.do("connect", timeout_s=CONNECT_DEADLINE_S, per_s=per_s)
    if found["welcome"] < load.players:
        raise LoadFailed(f"{found['welcome']} of {load.players} players are welcome: {found['counts']}")
    if is_seeded:
        seeded = await load.do("seed", timeout_s=SETTLE_DEADLINE_S)
        await settle(load)
        if seeded["counts"]["voids"]:
            raise LoadFailed(f"the updates of the workload are void: {seeded['counts']}")
    return found


async def settle(load: LoadProcess) -> None:
    """Until all players of Wayhold know that everything is saved. Raises LoadFailed."""
    left = await load.do("wait_saved", timeout_s=SETTLE_DEADLINE_S)
    if left["unsaved"]:
        raise LoadFailed(f"{left['unsaved']} updates are not saved after {SETTLE_DEADLINE_S:g} s")


async def measure(target: Measured, load: LoadProcess, order: str, **facts: Any) -> dict[str, Any]:
    """
    One loop of `load` (closed or open), from settled to settled.

    Raises:
        LoadFailed: rows are missing in Postgres, or updates were void.
        AssertionError: a process was started again meanwhile.
    """
    target.pin_all()
    rows_before = await target.count_rows()
    before = target.take_accounts({"load": load.pid})
    loop = await load.do(order, **facts)
    loop_end = target.take_accounts({"load": load.pid})
    await target.settle(load)
    settled = target.take_accounts({"load": load.pid})
    rows = await target.count_rows() - rows_before
    accepted = loop["acked_in_all"]
    if rows != accepted or loop["unacked"]:
        raise LoadFailed(f"{accepted} accepted, {rows} in Postgres, {loop['unacked']} never answered: {loop['counts']}")
    return {
        "loop": loop,
        "rows": rows,
        "rate_per_s": round(loop["acked"] / loop["seconds"], 1),
        "cpu_us_per_update": per_update(before, settled, rows),
        "cores_used_in_loop": per_second(before, loop_end),
    }


def per_update(before: CpuAccounts, after: CpuAccounts, rows: int) -> dict[str, float]:
    """Microseconds of CPU per row, by what it was used for."""
    used = by_kind(after.since(before))
    return {kind: round(seconds / max(1, rows) * 1e6, 2) for kind, seconds in used.items()}


def per_second(before: CpuAccounts, after: CpuAccounts) -> dict[str, float]:
    """How much of a core each kind used."""
    used = by_kind(after.since(before))
    return {kind: round(seconds / (after.at - before.at), 3) for kind, seconds in used.items()}


def by_kind(used_s: dict[str, float]) -> dict[str, float]:
    """Seconds by kind of process; the supervisor counts as gateway."""
    kinds = {"supervisor": "gateway", "valkey": "redis"}
    found: dict[str, float] = {}
    for name, seconds in used_s.items():
        plain = name.rpartition("-")[0] or name
        kind = kinds.get(plain, plain)
        found[kind] = found.get(kind, 0.0) + seconds
    return found


def middle(windows: Sequence[dict[str, Any]], *path: str) -> float:
    """The median of one number of several windows."""
    values = []
    for window in windows:
        found: Any = window
        for name in path:
            found = found[name]
        values.append(float(found))
    return round(median(values), 3)
