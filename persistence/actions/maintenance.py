"""Maintenance: whether players are asked to wait, as Postgres has it. One row, the last word."""

from __future__ import annotations

from persistence.actions.bans import microseconds
from persistence.cold.queries import queries
from persistence.cold.store import ColdStore
from persistence.hot.control import Maintenance


async def find_maintenance(cold: ColdStore) -> Maintenance | None:
    """None: nobody has ever asked for it."""
    row = await cold.call("find_maintenance", lambda c: c.fetchrow(queries("bans")["find_maintenance"]))
    if row is None:
        return None
    return Maintenance(
        row["is_on"], microseconds(row["starts_at"]) // 1000, row["message"], microseconds(row["asked_at"])
    )
