"""Event retention on a real Postgres: what is too old goes, in slices, and nothing else does."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from persistence.errors import StoreUnavailable
from persistence.retention import RetentionSweeper

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


class Events:
    """Rows as a flusher would have written them, and what is left of them."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.version = 0

    async def add_progress(self, experience: str) -> uuid.UUID:
        user = uuid.uuid4()
        await self.connection.execute("INSERT INTO users (id) VALUES ($1)", user)
        player = await self.connection.fetchval("INSERT INTO player_profiles (user_id) VALUES ($1) RETURNING id", user)
        made: uuid.UUID = await self.connection.fetchval(
            "INSERT INTO experience_progress (player_id, experience_id, last_entry) VALUES ($1, $2, $1) RETURNING id",
            player,
            experience,
        )
        return made

    async def add(self, progress: uuid.UUID, at: datetime, count: int = 1) -> None:
        await self.connection.execute("SELECT ensure_event_partitions($1, $1)", at.date())
        await self.connection.execute(
            """
            INSERT INTO player_progress_events
                (id, experience_progress_id, event_type, content_id, "timestamp", device_id, seq, version, received_at)
            SELECT gen_random_uuid(), $1, 'waypoint_visited', 'w', $2::timestamptz + make_interval(secs => n * 0.001),
                   'd', $3 + n, $3 + n, $2
            FROM generate_series(1, $4) AS n
            """,
            progress,
            at,
            self.version,
            count,
        )
        self.version += count

    async def list_ages_days(self, progress: uuid.UUID) -> list[int]:
        rows = await self.connection.fetch(
            'SELECT "timestamp" FROM player_progress_events WHERE experience_progress_id = $1 ORDER BY 1', progress
        )
        return [round((NOW - row["timestamp"]) / DAY) for row in rows]


@pytest.fixture
async def events(database_url: str) -> Any:
    connection = await asyncpg.connect(database_url)
    yield Events(connection)
    await connection.close()


def sweeper(
    database_url: str, days: dict[str, int], *, holder: str = "one", slice_events_max: int = 2000
) -> RetentionSweeper:
    return RetentionSweeper(database_url, days, holder=holder, slice_events_max=slice_events_max, pause_min_s=0.0)


async def test_what_is_too_old_goes_and_nothing_else(events: Events, database_url: str) -> None:
    short, other = await events.add_progress("short"), await events.add_progress("for-ever")
    for age in (400, 90, 45, 32, 29, 1):
        await events.add(short, NOW - age * DAY)
        await events.add(other, NOW - age * DAY)
    report = await sweeper(database_url, {"short": 30}).sweep()
    assert report.removed == 4
    assert await events.list_ages_days(short) == [29, 1]
    assert await events.list_ages_days(other) == [400, 90, 45, 32, 29, 1]
    row = await events.connection.fetchrow("SELECT * FROM event_retention")
    assert row["experience_id"] == "short" and row["removed_events"] == 4
    assert row["horizon"].hour == 0 and 30 <= (datetime.now(UTC) - row["horizon"]).total_seconds() / 86400 < 31
    assert (await sweeper(database_url, {"short": 30}).sweep()).slices == 0


async def test_a_horizon_never_moves_back(events: Events, database_url: str) -> None:
    progress = await events.add_progress("short")
    await events.add(progress, NOW - 45 * DAY)
    await sweeper(database_url, {"short": 30}).sweep()
    before = await events.connection.fetchval("SELECT horizon FROM event_retention")
    await sweeper(database_url, {"short": 300}).sweep()
    assert await events.connection.fetchval("SELECT horizon FROM event_retention") == before
    with pytest.raises(asyncpg.RaiseError, match="a day at least"):
        await events.connection.fetchval("SELECT move_event_horizon('short', 0)")


async def test_an_event_that_came_late_goes_in_the_round_of_the_next_day(events: Events, database_url: str) -> None:
    progress = await events.add_progress("short")
    await events.add(progress, NOW - 45 * DAY)
    await sweeper(database_url, {"short": 30}).sweep()
    await events.add(progress, NOW - 80 * DAY)
    assert (await sweeper(database_url, {"short": 30}).sweep()).removed == 0
    # A day passes: what was the horizon is a day further back.
    await events.connection.execute(
        "UPDATE event_retention SET horizon = horizon - interval '1 day', swept_until = swept_until - interval '1 day'"
    )
    assert (await sweeper(database_url, {"short": 30}).sweep()).removed == 1
    assert await events.list_ages_days(progress) == []


async def test_dense_events_go_in_slices_and_a_stop_loses_nothing(events: Events, database_url: str) -> None:
    progress = await events.add_progress("short")
    await events.add(progress, NOW - 45 * DAY, count=500)
    await events.add(progress, NOW - 44 * DAY, count=20)
    stop = asyncio.Event()
    removed: list[int] = []

    def stop_soon(count: int) -> None:
        removed.append(count)
        if sum(removed) >= 100:
            stop.set()

    first = RetentionSweeper(
        database_url, {"short": 30}, holder="one", on_removed=stop_soon, slice_events_max=50, pause_min_s=0.0
    )
    await first.sweep(stop)
    assert sum(removed) == 100 and max(removed) == 50
    # It died; after its lease somebody else goes on where it was.
    await events.connection.execute("UPDATE event_retention SET lease_until = now()")
    report = await sweeper(database_url, {"short": 30}, holder="two", slice_events_max=50).sweep()
    assert report.removed == 420
    assert await events.list_ages_days(progress) == []
    assert await events.connection.fetchval("SELECT removed_events FROM event_retention") == 520


async def test_one_sweeper_works_on_an_experience(events: Events, database_url: str) -> None:
    progress = await events.add_progress("short")
    await events.add(progress, NOW - 45 * DAY)
    await events.connection.fetchval("SELECT move_event_horizon('short', 30)")
    await events.connection.execute(
        "UPDATE event_retention SET lease_holder = 'other', lease_until = now() + interval '1 minute'"
    )
    report = await sweeper(database_url, {"short": 30}).sweep()
    assert (report.busy, report.removed) == (1, 0)
    assert await events.list_ages_days(progress) == [45]


async def test_a_sweep_waits_for_no_erase_and_leaves_its_rows_to_it(events: Events, database_url: str) -> None:
    erased, other = await events.add_progress("short"), await events.add_progress("short")
    await events.add(erased, NOW - 45 * DAY)
    await events.add(other, NOW - 45 * DAY)
    erasing = await asyncpg.connect(database_url)
    try:
        async with erasing.transaction():
            await erasing.execute("DELETE FROM player_progress_events WHERE experience_progress_id = $1", erased)
            async with asyncio.timeout(10):
                report = await sweeper(database_url, {"short": 30}).sweep()
            assert report.removed == 1
    finally:
        await erasing.close()
    assert await events.list_ages_days(other) == await events.list_ages_days(erased) == []


async def list_months(events: Events) -> set[str]:
    rows = await events.connection.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'player_progress_events'::regclass"
    )
    return {row["relname"] for row in rows}


async def test_months_go_whole_only_when_no_experience_keeps_anything_of_them(
    events: Events, database_url: str
) -> None:
    old_month = f"player_progress_events_{NOW - 400 * DAY:%Y_%m}"
    short, other = await events.add_progress("short"), await events.add_progress("longer")
    for age in (400, 100):
        await events.add(short, NOW - age * DAY)
    await events.add(other, NOW - 400 * DAY)
    report = await sweeper(database_url, {"short": 30}).sweep()
    assert (report.removed, report.dropped_partitions) == (2, 0)
    report = await sweeper(database_url, {"short": 30, "longer": 399}).sweep()
    if report.dropped_partitions == 0:  # that month is not over for the longer one
        assert report.removed == 1 and old_month in await list_months(events)
    report = await sweeper(database_url, {"short": 30, "longer": 200}).sweep()
    months = await list_months(events)
    assert old_month not in months
    # Into the last 92 days a late event may fall, whatever the retention.
    kept = {f"player_progress_events_{NOW - age * DAY:%Y_%m}" for age in (0, 30, 60, 91)}
    assert kept <= months and "player_progress_events_default" in months
    assert await events.list_ages_days(other) == []


async def test_a_role_that_may_only_append_may_sweep(events: Events, database_url: str) -> None:
    progress = await events.add_progress("short")
    await events.add(progress, NOW - 45 * DAY)
    role = f"appender_{uuid.uuid4().hex[:8]}"
    await events.connection.execute(f"CREATE ROLE {role}")
    await events.connection.execute(f"GRANT wayhold_app TO {role}")
    try:
        await events.connection.execute(f"SET ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await events.connection.execute("DELETE FROM player_progress_events")
        await events.connection.fetchval("SELECT move_event_horizon('short', 30)")
        slice_ = await events.connection.fetchrow("SELECT * FROM remove_old_events('short', now(), 100, 'x', 10)")
        assert slice_["removed"] == 1 and slice_["is_done"]
        await events.connection.fetchval("SELECT drop_old_event_partitions()")
    finally:
        await events.connection.execute("RESET ROLE")
        await events.connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_without_retention_nothing_is_asked() -> None:
    assert (await sweeper("postgresql://nobody@127.0.0.1:1/none", {}).sweep()).slices == 0
    with pytest.raises(StoreUnavailable):
        await sweeper("postgresql://nobody@127.0.0.1:1/none", {"short": 30}).sweep()
