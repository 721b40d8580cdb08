"""
Analytics on a real Postgres: what each number means, by example; what is wrong is said. That no question reads a table
from end to end is in test_query_plans.py, that all answers are right in tests/property/test_analytics.py.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from persistence.analytics import (
    ActiveDay,
    Analytics,
    Bucket,
    Cohort,
    Content,
    DropOff,
    Engagement,
    UnknownName,
    Window,
)
from persistence.errors import StoreUnavailable

WOODS = "wylding-woods"
CAR, GATE = "8_inter_gravity_car", "1_inter_woander_storefront"
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=40)


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def analytics(database_url: str) -> AsyncIterator[Analytics]:
    opened = await Analytics.open(database_url)
    yield opened
    await opened.close()


async def add_player(postgres: Any, experience: str = WOODS, **columns: Any) -> str:
    """A progress without events; its id."""
    row_id = str(uuid.uuid4())
    await postgres.execute("INSERT INTO users (id) VALUES ($1)", row_id)
    await postgres.execute("INSERT INTO player_profiles (id, user_id) VALUES ($1, $1)", row_id)
    names = ["id", "player_id", "last_entry", "experience_id", *columns]
    places = ["$1", "$1", "$1", *(f"${n}" for n in range(2, len(columns) + 3))]
    await postgres.execute(
        f"INSERT INTO experience_progress ({', '.join(names)}) VALUES ({', '.join(places)})",
        row_id,
        experience,
        *columns.values(),
    )
    return row_id


async def add_event(
    postgres: Any,
    progress: str,
    at: datetime,
    content_id: str | None = CAR,
    kind: str = "waypoint_visited",
    **more: Any,
) -> None:
    await postgres.execute(
        "INSERT INTO player_progress_events (id, experience_progress_id, event_type, content_id, data,"
        ' "timestamp", device_id, seq, version, received_at, playtime_ms)'
        " SELECT gen_random_uuid(), $1, $2, $3, $4, $5, 'd', v.version, v.version, $5, $6"
        " FROM (SELECT count(*) + 1 AS version FROM player_progress_events WHERE experience_progress_id = $1) AS v",
        progress,
        kind,
        content_id,
        more.get("data", "{}"),
        at,
        more.get("playtime_ms", 0),
    )


async def test_engagement_counts_visits_players_and_the_time_that_visits_tell(
    postgres: Any, analytics: Analytics
) -> None:
    one, other = await add_player(postgres), await add_player(postgres)
    stranger = await add_player(postgres, "west-of-house")
    await add_event(postgres, one, DAY + timedelta(hours=1), data='{"time_spent": 100}')
    await add_event(postgres, one, DAY + timedelta(hours=30), data='{"time_spent": 20.5}')
    await add_event(postgres, other, DAY + timedelta(hours=2), data='{"time_spent": "long"}')
    await add_event(postgres, other, DAY, GATE)
    await add_event(postgres, stranger, DAY + timedelta(hours=1))
    await postgres.execute("SELECT rebuild_rollups()")

    assert await analytics.find_engagement(WOODS, Content(CAR)) == Engagement(3, 2, 60.25)
    first_day = Window(DAY, DAY + timedelta(days=1))
    assert await analytics.find_engagement(WOODS, Content(CAR), first_day) == Engagement(2, 2, 100.0)
    half_an_hour = Window(DAY + timedelta(minutes=90), DAY + timedelta(hours=2))
    assert await analytics.find_engagement(WOODS, Content(CAR), half_an_hour) == Engagement(0, 0, None)
    assert await analytics.find_engagement(WOODS, Content(CAR, "item_collected")) == Engagement(0, 0, None)
    ranked = await analytics.list_ranking(WOODS, with_players=True)
    assert [(r.content_id, r.total_visits, r.unique_players) for r in ranked] == [(CAR, 3, 2), (GATE, 1, 1)]
    assert [r.unique_players for r in await analytics.list_ranking(WOODS, contents_max=1)] == [None]


async def test_a_funnel_counts_who_came_in_order(postgres: Any, analytics: Analytics) -> None:
    steps = [Content(GATE), Content(CAR), Content("bells", "quest_completed")]
    through, backwards, early = [await add_player(postgres) for _ in range(3)]
    for minute, step in enumerate(steps):
        await add_event(postgres, through, DAY + timedelta(minutes=minute), step.content_id, step.event_type)
        await add_event(postgres, backwards, DAY - timedelta(minutes=minute), step.content_id, step.event_type)
    await add_event(postgres, early, DAY - timedelta(hours=1), GATE)
    await add_event(postgres, early, DAY + timedelta(hours=1), CAR)
    await postgres.execute("SELECT rebuild_rollups()")

    assert [step.players for step in await analytics.list_funnel(WOODS, steps)] == [3, 2, 1]
    # Who passed the gate before the window began has not passed it within the window.
    since = await analytics.list_funnel(WOODS, steps, Window(since=DAY))
    assert [step.players for step in since] == [2, 1, 1]
    with pytest.raises(ValueError, match="1 to 50 steps, not 51"):
        await analytics.list_funnel(WOODS, [Content(GATE)] * 51)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="1 to 50 steps"):
        await postgres.fetch("SELECT * FROM funnel($1, '{}', '{}')", WOODS)


async def test_cohorts_are_by_first_day_whatever_came_late(postgres: Any, analytics: Analytics) -> None:
    stays, leaves = await add_player(postgres), await add_player(postgres)
    for days in (0, 1, 7, 30):
        await add_event(postgres, stays, DAY + timedelta(days=days, hours=3), playtime_ms=1_000)
    await add_event(postgres, leaves, DAY + timedelta(days=1))
    await postgres.execute("SELECT rebuild_rollups()")
    day = DAY.date()

    found = await analytics.find_retention(WOODS)
    assert found.cohorts == [
        Cohort(day, 1, {1: 1, 7: 1, 30: 1}),
        Cohort(day + timedelta(1), 1, {1: 0, 7: 0, 30: 0}),
    ]
    assert found.totals == {1: (2, 1), 7: (2, 1), 30: (2, 1)}
    # On the 30th day of the first cohort: its day 30 is not over, the second one's neither.
    young = await analytics.find_retention(WOODS, today=day + timedelta(30))
    assert [cohort.retained for cohort in young.cohorts] == [{1: 1, 7: 1, 30: None}, {1: 0, 7: 0, 30: None}]
    assert young.totals[30] == (0, 0)
    days = await analytics.list_active_players(WOODS, day, day + timedelta(6))
    assert days == [ActiveDay(day, 1, 1, 1, 1.0), ActiveDay(day + timedelta(1), 2, 1, 2, 1.0)]

    # A phone comes back with a walk from the day before: that was the first day, and all other days move with it.
    await add_event(postgres, stays, DAY - timedelta(hours=1))
    await postgres.execute("SELECT rebuild_rollups($1)", day - timedelta(1))
    moved = await analytics.find_retention(WOODS)
    assert [cohort.day for cohort in moved.cohorts] == [day - timedelta(1), day + timedelta(1)]
    assert moved.cohorts[0].retained == {1: 1, 7: 0, 30: 0}


async def test_a_late_day_moves_the_days_after_it(postgres: Any) -> None:
    progress = uuid.uuid4()

    async def add(*days: int) -> None:
        await postgres.execute(
            "INSERT INTO player_days (experience_id, day, experience_progress_id, updates, playtime_ms, first_at)"
            " SELECT 'x', date '2026-05-01' + d, $1, 1, 0, now() FROM unnest($2::int[]) AS d"
            " ON CONFLICT (experience_id, day, experience_progress_id) DO UPDATE SET updates = player_days.updates + 1",
            progress,
            list(days),
        )

    async def firsts() -> list[date]:
        return [row["first_day"] for row in await postgres.fetch("SELECT first_day FROM player_days ORDER BY day")]

    may = [date(2026, 5, n) for n in range(1, 32)]
    await add(9)
    assert await firsts() == [may[9]]
    await add(12, 10, 9)
    assert await firsts() == [may[9]] * 3
    await add(4, 20)
    assert await firsts() == [may[4]] * 5
    await add(8)
    assert await firsts() == [may[4]] * 6


async def test_completion_playtime_sessions_and_where_players_stop(postgres: Any, analytics: Analytics) -> None:
    hour = timedelta(hours=1)
    done = await add_player(
        postgres,
        started_at=DAY,
        completed_at=DAY + hour,
        last_played_at=DAY + hour,
        completion_percentage=100.0,
        current_location=GATE,
    )
    stuck = await add_player(
        postgres, started_at=DAY, last_played_at=DAY, completion_percentage=25.0, current_location=CAR
    )
    await add_player(postgres, started_at=DAY + hour, last_played_at=datetime.now(UTC), current_location=CAR)
    await add_event(postgres, done, DAY, "bells", "quest_started", playtime_ms=59_999)
    await add_event(postgres, done, DAY, "bells", "quest_completed", playtime_ms=1)
    await add_event(postgres, stuck, DAY, "bells", "quest_started", playtime_ms=1_500)
    for length_s in (59.999, 60, 4_000):
        await postgres.execute(
            "INSERT INTO player_sessions (id, user_id, experience_id, device_id, started_at, ended_at, end_reason)"
            " VALUES (gen_random_uuid(), $1, $2, 'd', $3, $4, 'left')",
            done,
            WOODS,
            DAY,
            DAY + timedelta(seconds=length_s),
        )
    await postgres.execute(
        "INSERT INTO player_sessions (id, user_id, experience_id, device_id, started_at)"
        " VALUES (gen_random_uuid(), $1, $2, 'd', $3)",
        done,
        WOODS,
        DAY,
    )
    await postgres.execute("SELECT rebuild_rollups()")

    first_hour = await analytics.find_completion(WOODS, Window(DAY, DAY + hour))
    assert (first_hour.players, first_hour.completed, first_hour.average_percentage) == (2, 1, 62.5)
    assert [(q.quest, q.players, q.completed) for q in first_hour.quests] == [("bells", 2, 1)]
    later = await analytics.find_completion(WOODS, Window(DAY + hour))
    assert (later.players, later.completed, later.quests) == (1, 0, [])
    nobody = await analytics.find_completion(WOODS, Window(DAY + 2 * hour))
    assert (nobody.players, nobody.average_percentage) == (0, None)

    played = await analytics.find_playtime(WOODS, DAY.date(), bounds_s=[0, 60, 300])
    assert played.buckets == [Bucket(0, 60, 1, 1.5), Bucket(60, 300, 1, 60.0), Bucket(300, None, 0, 0.0)]
    assert played.count == 2 and played.average_s == 30.75
    assert (await analytics.find_playtime(WOODS, DAY.date() + timedelta(1))).average_s is None
    lengths = await analytics.find_session_lengths(WOODS, bounds_s=[0, 60, 3_600])
    assert [(bucket.count, bucket.total_s) for bucket in lengths.buckets] == [(1, 59.999), (1, 60.0), (1, 4_000.0)]
    with pytest.raises(ValueError, match="begin with 0"):
        await analytics.find_session_lengths(WOODS, bounds_s=[5, 10])

    assert await analytics.list_drop_off(WOODS) == [DropOff(CAR, 1)]
    everybody = await analytics.list_drop_off(WOODS, idle_since=datetime.now(UTC) + hour)
    assert everybody == [DropOff(CAR, 2)]
    assert await analytics.list_drop_off(WOODS, idle_since=DAY) == []


async def test_names_that_nobody_met_are_told_from_zeros(postgres: Any, analytics: Analytics) -> None:
    player = await add_player(postgres)
    await add_player(postgres, "west-of-house")
    await add_event(postgres, player, DAY)
    await postgres.execute("SELECT rebuild_rollups()")
    assert await analytics.list_experiences() == ["west-of-house", WOODS]
    assert await analytics.list_contents(WOODS) == [Content(CAR)]

    await analytics.check_names(WOODS, [Content(CAR)])
    for experience, contents, kind, name, names in [
        ("wilding-woods", [], "experience", "wilding-woods", ["west-of-house", WOODS]),
        (WOODS, [Content(CAR), Content("8_inter")], "content", "8_inter", [CAR]),
        (WOODS, [Content("bells", "quest_done")], "event type", "quest_done", ["waypoint_visited"]),
        ("west-of-house", [Content(CAR)], "event type", "waypoint_visited", []),
    ]:
        with pytest.raises(UnknownName) as unknown:
            await analytics.check_names(experience, contents)
        assert (unknown.value.kind, unknown.value.name, unknown.value.names) == (kind, name, names)


async def test_a_question_ends_at_its_deadline_also_on_the_server(postgres: Any, database_url: str) -> None:
    # A lock that the question must wait for: a statement that takes for ever.
    await postgres.execute("BEGIN; LOCK TABLE player_days IN ACCESS EXCLUSIVE MODE")
    impatient = await Analytics.open(database_url, deadline_s=0.2)
    try:
        with pytest.raises(StoreUnavailable, match="list_retention"):
            await impatient.find_retention(WOODS)
        await postgres.execute("ROLLBACK")
        assert (await impatient.find_retention(WOODS)).cohorts == []
    finally:
        await impatient.close()


async def test_postgres_that_is_away_is_said_so() -> None:
    analytics = await Analytics.open("postgresql://wayhold@127.0.0.1:1/wayhold")
    with pytest.raises(StoreUnavailable):
        await analytics.list_experiences()
    await analytics.close()
