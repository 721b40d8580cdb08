"""
Dead letters: events that Postgres refused for their data. An operator looks at them, mends what was wrong (a column, a
constraint, a partition) and replays them, or lets go of them.

Promise: a letter that is replayed becomes exactly the row that it should have been, at the version it had; one that is
refused again stays where it was. Nobody else's rows are touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from persistence.cold.connect import COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S, POSTGRES_ERRORS, is_refused
from persistence.cold.queries import queries
from persistence.errors import StoreUnavailable
from persistence.flusher.write import event_row
from protocol.entry import UpdateBody, decode_body


@dataclass(slots=True)
class DeadLetter:
    """One refused event: whose it is, what it says, and what Postgres said."""

    id: str
    user_id: str
    experience: str
    device: str
    seq: int
    event_type: str
    content_id: str | None
    data_json: str
    reason: str
    sqlstate: str
    created_at: datetime


@dataclass(slots=True)
class ReplayReport:
    """`refused`: (letter id, what Postgres said) of those that stay."""

    replayed: int
    refused: list[tuple[str, str]]
    absent: list[str]


class DeadLetters:
    """One connection to Postgres, for one command. Use `async with`."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: Any = None
        self._sql = queries("dead_letters")

    async def __aenter__(self) -> DeadLetters:
        try:
            self._connection = await asyncpg.connect(
                self._database_url,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=COMMAND_TIMEOUT_S,
                server_settings={"application_name": "wayhold-dead-letters", "timezone": "UTC"},
            )
        except POSTGRES_ERRORS as error:
            raise StoreUnavailable("postgres", "dead_letters", error or type(error).__name__) from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._connection.terminate()

    async def list_newest(self, limit: int) -> list[DeadLetter]:
        letters = []
        for row in await self._connection.fetch(self._sql["list_dead_letters"], limit):
            body = decode_body(row["payload"])
            assert isinstance(body, UpdateBody)
            letters.append(
                DeadLetter(
                    id=str(row["id"]),
                    user_id=str(row["user_id"]),
                    experience=row["experience_id"],
                    device=row["device_id"],
                    seq=row["seq"],
                    event_type=body.event_type,
                    content_id=body.content_id,
                    data_json=body.data_json.decode(),
                    reason=row["reason"],
                    sqlstate=row["sqlstate"],
                    created_at=row["created_at"],
                )
            )
        return letters

    async def replay(self, letter_ids: Sequence[str]) -> ReplayReport:
        """Write letters as the rows they should have been; each stands alone."""
        report = ReplayReport(0, [], [])
        insert = queries("flush")["insert_events"]
        async with self._connection.transaction():
            rows = await self._connection.fetch(self._sql["take_dead_letters"], list(letter_ids))
            taken = {str(row["id"]) for row in rows}
            report.absent = [letter_id for letter_id in letter_ids if letter_id not in taken]
            for row in rows:
                body = decode_body(row["payload"])
                assert isinstance(body, UpdateBody)
                columns = event_row(row["id"].hex, row["experience_progress_id"].hex, row["version"], body)
                try:
                    async with self._connection.transaction():
                        await self._connection.execute(insert, *[[column] for column in columns])
                except Exception as error:
                    if not is_refused(error):
                        raise
                    report.refused.append((str(row["id"]), str(error)))
                    continue
                await self._connection.execute(self._sql["delete_dead_letter"], row["id"])
                report.replayed += 1
        return report

    async def drop(self, letter_ids: Sequence[str]) -> int:
        """Let go of letters for ever. Returns how many there were."""
        async with self._connection.transaction():
            rows = await self._connection.fetch(self._sql["take_dead_letters"], list(letter_ids))
            for row in rows:
                await self._connection.execute(self._sql["delete_dead_letter"], row["id"])
        return len(rows)
