"""
Dead letters: events that Postgres refused for their data. An operator looks at them, mends what was wrong (a column, a
constraint, a partition) and replays them, or lets go of them.

Promise: a letter that is replayed becomes exactly the row that it should have been, at the version it had, and from
then on counts in the rollups; one that is refused again stays where it was. Nobody else's rows are touched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from persistence.cold.connect import COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S, POSTGRES_ERRORS, is_refused
from persistence.cold.queries import queries
from persistence.errors import StoreUnavailable
from persistence.flusher.contents import ContentIds
from persistence.flusher.event_rows import RowRefused, copy_events, encode_event
from persistence.flusher.rollups import OTHERS_SHARD, Rollups, list_contents
from protocol.entry import UpdateBody, decode_body

GONE = "there is no such letter (any more)"


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

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """For whoever writes more in the same transaction: the connection. What is done here in it is part of it."""
        try:
            async with self._connection.transaction():
                yield self._connection
        except POSTGRES_ERRORS as error:
            raise StoreUnavailable("postgres", "dead_letters", error or type(error).__name__) from error

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
        """Write letters as the rows they should have been, and into the rollups; each stands alone."""
        report = ReplayReport(0, [], [])
        async with self._connection.transaction():
            locked = await self._connection.fetch(self._sql["lock_progress_of_dead_letters"], list(letter_ids))
            experiences = {row["id"]: row["experience_id"] for row in locked}
            taken = await self._connection.fetch(self._sql["take_dead_letters"], list(letter_ids))
            rows = [row for row in taken if row["experience_progress_id"] in experiences]
            present = {str(row["id"]) for row in rows}
            report.absent = [letter_id for letter_id in letter_ids if letter_id not in present]
            inserted: list[tuple[Any, UpdateBody, str]] = []
            for row in rows:
                body = decode_body(row["payload"])
                assert isinstance(body, UpdateBody)
                try:
                    await self._insert(row, body)
                except asyncpg.UniqueViolationError:
                    pass  # the row is there, and counted
                except Exception as error:
                    if not is_refused(error) and not isinstance(error, RowRefused):
                        raise
                    report.refused.append((str(row["id"]), str(error)))
                    continue
                else:
                    inserted.append((row, body, experiences[row["experience_progress_id"]]))
                await self._connection.execute(self._sql["delete_dead_letter"], row["id"])
                report.replayed += 1
            await self._add_to_rollups(inserted)
        return report

    async def _insert(self, row: Any, body: UpdateBody) -> None:
        progress_id = row["experience_progress_id"].bytes
        encoded = encode_event(row["id"].hex, progress_id, row["version"], row["playtime_ms"], body)
        async with self._connection.transaction():
            await copy_events(self._connection, [encoded])

    async def _add_to_rollups(self, inserted: Sequence[tuple[Any, UpdateBody, str]]) -> None:
        """In the order in which a flush locks: new contents, then rollups."""
        wanted = set()
        for _, body, experience in inserted:
            wanted |= list_contents(experience, [(body, 0)])
        contents = await ContentIds().find_or_make(self._connection, wanted)
        rollups = Rollups()
        for row, body, experience in inserted:
            rollups.add(experience, row["experience_progress_id"].hex, [(body, row["playtime_ms"])], contents)
        await rollups.write(self._connection, OTHERS_SHARD)

    async def drop(self, letter_ids: Sequence[str]) -> int:
        """Let go of letters: they are listed and replayed no more. Returns how many there were."""
        dropped: str = await self._connection.execute(self._sql["drop_dead_letters"], list(letter_ids))
        return int(dropped.rpartition(" ")[2])
