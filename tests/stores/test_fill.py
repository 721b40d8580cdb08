"""What `fill` makes: tables that agree with each other, and with what the events say."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest

from loadtest.state_model import StateModel, list_differences, parse_document
from persistence.fill.fill import DatabaseNotEmpty, fill
from persistence.fill.plan import FillPlan, plan_sizes
from persistence.fill.story import World
from protocol.state import document
from tests.stores.conftest import Stores

WORLD = World.invent("made-up-woods")
PLAN = FillPlan(WORLD, players=30, events=900, days=40, random_seed=7)


async def fetch(url: str, sql: str, *arguments: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(sql, *arguments)
    finally:
        await connection.close()


async def test_a_fill_makes_the_players_and_events_that_were_asked_for(database_url: str) -> None:
    lines: list[str] = []
    report = await fill(database_url, PLAN, lines.append)
    assert (report.players, report.events) == (30, 900)
    [counted] = await fetch(
        database_url,
        """SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM player_profiles) AS profiles,
                  (SELECT count(*) FROM experience_progress) AS progress,
                  (SELECT count(*) FROM player_sessions) AS sessions,
                  (SELECT count(*) FROM player_progress_events) AS events,
                  (SELECT count(*) FROM player_progress_events_default) AS astray,
                  (SELECT count(DISTINCT id) FROM player_progress_events) AS ids,
                  (SELECT min("timestamp") FROM player_progress_events) AS first,
                  (SELECT max(received_at) FROM player_progress_events) AS last""",
    )
    assert (counted["users"], counted["profiles"], counted["progress"]) == (30, 30, 30)
    assert (counted["events"], counted["ids"], counted["astray"]) == (900, 900, 0)
    assert counted["sessions"] == report.sessions
    assert counted["last"].timestamp() <= time.time()
    assert 30 < (datetime.now(UTC) - counted["first"]).days <= 42


async def test_the_state_of_a_filled_progress_is_what_its_events_make(database_url: str) -> None:
    """Computed again by the load test's own model, which shares no code with the one that filled."""
    await fill(database_url, PLAN)
    progress = await fetch(
        database_url,
        """SELECT p.*, p.state::text AS state_text, f.total_playtime_ms, f.total_distance_micrometers,
                  f.total_experiences_played, f.stats::text AS stats_text
           FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id""",
    )
    for row in progress:
        events = await fetch(
            database_url,
            """SELECT *, data::text AS data_text, effects::text AS effects_text FROM player_progress_events
               WHERE experience_progress_id = $1 ORDER BY version""",
            row["id"],
        )
        model = StateModel()
        playtime_ms, before = 0, None
        for event in events:
            data = parse_document(event["data_text"])
            if event["event_type"] == "update":
                model.apply(None, data)
            else:
                effects = parse_document(event["effects_text"])
                model.apply({"type": event["event_type"], "content_id": event["content_id"], "data": data}, effects)
            gap_ms = 0
            if before is not None:
                gap_ms = min(60_000, max(0, round((event["timestamp"] - before).total_seconds() * 1000)))
            assert event["playtime_ms"] == gap_ms
            playtime_ms += gap_ms
            before = event["timestamp"]
        assert list_differences(model.document(), parse_document(row["state_text"])) == []
        assert row["playtime_ms"] == row["total_playtime_ms"] == playtime_ms
        assert row["distance_micrometers"] == row["total_distance_micrometers"]
        assert row["last_update_at"] == before
        assert row["version"] > events[-1]["version"]
        achievements = (parse_document(row["stats_text"]) or {}).get("achievements", [])
        assert achievements == sorted(model.achievements)
        assert (row["completed_at"] is not None) == model.is_completed


async def test_sessions_streams_and_rollups_of_a_fill_add_up(database_url: str) -> None:
    await fill(database_url, PLAN)
    astray = """
        SELECT e.id FROM player_progress_events e
        LEFT JOIN player_sessions s ON s.id = e.session_id
        LEFT JOIN device_streams d ON d.experience_progress_id = e.experience_progress_id AND d.device_id = e.device_id
        WHERE s.id IS NULL OR d.device_id IS NULL OR e.seq > d.last_seq OR e.device_id <> s.device_id
           OR e.received_at NOT BETWEEN s.started_at AND s.ended_at"""
    assert await fetch(database_url, astray) == []
    [streams] = await fetch(database_url, "SELECT sum(last_seq) AS updates FROM device_streams")
    assert streams["updates"] == 900
    [sums] = await fetch(
        database_url,
        """SELECT (SELECT sum(playtime_ms) FROM player_progress_events)::bigint AS events,
                  (SELECT sum(playtime_ms) FROM player_sessions)::bigint AS sessions,
                  (SELECT sum(playtime_ms) FROM experience_hours)::bigint AS hours,
                  (SELECT sum(playtime_ms) FROM player_days)::bigint AS days,
                  (SELECT sum(updates) FROM experience_hours)::bigint AS updates,
                  (SELECT sum(events) FROM content_hours)::bigint AS visits,
                  (SELECT sum(events) FROM content_player_days)::bigint AS visits_of_players,
                  (SELECT count(*) FROM player_progress_events WHERE content_id IS NOT NULL) AS events_with_content""",
    )
    assert sums["events"] == sums["sessions"] == sums["hours"] == sums["days"] > 0
    assert sums["updates"] == 900
    assert sums["visits"] == sums["visits_of_players"] == sums["events_with_content"] > 500


async def test_a_database_with_players_is_left_alone_unless_told_to_add(database_url: str) -> None:
    few = replace(PLAN, players=10, events=200)
    await fill(database_url, few)
    with pytest.raises(DatabaseNotEmpty):
        await fill(database_url, few)
    assert len(await fetch(database_url, "SELECT 1 FROM player_progress_events")) == 200

    others = await fill(database_url, replace(few, random_seed=8, adds=True))
    assert (others.players, others.players_present) == (10, 0)
    [counted] = await fetch(database_url, "SELECT sum(updates)::int AS updates FROM player_days")
    assert counted["updates"] == 400


async def test_totals_of_events_that_were_removed_for_their_age_survive_an_addition(database_url: str) -> None:
    few = replace(PLAN, players=10, events=300)
    await fill(database_url, few)
    await fetch(database_url, "SELECT move_event_horizon($1, 10)", WORLD.experience_id)
    await fetch(database_url, """DELETE FROM player_progress_events WHERE "timestamp" < now() - interval '11 days'""")
    [left] = await fetch(database_url, "SELECT count(*)::int AS events FROM player_progress_events")
    assert left["events"] < 300
    await fill(database_url, replace(few, random_seed=8, days=5, adds=True))
    [counted] = await fetch(database_url, "SELECT sum(updates)::int AS updates FROM experience_hours")
    assert counted["updates"] == 600


async def test_a_fill_that_was_cut_off_goes_on_with_the_players_that_are_missing(database_url: str) -> None:
    class Cut(Exception):
        pass

    waves = 0

    def cut(line: str) -> None:
        nonlocal waves
        waves += line.startswith("wave")
        if waves == 2:
            raise Cut

    plan = replace(PLAN, wave_events=150)
    with pytest.raises(ExceptionGroup):
        await fill(database_url, plan, cut)
    whole = await fetch(
        database_url,
        """SELECT p.version, count(e.id) AS events, count(DISTINCT e.session_id) AS sessions
           FROM experience_progress p LEFT JOIN player_progress_events e ON e.experience_progress_id = p.id
           GROUP BY p.id""",
    )
    assert 0 < len(whole) < 30
    # Each session has two entries more than its updates.
    assert all(row["version"] == row["events"] + 2 * row["sessions"] for row in whole)

    report = await fill(database_url, replace(plan, adds=True))
    assert (report.players, report.players_present) == (30 - len(whole), len(whole))
    [counted] = await fetch(
        database_url, "SELECT count(*) AS events, count(DISTINCT id) AS ids FROM player_progress_events"
    )
    assert counted["events"] == counted["ids"] == 900


async def test_a_filled_player_plays_on(stores: Stores) -> None:
    await fill(stores.database_url, PLAN)
    user_id = str(PLAN.make_id(3, "user"))
    [before] = await stores.fetch(
        """SELECT p.version, p.state::text AS state
           FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id WHERE f.user_id = $1""",
        PLAN.make_id(3, "user"),
    )
    player = stores.player(WORLD.experience_id, user_id)
    progress = await player.hello()
    assert document(progress.fields) == json.loads(before["state"])
    await player.send(player.make({"type": "item_collected", "content_id": "a_late_lamp"}))
    await stores.flush()
    [after] = await stores.fetch(
        "SELECT p.version, p.state->'inventory' ? 'a_late_lamp' AS has_lamp FROM experience_progress p "
        "JOIN player_profiles f ON f.id = p.player_id WHERE f.user_id = $1",
        PLAN.make_id(3, "user"),
    )
    assert after["version"] > before["version"] and after["has_lamp"]


@pytest.mark.parametrize(
    ("players", "events"), [(1, 1), (7, 7), (3, 5000), (2500, 100_003), (1001, 1001), (50, 50 * 20_000)]
)
def test_the_events_of_all_players_add_up_to_what_was_asked_for(players: int, events: int) -> None:
    plan = FillPlan(WORLD, players, events)
    sizes = plan_sizes(plan)
    each = [sizes.own.get(number, sizes.stories[sizes.story_of(number)]) for number in range(players)]
    assert sum(each) == events
    assert min(each) >= 1
