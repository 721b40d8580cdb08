"""
The gateway at saturation: 2,000 players with one update outstanding each, for as long as the part has.

Every window begins and ends settled (all that was accepted is saved), so that the work of an update is counted whole:
its ack, its flush, its rollups, its `saved`.
"""

from __future__ import annotations

from typing import Any

from benchmarks.accounts import CpuAccounts
from benchmarks.installation import Cores, Installation, run_installation
from benchmarks.load_processes import LoadFailed, LoadProcess, run_load

PLAYERS = 2000
SETTLE_DEADLINE_S = 180.0
CONNECT_DEADLINE_S = 120.0
CONNECT_PER_S = 500.0
WARM_S = 3.0


async def run(seconds: float, cores: Cores, *, players: int = PLAYERS) -> dict[str, Any]:
    async with run_installation(cores) as wayhold:
        async with run_load(
            host=wayhold.host, port=wayhold.port, secret=wayhold.secret, players=players, run="saturation"
        ) as load:
            await bring_in(load)
            await load.do("closed", seconds=WARM_S)
            await load.do("wait_saved", timeout_s=SETTLE_DEADLINE_S)
            found = await measure(wayhold, load, "closed", seconds=seconds)
        return {
            **found,
            "players": players,
            "pinned": wayhold.is_pinned,
            "settings": dict(wayhold.settings),
            "versions": await wayhold.read_versions(),
        }


async def bring_in(load: LoadProcess, *, is_seeded: bool = True, per_s: float = CONNECT_PER_S) -> dict[str, Any]:
    """Connect all players, give them the state of the workload and wait until it is saved."""
    found = await load.do("connect", timeout_s=CONNECT_DEADLINE_S, per_s=per_s)
    if found["welcome"] < load.players:
        raise LoadFailed(f"{found['welcome']} of {load.players} players are welcome: {found['counts']}")
    if is_seeded:
        await load.do("seed", timeout_s=SETTLE_DEADLINE_S)
        await load.do("wait_saved", timeout_s=SETTLE_DEADLINE_S)
    return found


async def measure(wayhold: Installation, load: LoadProcess, order: str, **facts: Any) -> dict[str, Any]:
    """
    One loop of `load` with the accounts of everybody around it.

    Raises:
        AssertionError: rows are missing in Postgres, or a process was started again.
    """
    rows_before = await wayhold.count_rows()
    before = wayhold.take_accounts({"load": load.pid})
    loop = await load.do(order, **facts)
    loop_end = wayhold.take_accounts({"load": load.pid})
    left = await load.do("wait_saved", timeout_s=SETTLE_DEADLINE_S)
    settled = wayhold.take_accounts({"load": load.pid})
    rows = await wayhold.count_rows() - rows_before
    accepted = loop.get("acked_in_all", loop["acked"])
    assert left["unsaved"] == 0, f"{left['unsaved']} updates are not saved"
    assert rows == accepted, f"{accepted} updates were accepted and {rows} are in Postgres"
    return {
        "loop": loop,
        "rows": rows,
        "rate_per_s": loop["acked"] / loop["seconds"],
        "cpu_us_per_update": per_update(before, settled, rows),
        "busy_in_loop": per_second(before, loop_end),
    }


def per_update(before: CpuAccounts, after: CpuAccounts, rows: int) -> dict[str, float]:
    """Microseconds of CPU per row, by what it was used for."""
    return {kind: seconds / max(1, rows) * 1e6 for kind, seconds in by_kind(after.since(before)).items()}


def per_second(before: CpuAccounts, after: CpuAccounts) -> dict[str, float]:
    """How much of a core each kind used."""
    return {kind: seconds / (after.at - before.at) for kind, seconds in by_kind(after.since(before)).items()}


def by_kind(used_s: dict[str, float]) -> dict[str, float]:
    """Seconds by kind of process; the supervisor counts as gateway."""
    kinds = {"supervisor": "gateway", "valkey": "redis"}
    found: dict[str, float] = {}
    for name, seconds in used_s.items():
        plain = name.rpartition("-")[0] or name
        kind = kinds.get(plain, plain)
        found[kind] = found.get(kind, 0.0) + seconds
    return found
