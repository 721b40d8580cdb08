"""
Fills a database: users, profiles, progress, events, streams, sessions and rollups, all of which agree.

Players are made in waves, each in one transaction: a fill that is cut off leaves whole players and no others, and the
same plan with `adds` goes on with those that are missing. Within a wave, events are written in the order in which they
were received, as flushers would have: a player's history lies scattered over the pages of a wave, and pages are ordered
by time.

Not here: who the players are (plan.py, players.py), what they do (story.py, journey.py). Nor Redis, which has nothing
to do with players who are not there.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from persistence.cold.connect import CONNECT_TIMEOUT_S, UNAVAILABLE_ERRORS
from persistence.errors import PersistenceError, StoreUnavailable
from persistence.fill.copy_rows import COPY_END, COPY_START, EventIds, join_rows
from persistence.fill.plan import FillPlan, plan_sizes
from persistence.fill.players import Player, Players, list_rows
from persistence.flusher.event_rows import EVENT_COLUMNS

WRITERS = 2
BLOCK_ROWS = 1000
PROGRESS_EVERY_S = 2.0

PLAYER_TABLES = (
    "users",
    "player_profiles",
    "experience_progress",
    "device_streams",
    "player_sessions",
    "player_progress_events",
)
ROLLUP_TABLES = ("contents", "content_hours", "content_player_days", "experience_hours", "player_days")


class DatabaseNotEmpty(PersistenceError):
    """There are players already, and nobody said to add to them."""

    def __init__(self) -> None:
        super().__init__("there are players in this database already")


@dataclass(slots=True)
class FillReport:
    """What this call made. `players_present` were there already; `stages_s`: what took how long."""

    players: int = 0
    players_present: int = 0
    events: int = 0
    sessions: int = 0
    duration_s: float = 0.0
    stages_s: dict[str, float] = field(default_factory=dict)


async def fill(database_url: str, plan: FillPlan, say: Callable[[str], None] = lambda line: None) -> FillReport:
    """
    Make the players of a plan. `say` gets a line about every two seconds.

    Raises:
        DatabaseNotEmpty: nothing was changed.
        StoreUnavailable: Postgres did not answer. Waves that were committed stay.
    """
    try:
        return await _Filler(database_url, plan, say).run()
    except* UNAVAILABLE_ERRORS as errors:
        error = errors.exceptions[0]
        raise StoreUnavailable("postgres", "fill", error or type(error).__name__) from error


class _Filler:
    def __init__(self, database_url: str, plan: FillPlan, say: Callable[[str], None]) -> None:
        self._database_url = database_url
        self._plan = plan
        self._say = say
        self._report = FillReport()
        self._started = self._said = self._rows_began = time.monotonic()

    async def run(self) -> FillReport:
        plan, report = self._plan, self._report
        connection = await self._connect()
        try:
            if not plan.adds and await connection.fetchval("SELECT EXISTS (SELECT 1 FROM users)"):
                raise DatabaseNotEmpty
            with self._stage("stories"):
                players = Players(plan, plan_sizes(plan), time.time_ns() // 1_000_000)
            today = datetime.now(UTC).date()
            await connection.fetchval(
                "SELECT ensure_event_partitions($1, $2)", today - timedelta(days=players.days), today
            )
            self._rows_began = time.monotonic()
            with self._stage("rows"):
                await self._write_waves(players)
            with self._stage("statistics"):
                # Before the rollups, whose plans would be made for empty tables otherwise.
                await self._vacuum(connection, PLAYER_TABLES)
            with self._stage("rollups"):
                await connection.execute("SET work_mem = '256MB'")
                self._say("rollups")
                # Not from days of which events were removed for their age: their totals would shrink.
                await connection.execute(
                    """SELECT rebuild_rollups(
                           COALESCE((SELECT (r.horizon AT TIME ZONE 'UTC')::date FROM event_retention r
                                     WHERE r.experience_id = $1), '-infinity'), $1)""",
                    plan.world.experience_id,
                )
            with self._stage("rollup_statistics"):
                await self._vacuum(connection, ROLLUP_TABLES)
        finally:
            await _close(connection)
        report.duration_s = time.monotonic() - self._started
        return report

    async def _vacuum(self, connection: Any, tables: tuple[str, ...]) -> None:
        """With the visibility map: what autovacuum would have done long ago, had the tables grown slowly."""
        for table in tables:
            self._say(f"statistics of {table}")
            await connection.execute(f"VACUUM (ANALYZE) {table}")

    async def _write_waves(self, players: Players) -> None:
        plan = self._plan
        size = min(math.ceil(plan.players / WRITERS), max(1, round(plan.wave_events * plan.players / plan.events)))
        waves = iter([range(first, min(first + size, plan.players)) for first in range(0, plan.players, size)])

        async def write_some() -> None:
            connection = await self._connect()
            try:
                await _make_quick(connection)
                for wave in waves:
                    await self._write_wave(connection, players, wave)
            finally:
                await _close(connection)

        async with asyncio.TaskGroup() as writers:
            for _ in range(WRITERS):
                writers.create_task(write_some())

    async def _write_wave(self, connection: Any, players: Players, numbers: range) -> None:
        plan, report = self._plan, self._report
        wanted = {plan.make_id(number, "user"): number for number in numbers}
        found = await connection.fetch("SELECT id FROM users WHERE id = ANY ($1::uuid[])", list(wanted))
        present = {uuid.UUID(bytes=record["id"].bytes) for record in found}
        report.players_present += len(present)
        wave = [players.make(number) for user_id, number in wanted.items() if user_id not in present]
        if not wave:
            return
        await self._find_levels(connection, wave)
        async with connection.transaction():
            for table, columns, rows in list_rows(plan.world.experience_id, wave):
                await connection.copy_records_to_table(table, columns=columns, records=rows)
                report.sessions += len(rows) if table == "player_sessions" else 0
            await connection.copy_to_table(
                "player_progress_events", columns=EVENT_COLUMNS, format="binary", source=self._list_blocks(wave)
            )
        report.players += len(wave)
        self._say(f"wave of players {numbers.start:,} to {numbers.stop - 1:,} is stored")

    async def _find_levels(self, connection: Any, wave: list[Player]) -> None:
        """The rule is Postgres's: what the totals of each story come to."""
        missing = list({id(player.lived): player.lived for player in wave if not player.lived.level}.values())
        writes = [lived.journey.write for lived in missing]
        found = await connection.fetch(
            """SELECT account_level_of(u.playtime_ms, u.distance, u.achievements, $4, $5, $6, $7, $8) AS level
               FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
                   WITH ORDINALITY AS u (playtime_ms, distance, achievements, place) ORDER BY u.place""",
            [write.playtime_ms for write in writes],
            [write.distance_micrometers for write in writes],
            [len(set(write.achievements)) for write in writes],
            *self._plan.levels.as_arguments(),
        )
        for lived, record in zip(missing, found, strict=True):
            lived.level = record["level"]

    async def _list_blocks(self, wave: list[Player]) -> AsyncIterator[bytes]:
        """The events of a wave, session by session in the order in which they were received."""
        ids = EventIds(random.getrandbits(62))
        in_order = sorted(
            (player.base_ms + player.lived.events[session.first_event].received_ms, number, place)
            for number, player in enumerate(wave)
            for place, session in enumerate(player.lived.journey.sessions)
        )
        pieces = [COPY_START]
        rows = 0
        for _, number, place in in_order:
            player = wave[number]
            session = player.lived.journey.sessions[place]
            join_rows(
                pieces,
                player.lived.events[session.first_event : session.last_event],
                ids,
                progress_id=player.progress_id.bytes,
                session_id=player.sessions[place].bytes,
                device_id=player.devices[session.device].encode(),
                base_ms=player.base_ms,
            )
            rows += session.last_event - session.first_event
            if rows >= BLOCK_ROWS:
                yield b"".join(pieces)
                pieces.clear()
                self._count(rows)
                rows = 0
        pieces.append(COPY_END)
        yield b"".join(pieces)
        self._count(rows)

    def _count(self, rows: int) -> None:
        self._report.events += rows
        now = time.monotonic()
        if now - self._said < PROGRESS_EVERY_S:
            return
        self._said = now
        done, wanted = self._report.events, self._plan.events
        took_s = now - self._rows_began
        left_s = took_s / done * (wanted - done)
        self._say(f"{done:,} of {wanted:,} events ({done / wanted:.0%}), {done / took_s:,.0f}/s, {left_s:.0f} s to go")

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._report.stages_s[name] = time.monotonic() - started

    async def _connect(self) -> Any:
        return await asyncpg.connect(
            self._database_url,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={"application_name": "wayhold-fill", "timezone": "UTC"},
        )


async def _make_quick(connection: Any) -> None:
    """What is not needed here, because a wave brings its own parents and can be made again."""
    await connection.execute("SET synchronous_commit = off")
    try:
        # Looking up the parent of ten million events one by one takes as long as writing them. Not everybody may.
        await connection.execute("SET session_replication_role = replica")
    except asyncpg.InsufficientPrivilegeError:
        pass


async def _close(connection: Any) -> None:
    try:
        await asyncio.wait_for(connection.close(), 2.0)
    except UNAVAILABLE_ERRORS:
        connection.terminate()
