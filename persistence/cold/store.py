"""
The cold store as the gateway sees it: creating and reading progress, profiles, history. The flusher writes
(persistence.flusher).

Promise: every call answers or raises StoreUnavailable within `CALL_TIMEOUT_S`. Reads are one statement, so what they
return existed at one instant.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import asyncpg

from persistence.ban import Ban
from persistence.cold.connect import CONNECT_TIMEOUT_S, UNAVAILABLE_ERRORS, open_pool
from persistence.cold.queries import queries
from persistence.cold.shapes import EVERYTHING, ColdProgress, ColdQuestion, HistoryFilter, HistoryPlace
from persistence.cold.tombstones import hash_of
from persistence.errors import PlayerErased, StoreUnavailable
from persistence.progress_key import ProgressKey

CALL_TIMEOUT_S = 5.0
VERSION_MAX = 2**63 - 1
FOREVER_MS = 253_370_764_800_000
"""The year 9999: no event is later, and Python can say it."""
TOMBSTONE_LEEWAY_S = 1.0
"""A token tells whole seconds: only one that is surely from before the erase is refused for its age."""

T = TypeVar("T")


class ColdStore:
    """One Postgres database. Safe for many tasks of one event loop."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._sql = queries("progress")
        self._erase_sql = queries("erase")
        self._hash_key: bytes | None = None

    @classmethod
    async def open(cls, database_url: str, *, pool_max: int = 10) -> ColdStore:
        return cls(await open_pool(database_url, size_max=pool_max, application_name="wayhold-gateway"))

    async def close(self) -> None:
        """Bounded: a connection that does not close is dropped."""
        try:
            await asyncio.wait_for(self._pool.close(), 2.0)
        except UNAVAILABLE_ERRORS:
            self._pool.terminate()

    async def open_progress(self, key: ProgressKey, device: str, token_issued_at: float | None = None) -> ColdProgress:
        """
        Read a progress, creating user, profile and progress rows that are missing. Only a hello does this, with the
        `iat` of its token.

        Raises:
            PlayerErased: the player was erased after that, or with this device.
        """
        hash_key = await self._find_hash_key()
        row = await self._call(
            "open_progress",
            lambda c: c.fetchrow(
                self._sql["open_progress"],
                key.user_id,
                key.experience,
                device,
                token_issued_at,
                hash_of(hash_key, "user", key.user_id),
                hash_of(hash_key, "device", device),
            ),
        )
        if row is None:
            raise StoreUnavailable("postgres", "open_progress", "the row is gone again (erased?)")
        if row["is_erased"]:
            raise PlayerErased
        return _cold_progress(key, device, row)

    async def check_not_erased(self, user_id: str, device: str, token_issued_at: float | None) -> None:
        """Raises PlayerErased for an erased player whose token is not newer, or whose device was known."""
        hash_key = await self._find_hash_key()
        row = await self._call(
            "find_tombstone",
            lambda c: c.fetchrow(
                self._erase_sql["find_tombstone"],
                hash_of(hash_key, "user", user_id),
                hash_of(hash_key, "device", device),
            ),
        )
        if row is None:
            return
        is_older = token_issued_at is None or token_issued_at + TOMBSTONE_LEEWAY_S <= row["erased_at"].timestamp()
        if is_older or row["is_known_device"]:
            raise PlayerErased

    async def _find_hash_key(self) -> bytes:
        if self._hash_key is None:
            found: bytes = await self._call("find_hash_key", lambda c: c.fetchval(self._erase_sql["find_hash_key"]))
            self._hash_key = found
        return self._hash_key

    async def find_progress(self, key: ProgressKey, device: str, session_id: str | None = None) -> ColdProgress | None:
        """
        Read a progress, how far `device` got in it, and whether `session_id` has ended; None when there is no such
        progress.
        """
        user_hash = hash_of(await self._find_hash_key(), "user", key.user_id)
        row = await self._call(
            "find_progress",
            lambda c: c.fetchrow(
                self._sql["find_progress"], key.user_id, key.experience, device, session_id, user_hash
            ),
        )
        if row is None:
            return None
        return _cold_progress(key, device, row, session_ended=row["session_ended"])

    async def find_many(self, questions: Sequence[ColdQuestion]) -> list[ColdProgress | PlayerErased | None]:
        """
        Many at once, in their order: for each what `find_progress` answers. For a question that `creates` it is what
        `open_progress` would answer or raise, but nothing is made: None where it would make rows.
        """
        hash_key = await self._find_hash_key()
        arguments = (
            [question.key.user_id for question in questions],
            [question.key.experience for question in questions],
            [question.device for question in questions],
            [question.session_id for question in questions],
            [question.token_issued_at for question in questions],
            [hash_of(hash_key, "user", question.key.user_id) for question in questions],
            [hash_of(hash_key, "device", question.device) if question.creates else b"" for question in questions],
        )
        rows = await self._call("find_many", lambda c: c.fetch(self._sql["find_many"], *arguments))
        answers: list[ColdProgress | PlayerErased | None] = []
        for question, row in zip(questions, rows, strict=True):
            if question.creates and row["is_erased"]:
                answers.append(PlayerErased())
            elif row["id"] is None:
                answers.append(None)
            else:
                answers.append(_cold_progress(question.key, question.device, row, session_ended=row["session_ended"]))
        return answers

    async def find_device_seq(self, row_id: str, device: str) -> int:
        """How far a stream is saved; 0 when Postgres never heard of it."""
        seq = await self._call("find_device_seq", lambda c: c.fetchval(self._sql["find_device_seq"], row_id, device))
        return int(seq or 0)

    async def find_profile(self, user_id: str) -> dict[str, Any] | None:
        """The profile's columns, ready for the wire: ids as text, times in ms."""
        row = await self._call("find_profile", lambda c: c.fetchrow(self._sql["find_profile"], user_id))
        return None if row is None else {**_for_wire(row), "stats": json.loads(row["stats"])}

    async def list_history(
        self, key: ProgressKey, limit: int, cursor: int | None = None, only: HistoryFilter = EVERYTHING
    ) -> tuple[list[dict[str, Any]], int | None]:
        """
        A page of a progress's events, newest first (the order in which they were accepted), and the cursor of the next
        page (None: that was all).
        """
        rows = await self._call(
            "list_history",
            lambda c: c.fetch(
                self._sql["list_history"],
                key.user_id,
                key.experience,
                VERSION_MAX if cursor is None else cursor,
                limit,
                *_bounds(only),
                only.event_type,
                only.content_id,
            ),
        )
        events = [{**_for_wire(row), "data": json.loads(row["data"])} for row in rows]
        return events, rows[-1]["version"] if len(rows) == limit else None

    async def list_player_history(
        self, user_id: str, limit: int, cursor: HistoryPlace | None = None, only: HistoryFilter = EVERYTHING
    ) -> tuple[list[dict[str, Any]], HistoryPlace | None]:
        """
        A page of a player's events over all experiences, newest first (by when they happened), each with its
        `experience_id`, and where the next page begins (None: that was all).
        """
        at = cursor or HistoryPlace(FOREVER_MS, "f" * 32, VERSION_MAX)
        rows = await self._call(
            "list_player_history",
            lambda c: c.fetch(
                self._sql["list_player_history"],
                user_id,
                _instant(at.timestamp_ms),
                at.row_id,
                limit,
                *_bounds(only),
                only.event_type,
                only.content_id,
                at.version,
            ),
        )
        events = []
        for row in rows:
            event = {**_for_wire(row), "data": json.loads(row["data"])}
            row_id = event.pop("experience_progress_id")
            at = HistoryPlace(event["timestamp"], row_id.replace("-", ""), event["version"])
            events.append(event)
        return events, at if len(rows) == limit else None

    async def list_open_sessions(
        self, older_than_s: float, limit: int, after: str | None = None
    ) -> list[tuple[str, ProgressKey]]:
        """
        Sessions without an end that began at least `older_than_s` ago, oldest first: (session id, progress). The last
        id of a page is `after` for the next.
        """
        rows = await self._call(
            "list_open_sessions", lambda c: c.fetch(self._sql["list_open_sessions"], older_than_s, limit, after)
        )
        return [(str(row["id"]), ProgressKey(str(row["user_id"]), row["experience_id"])) for row in rows]

    async def close_lost_sessions(self, session_ids: Sequence[str]) -> list[str]:
        """
        Give sessions an end that nobody will write any more; answers the ids of those that got one. A row that is
        locked is left out and not waited for. An end that comes all the same replaces this one.
        """
        rows = await self._call(
            "close_lost_sessions", lambda c: c.fetch(self._sql["close_lost_sessions"], list(session_ids))
        )
        return [str(row["id"]) for row in rows]

    async def ping(self) -> None:
        """Raises StoreUnavailable when Postgres is away or read-only."""
        if await self._call("ping", lambda c: c.fetchval(self._sql["ping"])):
            raise StoreUnavailable("postgres", "ping", "it is a standby and takes no writes")

    async def call(self, operation: str, ask: Callable[[Any], Awaitable[T]]) -> T:
        """
        For what has queries of its own and shares these connections: `ask` gets one. What it raises on purpose passes.

        Raises:
            StoreUnavailable: Postgres did not answer, or not within `CALL_TIMEOUT_S`.
        """
        return await self._call(operation, ask)

    async def _call(self, operation: str, call: Callable[[Any], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S), self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
                try:
                    return await call(connection)
                except (TimeoutError, asyncio.CancelledError):
                    connection.terminate()
                    raise
        except UNAVAILABLE_ERRORS as error:
            raise StoreUnavailable("postgres", operation, error or type(error).__name__) from error
        except asyncpg.PostgresError as error:
            raise StoreUnavailable("postgres", operation, error) from error


def _cold_progress(key: ProgressKey, device: str, row: Any, *, session_ended: bool = False) -> ColdProgress:
    return ColdProgress(
        key=key,
        row_id=row["id"].hex,
        version=row["version"],
        last_entry=row["last_entry"].hex,
        state_json=row["state"],
        kinds_json=row["kinds"],
        device=device,
        device_seq=row["device_seq"],
        session_ended=session_ended,
        erased_ms=row["erased_ms"],
        ban=None if row["ban"] is None else Ban(*json.loads(row["ban"])),
    )


def _for_wire(row: Any) -> dict[str, Any]:
    wired: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, datetime):
            wired[name] = round(value.timestamp() * 1000)
        elif hasattr(value, "hex") and not isinstance(value, float):
            wired[name] = str(value)
        else:
            wired[name] = value
    return wired


def _bounds(only: HistoryFilter) -> tuple[datetime, datetime]:
    """Always two bounds, so that one plan serves all and leaves out the months between which nothing is wanted."""
    return (
        _instant(0 if only.since_ms is None else only.since_ms),
        _instant(FOREVER_MS if only.until_ms is None else only.until_ms),
    )


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(min(max(ms, 0), FOREVER_MS) / 1000, UTC)
