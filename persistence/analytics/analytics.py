"""
Questions about all players of an experience. The SQL functions know how (persistence/cold/sql/schema.sql); here are
their deadlines and the types of their answers.

Promise: each answer is exact as of the last flush and one instant of the database. Each question ends within
`deadline_s`, also on the server, and takes no lock that anybody waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg

from persistence.analytics.shapes import (
    BOUNDS_S,
    RETENTION_DAYS,
    VISIT,
    ActiveDay,
    Bucket,
    Cohort,
    Completion,
    Content,
    Distribution,
    DropOff,
    Engagement,
    FunnelStep,
    QuestCompletion,
    RankedContent,
    Retention,
    UnknownName,
    Window,
)
from persistence.cold.connect import CONNECT_TIMEOUT_S, POSTGRES_ERRORS, UNAVAILABLE_ERRORS, open_pool
from persistence.cold.queries import queries
from persistence.errors import StoreUnavailable

DEADLINE_S = 30.0
"""
How long a question may take. Ten million events need tenths of a second; longer ones than this are asked of a copy
of the database.
"""

ROWS_MAX = 1_000
"""Contents of a ranking, locations of a drop-off."""

NAMES_MAX = 10_000
FUNNEL_STEPS_MAX = 50
ALWAYS = Window()


class Analytics:
    """A pool of connections to one database. Safe for many tasks of one event loop."""

    def __init__(self, pool: asyncpg.Pool[Any], *, deadline_s: float = DEADLINE_S) -> None:
        self._pool = pool
        self._deadline_s = deadline_s
        self._sql = queries("analytics")

    @classmethod
    async def open(cls, database_url: str, *, pool_max: int = 2, deadline_s: float = DEADLINE_S) -> Analytics:
        pool = await open_pool(database_url, size_max=pool_max, application_name="wayhold-analytics")
        return cls(pool, deadline_s=deadline_s)

    async def close(self) -> None:
        """Bounded: a connection that does not close is dropped."""
        try:
            await asyncio.wait_for(self._pool.close(), 2.0)
        except UNAVAILABLE_ERRORS:
            self._pool.terminate()

    # --- names -----------------------------------------------------------------------------------------------------

    async def list_experiences(self) -> list[str]:
        """Every experience that a player ever opened, at most `NAMES_MAX`."""
        async with self._ask("list_experiences") as connection:
            return [row["experience_id"] for row in await connection.fetch(self._sql["list_experiences"], NAMES_MAX)]

    async def list_contents(self, experience: str, event_type: str | None = None) -> list[Content]:
        """What events of an experience were ever about, by type and id, at most `NAMES_MAX`."""
        async with self._ask("list_contents") as connection:
            rows = await connection.fetch(self._sql["list_known_contents"], experience, event_type, NAMES_MAX)
        return [Content(row["content_id"], row["event_type"]) for row in rows]

    async def check_names(self, experience: str, contents: Iterable[Content] = ()) -> None:
        """
        Nothing, when there are such an experience and such contents: a question about a misspelled name has an answer,
        too, and it is 0.

        Raises:
            UnknownName: with the names that there are.
        """
        experiences = await self.list_experiences()
        if experience not in experiences:
            raise UnknownName("experience", experience, experiences)
        wanted = list(dict.fromkeys(contents))
        async with self._ask("list_unknown_contents") as connection:
            unknown = await connection.fetch(
                self._sql["list_unknown_contents"],
                experience,
                [content.event_type for content in wanted],
                [content.content_id for content in wanted],
            )
        if unknown:
            missing = Content(unknown[0]["content_id"], unknown[0]["event_type"])
            known = await self.list_contents(experience, missing.event_type)
            if not known:
                types = dict.fromkeys(content.event_type for content in await self.list_contents(experience))
                raise UnknownName("event type", missing.event_type, list(types))
            raise UnknownName("content", missing.content_id, [content.content_id for content in known])

    # --- contents --------------------------------------------------------------------------------------------------

    async def find_engagement(self, experience: str, content: Content, window: Window = ALWAYS) -> Engagement:
        """How often a content was met, by how many players, and how long they stayed."""
        async with self._ask("find_engagement") as connection:
            return await self._engagement(connection, experience, content, window)

    async def list_ranking(
        self,
        experience: str,
        event_type: str = VISIT,
        window: Window = ALWAYS,
        *,
        contents_max: int = 10,
        with_players: bool = False,
    ) -> list[RankedContent]:
        """
        The contents that were met most often, the first of them first. Unique players are counted when asked for: that
        takes as long as an engagement for each.
        """
        async with self._ask("list_ranking") as connection:
            rows = await connection.fetch(
                self._sql["list_ranking"],
                experience,
                event_type,
                window.since,
                window.before,
                max(1, min(contents_max, ROWS_MAX)),
            )
            ranked = []
            for row in rows:
                players = None
                if with_players:
                    content = Content(row["content_id"], event_type)
                    players = (await self._engagement(connection, experience, content, window)).unique_players
                ranked.append(
                    RankedContent(row["content_id"], row["total_visits"], players, row["average_time_spent_s"])
                )
            return ranked

    async def list_funnel(
        self, experience: str, contents: Sequence[Content], window: Window = ALWAYS
    ) -> list[FunnelStep]:
        """
        How many players came how far along contents in this order, 1 to `FUNNEL_STEPS_MAX` of them.

        Raises:
            ValueError: too few or too many.
        """
        if not 1 <= len(contents) <= FUNNEL_STEPS_MAX:
            raise ValueError(f"a funnel has 1 to {FUNNEL_STEPS_MAX} steps, not {len(contents)}")
        async with self._ask("list_funnel") as connection:
            rows = await connection.fetch(
                self._sql["list_funnel"],
                experience,
                [content.event_type for content in contents],
                [content.content_id for content in contents],
                window.since,
                window.before,
            )
        return [FunnelStep(content, row["players"]) for content, row in zip(contents, rows, strict=True)]

    # --- players ---------------------------------------------------------------------------------------------------

    async def find_retention(
        self,
        experience: str,
        first_day: date | None = None,
        last_day: date | None = None,
        *,
        today: date | None = None,
    ) -> Retention:
        """
        Cohorts whose day lies from `first_day` to `last_day`, and how many of each came back. `today` is the one that
        is not over yet (None: by the clock of the database).
        """
        async with self._ask("list_retention") as connection:
            rows = await connection.fetch(self._sql["list_retention"], experience, first_day, last_day, today)
        cohorts = [
            Cohort(row["cohort"], row["players"], {n: row[f"retained_{n}"] for n in RETENTION_DAYS}) for row in rows
        ]
        totals = {}
        for n in RETENTION_DAYS:
            over = [(cohort.players, cohort.retained[n] or 0) for cohort in cohorts if cohort.retained[n] is not None]
            totals[n] = (sum(players for players, _ in over), sum(retained for _, retained in over))
        return Retention(cohorts, totals)

    async def list_active_players(
        self, experience: str, first_day: date | None = None, last_day: date | None = None
    ) -> list[ActiveDay]:
        """Day by day; days on which nobody played are left out."""
        async with self._ask("list_active_players") as connection:
            rows = await connection.fetch(self._sql["list_active_players"], experience, first_day, last_day)
        return [
            ActiveDay(row["day"], row["players"], row["new_players"], row["updates"], row["playtime_ms"] / 1000)
            for row in rows
        ]

    async def find_completion(self, experience: str, window: Window = ALWAYS) -> Completion:
        """How many of the players who started in the window have completed the experience; and quest by quest."""
        async with self._ask("find_completion") as connection:
            row = await connection.fetchrow(self._sql["find_completion"], experience, window.since, window.before)
            quests = await connection.fetch(self._sql["list_quest_completion"], experience, window.since, window.before)
        return Completion(
            row["players"],
            row["completed"],
            row["average_percentage"],
            [QuestCompletion(quest["quest"], quest["players"], quest["completed"]) for quest in quests],
        )

    async def find_playtime(
        self,
        experience: str,
        first_day: date | None = None,
        last_day: date | None = None,
        *,
        bounds_s: Sequence[int] = BOUNDS_S,
    ) -> Distribution:
        """How long each player played in all on these days."""
        async with self._ask("list_playtime") as connection:
            rows = await connection.fetch(
                self._sql["list_playtime"], experience, first_day, last_day, _checked(bounds_s)
            )
        return _distribution(rows)

    async def find_session_lengths(
        self, experience: str, window: Window = ALWAYS, *, bounds_s: Sequence[int] = BOUNDS_S
    ) -> Distribution:
        """How long the sessions were that began in the window and have ended, from hello to end."""
        async with self._ask("list_session_lengths") as connection:
            rows = await connection.fetch(
                self._sql["list_session_lengths"], experience, window.since, window.before, _checked(bounds_s)
            )
        return _distribution(rows)

    async def list_drop_off(
        self, experience: str, *, idle_since: datetime | None = None, locations_max: int = 20
    ) -> list[DropOff]:
        """
        Where players were last who have not completed the experience and have not played since `idle_since` (None: 7
        days ago); the most frequent location first.
        """
        since = idle_since if idle_since is not None else datetime.now(UTC) - timedelta(days=7)
        async with self._ask("list_drop_off") as connection:
            rows = await connection.fetch(
                self._sql["list_drop_off"], experience, since, max(1, min(locations_max, ROWS_MAX))
            )
        return [DropOff(row["location"], row["players"]) for row in rows]

    # --- asking ----------------------------------------------------------------------------------------------------

    async def _engagement(self, connection: Any, experience: str, content: Content, window: Window) -> Engagement:
        row = await connection.fetchrow(
            self._sql["find_engagement"],
            experience,
            content.content_id,
            content.event_type,
            window.since,
            window.before,
        )
        return Engagement(row["total_visits"], row["unique_players"], row["average_time_spent_s"])

    @asynccontextmanager
    async def _ask(self, operation: str) -> AsyncIterator[Any]:
        """A connection in a transaction that only reads and sees one instant."""
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection,
            ):
                # The pool's own deadline is for calls of players, which must be short.
                patient = _Patient(connection, self._deadline_s)
                try:
                    async with connection.transaction(isolation="repeatable_read", readonly=True):
                        await connection.fetchrow(
                            self._sql["use_analytics_settings"], str(round(self._deadline_s * 1000))
                        )
                        yield patient
                except (TimeoutError, asyncio.CancelledError):
                    connection.terminate()
                    raise
        except POSTGRES_ERRORS as error:
            raise StoreUnavailable("postgres", operation, error or type(error).__name__) from error


class _Patient:
    """A connection whose calls may take as long as the question may."""

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        return list(await self._connection.fetch(sql, *args, timeout=self._timeout_s))

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        return await self._connection.fetchrow(sql, *args, timeout=self._timeout_s)


def _checked(bounds_s: Sequence[int]) -> list[int]:
    """What is shorter than the first bound would be in no bucket."""
    bounds = list(bounds_s)
    if not bounds or bounds[0] != 0 or bounds != sorted(set(bounds)):
        raise ValueError("the bounds of buckets begin with 0 and rise")
    return bounds


def _distribution(rows: Sequence[Any]) -> Distribution:
    return Distribution([Bucket(row["from_s"], row["to_s"], row["count"], row["total_ms"] / 1000) for row in rows])
