"""
How players' connections ended: for whoever helps a player, not for counting.

Promise: repeatable and bounded. It is best effort on purpose: nothing else follows from these rows, so nobody waits for
them and they are not worth a guarantee. They go after `KEPT_DAYS`, and with the player.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from persistence.cold.queries import queries
from persistence.cold.store import ColdStore

KEPT_DAYS = 30
REMOVED_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class EndedConnection:
    """Fields in the order of the query. `close_code` None: the socket ended without a word of ours."""

    user_id: str
    connection: int
    experience: str
    session_id: str
    device: str
    node: str
    opened_ms: int
    closed_ms: int
    close_code: int | None
    is_resumed: bool
    updates: int
    rtt_ms: float | None


class Connections:
    """Through the connections of a cold store. Raises StoreUnavailable."""

    def __init__(self, cold: ColdStore) -> None:
        self._cold = cold
        self._sql = queries("connections")

    async def add(self, ended: Sequence[EndedConnection]) -> None:
        columns = [list(column) for column in zip(*map(astuple, ended), strict=True)]
        if columns:
            await self._cold.call("insert_connections", lambda c: c.execute(self._sql["insert_connections"], *columns))

    async def remove_old(self) -> None:
        sql = self._sql["remove_old_connections"]
        await self._cold.call("remove_old_connections", lambda c: c.execute(sql, KEPT_DAYS, REMOVED_AT_ONCE))

    async def list_newest(self, user_id: str, limit: int, before: int | None = None) -> list[Any]:
        """Rows of the table, the newest first; `before`: the number of the last one of the page before."""
        sql, end = self._sql["list_connections_of_player"], 2**63 - 1 if before is None else before
        rows: list[Any] = await self._cold.call("list_connections", lambda c: c.fetch(sql, user_id, end, limit))
        return rows
