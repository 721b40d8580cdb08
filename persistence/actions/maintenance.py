"""Maintenance: whether players are asked to wait, as Postgres has it. One row, the last word."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from persistence.actions.bans import microseconds
from persistence.cold.queries import queries
from persistence.cold.store import ColdStore
from persistence.hot.control import Maintenance


@dataclass(frozen=True, slots=True)
class MaintenanceEnd:
    """When the maintenance that holds is to end by itself, and who had asked for that with which action."""

    action_id: str
    operator: str
    role: str
    until: datetime
    is_over: bool


async def find_maintenance_end(cold: ColdStore) -> MaintenanceEnd | None:
    """None: there is no maintenance, or it goes on until somebody ends it."""
    sql = queries("bans")["find_maintenance_end"]
    row = await cold.call("find_maintenance_end", lambda c: c.fetchrow(sql))
    if row is None:
        return None
    return MaintenanceEnd(str(row["id"]), row["operator"], row["role"], row["until"], row["is_over"])


async def find_maintenance(cold: ColdStore) -> Maintenance | None:
    """None: nobody has ever asked for it."""
    row = await cold.call("find_maintenance", lambda c: c.fetchrow(queries("bans")["find_maintenance"]))
    if row is None:
        return None
    return Maintenance(
        row["is_on"], microseconds(row["starts_at"]) // 1000, row["message"], microseconds(row["asked_at"])
    )
