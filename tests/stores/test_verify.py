"""`verify` finds nothing where nothing is wrong, and each thing that is; `repair` mends what can be mended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from gateway.cli import main
from persistence.dead_letters import DeadLetters
from persistence.flusher.flusher import FlushBounds
from persistence.flusher.levels import LevelRule
from persistence.verify import CHECKS, Findings, mend, verification, verify
from protocol.experience import CompletionRule, ExperienceDefinition
from tests.stores.conftest import StorePlayer, Stores

NOW_MS = int(datetime.now(UTC).timestamp() * 1000)
LEVELS = LevelRule()
HARBOUR = ExperienceDefinition("harbour", "Harbour", completion=CompletionRule(("m:visited_waypoints.pier",)))
EXPERIENCES = {"harbour": HARBOUR}


async def flush(stores: Stores) -> None:
    flusher = stores.flusher(experiences=EXPERIENCES)
    while await flusher.flush_due(ahead_s=3600.0):
        pass
    await flusher.close()


async def look(stores: Stores, **kwargs: Any) -> Findings:
    return await verify(stores.database_url, levels=LEVELS, experiences=EXPERIENCES, **kwargs)


def visit(place: str, **data: Any) -> dict[str, Any]:
    return {"type": "waypoint_visited", "content_id": place, "data": {"distance_traveled": 700.5, **data}}


async def play(player: StorePlayer) -> None:
    """A bit of everything that leaves a trace."""
    await player.hello()
    at_ms = NOW_MS - 90_000_000
    updates = [
        player.make(visit("attic", time_spent=12), at_ms=at_ms),
        player.make({"type": "achievement_unlocked", "content_id": "climber"}, at_ms=at_ms + 7_000),
        player.make(None, [{"op": "incr", "path": "collectibles.coins", "value": 0.3}], at_ms=at_ms + 90_000),
        player.make({"type": "item_collected", "content_id": "lamp", "data": {"count": 2}}, at_ms=at_ms + 80_000),
        player.make({"type": "quest_started", "content_id": "bells"}, at_ms=at_ms + 86_400_000),
        player.make(
            {"type": "danced", "data": {"how": [1, {"deep": "ж"}]}}, [{"op": "set", "path": "mood", "value": 5}]
        ),
        player.make({"type": "danced"}, [{"op": "incr", "path": "mood", "value": 1}]),  # void: another kind
        player.make(visit("pier"), [{"op": "unset", "path": "mood"}], at_ms=at_ms + 86_500_000),
    ]
    await player.send(*updates)


@pytest.fixture
async def played(stores: Stores) -> AsyncIterator[Stores]:
    """Five players in two experiences, one of them in both and with a dead letter; everything flushed."""
    first = stores.player("woods")
    players = [first, stores.player("harbour", first.key.user_id, "tablet")]
    players += [stores.player(name) for name in ("woods", "harbour", "harbour")]
    await stores.fetch(
        "ALTER TABLE player_progress_events ADD CONSTRAINT no_lamps CHECK (content_id <> 'lamp') NOT VALID"
    )
    for player in players[:2]:
        await play(player)
        await player.leave()
    await flush(stores)
    await stores.fetch("ALTER TABLE player_progress_events DROP CONSTRAINT no_lamps")
    for player in players[2:]:
        await play(player)
        await flush(stores)
        await player.send(player.make({"type": "experience_completed"}, at_ms=NOW_MS))
    await flush(stores)
    async with DeadLetters(stores.database_url) as letters:
        listed = await letters.list_newest(10)
        assert len(listed) == 2
        await letters.replay([listed[0].id])
        await letters.drop([listed[1].id])
    yield stores


async def test_nothing_is_found_where_nothing_is_wrong(played: Stores) -> None:
    findings = await look(played)
    assert [findings.first[name] for name, count in findings.counts.items() if count] == []
    assert (findings.players, findings.progress, findings.unknowable) == (4, 5, 0)
    rows = await played.fetch(
        "SELECT (SELECT count(*) FROM player_progress_events) + (SELECT count(*) FROM dead_letters)"
    )
    assert findings.events == rows[0][0] == 5 * 7 + 3


async def test_small_batches_find_the_same(played: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "PROGRESS_AT_ONCE", 1)
    monkeypatch.setattr(verification, "ROWS_AT_ONCE", 2)
    assert (await look(played)).drift == 0
    await played.fetch("UPDATE player_profiles SET stats = '{}' RETURNING 1")
    assert (await look(played)).counts["achievements"] == 4


TAMPERED: tuple[tuple[str, str], ...] = (
    ("numbering", "UPDATE device_streams SET last_seq = last_seq - 1 WHERE last_seq > 1"),
    ("numbering", "DELETE FROM device_streams"),
    ("numbering", "UPDATE experience_progress SET version = version - 1"),
    ("numbering", "UPDATE player_progress_events SET seq = 1 WHERE seq = 2"),
    ("state", "UPDATE experience_progress SET state = jsonb_set(state, '{collectibles,coins}', '0.4')"),
    ("state", "UPDATE experience_progress SET state = state - 'active_quests'"),
    ("state", "UPDATE experience_progress SET current_location = 'elsewhere'"),
    ("state", "UPDATE player_progress_events SET data = data - 'count' WHERE event_type = 'item_collected'"),
    ("state", "DELETE FROM player_progress_events WHERE event_type = 'quest_started'"),
    ("times", "UPDATE experience_progress SET last_update_at = last_update_at + interval '1 ms'"),
    ("times", "UPDATE experience_progress SET started_at = started_at + interval '1 day'"),
    ("completion", "UPDATE experience_progress SET completion_percentage = 99 WHERE completed_at IS NOT NULL"),
    ("completion", "UPDATE experience_progress SET completed_at = NULL"),
    ("gaps", "UPDATE player_progress_events SET playtime_ms = playtime_ms + 1 WHERE event_type = 'danced'"),
    ("playtime", "UPDATE experience_progress SET playtime_ms = playtime_ms + 1"),
    ("sessions", "UPDATE player_sessions SET playtime_ms = playtime_ms + 1"),
    ("profiles", "UPDATE player_profiles SET total_playtime_ms = total_playtime_ms + 1"),
    ("profiles", "UPDATE player_profiles SET total_distance_micrometers = 0"),
    ("profiles", "UPDATE player_profiles SET total_experiences_played = 7"),
    ("achievements", "UPDATE player_profiles SET stats = '{\"achievements\": []}'"),
    ("levels", "UPDATE player_profiles SET account_level = account_level + 1"),
    ("content_hours", "UPDATE content_hours SET time_spent_ms = time_spent_ms + 1"),
    ("content_hours", "DELETE FROM content_hours"),
    ("content_player_days", "UPDATE content_player_days SET events = events + 1"),
    ("experience_hours", "UPDATE experience_hours SET playtime_ms = playtime_ms - 1"),
    ("player_days", "UPDATE player_days SET updates = updates + 1"),
    ("player_days", "UPDATE player_days SET first_day = first_day - 1"),
)
REPAIRABLE = {check.name for check in CHECKS if check.is_repairable}


async def test_each_thing_that_is_wrong_is_found_and_mended_if_it_can_be(played: Stores) -> None:
    connection = await asyncpg.connect(played.database_url)
    rules: dict[str, Any] = {"levels": LEVELS, "experiences": EXPERIENCES}
    mended = set()
    try:
        for check, change in TAMPERED:
            transaction = connection.transaction()
            await transaction.start()
            assert await connection.execute(change) != "UPDATE 0", change
            findings = await verification.look(connection, rows_max=2, **rules)
            assert findings.counts[check] > 0 and 1 <= len(findings.first[check]) <= 2, change
            difference = findings.first[check][0]
            assert difference.where and difference.found != difference.expected, change
            if {name for name, count in findings.counts.items() if count} <= REPAIRABLE:
                await mend(connection, findings, **rules)
                left = await verification.look(connection, **rules)
                assert [left.first[name] for name, count in left.counts.items() if count] == [], change
                mended.add(check)
            await transaction.rollback()
        assert mended == REPAIRABLE
        assert (await look(played)).drift == 0
    finally:
        await connection.close()


async def test_flushers_that_run_are_no_drift(stores: Stores) -> None:
    players = [stores.player("woods") for _ in range(40)]
    for player in players:
        await play(player)
    flusher = stores.flusher(bounds=FlushBounds(progress_max=3), lanes=2)

    async def flush_all() -> None:
        while await flusher.flush_due(ahead_s=7.0):
            pass

    flushing = asyncio.create_task(flush_all())
    looks = 0
    while not flushing.done() or not looks:
        findings = await look(stores)
        assert [findings.first[name] for name, count in findings.counts.items() if count] == []
        looks += 1
    await flushing
    await flusher.close()
    assert (await look(stores)).events == 40 * 7


async def test_removed_events_are_no_drift(played: Stores) -> None:
    (row,) = await played.fetch("SELECT move_event_horizon('woods', 1) AS horizon")
    assert row["horizon"] > datetime.now(UTC) - timedelta(days=3)
    removed = await played.fetch(
        'DELETE FROM player_progress_events WHERE "timestamp" < $1 RETURNING 1', row["horizon"]
    )
    assert removed
    # Only those of the woods may go.
    findings = await look(played)
    assert findings.unknowable == 2
    assert {check for check, count in findings.counts.items() if count} <= {
        *("state", "playtime", "sessions", "gaps", "content_hours", "content_player_days", "experience_hours"),
        *("player_days", "completion", "times", "profiles"),
    }
    woods = await played.fetch("SELECT id FROM experience_progress WHERE experience_id = 'woods'")
    told = [d for ds in findings.first.values() for d in ds]
    assert not [d for d in told if d.where.get("experience_id") == "woods"], told
    assert len(woods) == 2


async def test_command_tells_the_drift_mends_it_and_ends_with_a_verdict(
    played: Stores, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "harbour.toml").write_text(
        'format = 1\nid = "harbour"\nname = "Harbour"\n[[waypoints]]\nid = "pier"\nname = "Pier"\n'
        "lat = 1.0\nlng = 1.0\n"
        '[completion]\nwaypoints = ["pier"]\n'
    )
    arguments = ["verify", "--database-url", played.database_url, "--experiences-dir", str(tmp_path)]

    async def run(*more: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, [*arguments, *more])
        return code, capsys.readouterr().out

    code, out = await run()
    assert (code, out.splitlines()[-1]) == (0, "verify: ok players=4 progress=5 events=38 drift=0"), out
    await played.fetch("UPDATE player_profiles SET total_playtime_ms = total_playtime_ms + 1 RETURNING 1")
    await played.fetch("UPDATE content_hours SET events = events + 1 RETURNING 1")
    code, out = await run("--rows", "1")
    assert code == 1 and "total_playtime_ms is" in out and "wayhold verify --repair" in out
    assert "profiles: the first 1 of 4" in out
    code, out = await run("--json")
    told = json.loads(out)
    assert code == 1 and not told["ok"] and told["repaired"] is None
    assert {row["check"] for row in told["checks"] if row["different"]} == {"profiles", "content_hours"}
    code, out = await run("--repair")
    assert code == 0 and "repaired: profiles=4 progress=0 rollups=2" in out
    assert (await run())[0] == 0
