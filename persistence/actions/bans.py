"""
Bans: who may not play, as Postgres has it.

Promise: the last word counts, by when it was asked for, whoever writes it down when.

Not here: the copy in Redis (persistence.hot.control) and who keeps it up (gateway.sessions.watch).
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from persistence.ban import Ban
from persistence.cold.queries import queries
from persistence.cold.store import ColdStore

PAGE = 500
_END = (datetime(9999, 1, 1, tzinfo=UTC), str(uuid.UUID(int=2**128 - 1)))


@dataclass(frozen=True, slots=True)
class BanRow:
    """The last word about a player, with who said it."""

    user_id: str
    action_id: str
    asked_at: datetime
    until: datetime | None
    message: str
    reason: str
    operator: str
    lifted_at: datetime | None
    lifted_by: str | None

    @property
    def ban(self) -> Ban:
        until_ms = None if self.until is None else int(self.until.timestamp() * 1000)
        return Ban(microseconds(self.asked_at), until_ms, self.message, is_lifted=self.lifted_at is not None)


class Bans:
    def __init__(self, cold: ColdStore) -> None:
        self._cold = cold
        self._sql = queries("bans")

    async def find(self, user_id: str) -> BanRow | None:
        row = await self._cold.call("find_ban", lambda c: c.fetchrow(self._sql["find_ban"], user_id))
        return None if row is None else ban_row(row)

    async def list_page(
        self, limit: int, before: tuple[datetime, str] | None = None
    ) -> tuple[list[BanRow], tuple[datetime, str] | None]:
        """Bans that hold, newest first, and where the next page begins (None: that was all)."""
        asked_at, user_id = before or _END
        rows = await self._cold.call("list_bans", lambda c: c.fetch(self._sql["list_bans"], asked_at, user_id, limit))
        found = [ban_row(row) for row in rows]
        return found, (found[-1].asked_at, found[-1].user_id) if len(found) == limit else None

    async def list_all_that_hold(self) -> AsyncIterator[list[tuple[str, Ban]]]:
        """In pages, for Redis."""
        place = None
        while True:
            page, place = await self.list_page(PAGE, place)
            yield [(row.user_id, row.ban) for row in page]
            if place is None:
                return


def ban_row(row: Any) -> BanRow:
    return BanRow(
        user_id=str(row["user_id"]),
        action_id=str(row["action_id"]),
        asked_at=row["asked_at"],
        until=row["until"],
        message=row["message"],
        reason=row["reason"],
        operator=row["operator"],
        lifted_at=row["lifted_at"],
        lifted_by=row["lifted_by"],
    )


def microseconds(at: datetime) -> int:
    """Exactly: as a float they would not be told apart."""
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
