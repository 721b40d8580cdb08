"""
The audit must see every way in which Postgres can be wrong: a right history passes, and after each single tampering the
report fails, in the right count, and names the player, the device and the number.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from loadtest.audit import AuditReport, audit
from loadtest.experience import WYLDING_WOODS
from loadtest.history import PlayerHistory, Step
from loadtest.state_model import StateModel
from loadtest.storyline import Story, StoryStep

EXPERIENCE = "wylding-woods"
STEPS = 60

Tamper = Callable[[asyncpg.Connection], Awaitable[Any]]


class Played:
    """A player with two devices whose updates reached Postgres as they should; some were void."""

    def __init__(self, number: int, *, devices: int = 2) -> None:
        rng = random.Random(number)
        story = Story(WYLDING_WOODS, rng)
        self.user_id = str(uuid.UUID(int=number, version=4))
        self.history = PlayerHistory(self.user_id, EXPERIENCE)
        self.model = StateModel()
        self.devices = [f"phone-{number}-{index}" for index in range(devices)]
        self.rows: list[tuple[Step, int]] = []
        self.version = 1  # the start of a session took it
        now = datetime.now(UTC)
        made = dict.fromkeys(self.devices, 0)
        # What every story must hold, so that there is something to tamper with.
        musts: list[StoryStep] = [
            StoryStep({"type": "achievement_unlocked", "content_id": "first_waypoint"}),
            StoryStep({"type": "experience_completed"}),
            StoryStep(None, [{"op": "max", "path": "records.best", "value": 12.5}]),
            StoryStep(None, [{"op": "incr", "path": "inventory", "value": 1}], expected_code=106),
        ]
        for index in range(STEPS):
            device = rng.choice(self.devices)
            made[device] += 1
            told = musts.pop() if musts and index > STEPS // 2 else story.next_step()
            event, effects = told.event, told.effects
            at_ms = (now - timedelta(seconds=STEPS - index)).timestamp() * 1000
            if event is not None and index % 2:
                event = {**event, "at": int(at_ms)}
            step = Step(device, made[device], event, effects, at_ms, at_ms, expected_code=told.expected_code)
            self.history.offered += 1
            self.history.add_made(step)
            self.history.note_accepted(device, step.seq, at_ms + 1)
            self.version += 1
            code = self.model.apply(event, effects)
            if code is None:
                self.rows.append((step, self.version))
            else:
                self.history.note_void(device, step.seq, code)
        for device in self.devices:
            self.history.note_saved(device, made[device], now.timestamp() * 1000)
        self.streams = {device: seq for device, seq in made.items() if seq}

    async def store(self, connection: asyncpg.Connection) -> None:
        """Insert what a flusher would have written."""
        document = self.model.document()
        distance = document.get("distance_meters", Decimal(0))
        micrometers = int(distance * 1_000_000)
        user_id, profile_id, progress_id = uuid.UUID(self.user_id), uuid.uuid4(), uuid.uuid4()
        await connection.execute("INSERT INTO users (id) VALUES ($1)", user_id)
        await connection.execute(
            "INSERT INTO player_profiles (id, user_id, total_distance_micrometers, stats) VALUES ($1, $2, $3, $4)",
            profile_id,
            user_id,
            micrometers,
            json.dumps({"achievements": sorted(self.model.achievements)}),
        )
        await connection.execute(
            """INSERT INTO experience_progress (id, player_id, experience_id, state, version, last_entry,
                   current_location, distance_micrometers, completed_at, completion_percentage)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)""",
            progress_id,
            profile_id,
            EXPERIENCE,
            json.dumps(document, default=_show_decimal),
            self.version,
            uuid.uuid4(),
            document.get("current_location"),
            micrometers,
            datetime.now(UTC) if self.model.is_completed else None,
            100 if self.model.is_completed else 0,
        )
        for step, version in self.rows:
            await _insert_row(connection, progress_id, step, version)
        for device, last_seq in self.streams.items():
            await connection.execute("INSERT INTO device_streams VALUES ($1, $2, $3)", progress_id, device, last_seq)


def _show_decimal(value: Decimal) -> float | int:
    return int(value) if value == int(value) else float(value)


async def _insert_row(connection: asyncpg.Connection, progress_id: uuid.UUID, step: Step, version: int) -> None:
    event = step.event or {}
    at_ms = event.get("at") or step.made_ms
    await connection.execute(
        """INSERT INTO player_progress_events (id, experience_progress_id, event_type, content_id, data, location_lat,
               location_lng, "timestamp", device_id, seq, version, received_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, now())""",
        uuid.uuid4(),
        progress_id,
        event.get("type", "update"),
        event.get("content_id"),
        json.dumps((event.get("data") or {}) if step.event is not None else step.effects),
        event.get("lat"),
        event.get("lng"),
        datetime.fromtimestamp(at_ms / 1000, UTC),
        step.device,
        step.seq,
        version,
    )


class Ground:
    """Three players who played; the middle one is tampered with."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self.players = [Played(number) for number in (11, 12, 13)]
        self.victim = self.players[1]
        self.device = self.victim.devices[0]
        of_device = [(step, version) for step, version in self.victim.rows if step.device == self.device]
        chosen = next(
            index
            for index, (step, _) in enumerate(of_device)
            if index > 5 and step.event is not None and step.event["type"] == "waypoint_visited"
        )
        self.step, self.version = of_device[chosen]
        self.next_step, self.next_version = of_device[chosen + 1]

    async def store(self) -> None:
        async with _connected(self.database_url) as connection:
            for player in self.players:
                await player.store(connection)

    async def audit(self) -> AuditReport:
        return await audit([player.history for player in self.players], self.database_url)

    async def execute(self, statement: str, *arguments: Any) -> None:
        """Tamper. `:row` is the chosen row of the victim, `:progress` the id of its progress."""
        statement = statement.replace(
            ":row", f"experience_progress_id = :progress AND device_id = '{self.device}' AND seq = {self.step.seq}"
        ).replace(
            ":progress",
            "(SELECT e.id FROM experience_progress e JOIN player_profiles p ON p.id = e.player_id "
            f"WHERE p.user_id = '{self.victim.user_id}')",
        )
        async with _connected(self.database_url) as connection:
            done = await connection.execute(statement, *arguments)
        assert not done.endswith(" 0"), f"tampering changed nothing: {statement}"


class _connected:
    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    async def __aenter__(self) -> asyncpg.Connection:
        self._connection = await asyncpg.connect(self._database_url)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


@pytest.fixture
async def ground(database_url: str) -> Ground:
    made = Ground(database_url)
    await made.store()
    return made


def _assert_named(report: AuditReport, ground: Ground, kind: str, *, seq: int | None, what: str) -> None:
    assert not report.is_ok
    assert report.last_line().startswith("audit: FAILED ")
    assert getattr(report, kind) >= 1, report.lines()
    found = [finding for finding in report.findings if finding.kind == kind]
    assert all(finding.user_id == ground.victim.user_id for finding in report.findings), report.lines()
    assert any(what in finding.what and (seq is None or finding.seq == seq) for finding in found), report.lines()


def _others(report: AuditReport, *kinds: str) -> int:
    names = {"lost", "duplicated", "reordered", "state_mismatches"} - set(kinds)
    return sum(getattr(report, name) for name in names)


async def test_right_history_passes(ground: Ground) -> None:
    report = await ground.audit()
    assert report.is_ok, report.lines()
    made = sum(len(list(player.history.steps)) for player in ground.players)
    void = sum(made_step.void_code is not None for player in ground.players for made_step in player.history.steps)
    assert void >= 1
    saved = made - void
    assert report.last_line() == (
        f"audit: ok offered={made} accepted={saved} void={void} saved={saved} dead_lettered=0 "
        "lost=0 duplicated=0 reordered=0 state_mismatches=0"
    )


async def test_deleted_row_is_lost(ground: Ground) -> None:
    await ground.execute("DELETE FROM player_progress_events WHERE :row")
    report = await ground.audit()
    _assert_named(report, ground, "lost", seq=ground.step.seq, what="has no row")
    assert (report.lost, _others(report, "lost")) == (1, 0), report.lines()


async def test_row_stored_again_at_another_version_is_duplicated(ground: Ground) -> None:
    await ground.execute(
        """INSERT INTO player_progress_events (id, experience_progress_id, event_type, content_id, data, location_lat,
               location_lng, "timestamp", device_id, seq, version, received_at)
           SELECT gen_random_uuid(), experience_progress_id, event_type, content_id, data, location_lat, location_lng,
               "timestamp", device_id, seq, 1, received_at FROM player_progress_events WHERE :row"""
    )
    report = await ground.audit()
    _assert_named(report, ground, "duplicated", seq=ground.step.seq, what="a second row")
    assert report.duplicated == 1, report.lines()


async def test_swapped_order_is_reordered(ground: Ground) -> None:
    await ground.execute(
        f"""UPDATE player_progress_events
            SET version = CASE version WHEN {ground.version} THEN {ground.next_version} ELSE {ground.version} END
            WHERE experience_progress_id = :progress AND version IN ({ground.version}, {ground.next_version})"""
    )
    report = await ground.audit()
    _assert_named(report, ground, "reordered", seq=ground.step.seq, what=f"after seq {ground.next_step.seq}")
    assert (report.lost, report.duplicated) == (0, 0), report.lines()


async def test_two_updates_with_one_version_are_reordered(ground: Ground) -> None:
    await ground.execute(
        f"""UPDATE player_progress_events SET version = {ground.next_version},
            "timestamp" = "timestamp" + interval '1 microsecond' WHERE :row"""
    )
    report = await ground.audit()
    _assert_named(report, ground, "reordered", seq=None, what=f"shares version {ground.next_version}")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("jsonb_set(state, '{inventory,0}', '\"stolen\"')", "state: inventory"),
        ("state - 'visited_waypoints'", "state: visited_waypoints is missing"),
        ("state || '{\"gold\": 1}'", "state: gold should not be there"),
        (
            "jsonb_set(state, '{distance_meters}', to_jsonb((state->>'distance_meters')::numeric + 0.000001))",
            "state: distance_meters should be",
        ),
        ("jsonb_set(state, '{records,best}', 'true')", "state: records.best should be"),
    ],
)
async def test_changed_state_is_a_mismatch(ground: Ground, change: str, what: str) -> None:
    await ground.execute(f"UPDATE experience_progress SET state = {change} WHERE id = :progress")
    report = await ground.audit()
    _assert_named(report, ground, "state_mismatches", seq=None, what=what)
    assert _others(report, "state_mismatches") == 0, report.lines()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("current_location = 'nowhere'", "column current_location"),
        ("current_location = NULL", "column current_location"),
        ("completed_at = NULL", "completed_at"),
        ("completion_percentage = 45", "completion"),
        ("version = version - 30", "but the progress is at"),
    ],
)
async def test_changed_column_is_a_mismatch(ground: Ground, change: str, what: str) -> None:
    await ground.execute(f"UPDATE experience_progress SET {change} WHERE id = :progress")
    _assert_named(await ground.audit(), ground, "state_mismatches", seq=None, what=what)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("total_distance_micrometers = total_distance_micrometers + 20000", "total distance"),
        ("""stats = '{"achievements": []}'""", "lacks the achievements"),
        ("""stats = '{"achievements": ["first_waypoint", "first_waypoint"]}'""", "names an achievement twice"),
    ],
)
async def test_changed_profile_is_a_mismatch(ground: Ground, change: str, what: str) -> None:
    await ground.execute(
        f"UPDATE player_profiles SET {change} "
        "WHERE id = (SELECT player_id FROM experience_progress WHERE id = :progress)"
    )
    _assert_named(await ground.audit(), ground, "state_mismatches", seq=None, what=what)


@pytest.mark.parametrize("device", ["a-strangers-phone", "the same"])
async def test_row_that_nobody_made_is_too_many(ground: Ground, device: str) -> None:
    seq = 9999 if device == "the same" else 3
    device = ground.device if device == "the same" else device
    await ground.execute(
        f"""INSERT INTO player_progress_events (id, experience_progress_id, event_type, "timestamp", device_id, seq,
                version, received_at)
            VALUES (gen_random_uuid(), :progress, 'note_written', now(), '{device}', {seq}, 1, now())"""
    )
    report = await ground.audit()
    _assert_named(report, ground, "duplicated", seq=seq, what="that nobody made")
    assert _others(report, "duplicated") == 0, report.lines()


async def test_row_of_a_void_update_is_too_many(ground: Ground) -> None:
    void = next(step for step in ground.victim.history.steps if step.void_code is not None)
    await ground.execute(
        f"""INSERT INTO player_progress_events (id, experience_progress_id, event_type, "timestamp", device_id, seq,
                version, received_at)
            VALUES (gen_random_uuid(), :progress, 'note_written', now(), '{void.device}', {void.seq}, 1, now())"""
    )
    report = await ground.audit()
    _assert_named(report, ground, "duplicated", seq=void.seq, what="answered as void")


async def test_changed_seq_is_lost_and_a_row_that_nobody_made(ground: Ground) -> None:
    await ground.execute("UPDATE player_progress_events SET seq = 9999 WHERE :row")
    report = await ground.audit()
    _assert_named(report, ground, "lost", seq=ground.step.seq, what="has no row")
    _assert_named(report, ground, "duplicated", seq=9999, what="that nobody made")


async def test_row_given_to_another_device_is_lost(ground: Ground) -> None:
    await ground.execute("UPDATE player_progress_events SET device_id = 'another' WHERE :row")
    report = await ground.audit()
    _assert_named(report, ground, "lost", seq=ground.step.seq, what="has no row")


async def test_missing_stream_number_is_a_mismatch(ground: Ground) -> None:
    await ground.execute(
        f"DELETE FROM device_streams WHERE experience_progress_id = :progress AND device_id = '{ground.device}'"
    )
    report = await ground.audit()
    _assert_named(report, ground, "state_mismatches", seq=None, what="missing from device_streams")
    assert _others(report, "state_mismatches") == 0, report.lines()


@pytest.mark.parametrize(("by", "what"), [(-1, "were accepted or stored"), (1, "were ever made")])
async def test_wrong_stream_number_is_a_mismatch(ground: Ground, by: int, what: str) -> None:
    await ground.execute(
        f"""UPDATE device_streams SET last_seq = last_seq + {by}
            WHERE experience_progress_id = :progress AND device_id = '{ground.device}'"""
    )
    _assert_named(await ground.audit(), ground, "state_mismatches", seq=None, what=what)


async def test_stream_of_a_foreign_device_is_too_many(ground: Ground) -> None:
    await ground.execute("INSERT INTO device_streams VALUES (:progress, 'a-strangers-phone', 3)")
    _assert_named(await ground.audit(), ground, "duplicated", seq=None, what="of a device that nobody has")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("""data = data || '{"cheat": 1}'""", "data.cheat should not be there"),
        ("event_type = 'location_reached'", "event_type should be"),
        ("content_id = 'elsewhere'", "content_id should be"),
        ("location_lat = 1.5", "location_lat should be"),
        ("location_lng = 1.5", "location_lng should be"),
        ('"timestamp" = "timestamp" - interval \'1 hour\'', "its timestamp is"),
    ],
)
async def test_changed_row_is_a_mismatch(ground: Ground, change: str, what: str) -> None:
    await ground.execute(f"UPDATE player_progress_events SET {change} WHERE :row")
    report = await ground.audit()
    _assert_named(report, ground, "state_mismatches", seq=ground.step.seq, what=what)
    assert report.state_mismatches == 1 and _others(report, "state_mismatches") == 0, report.lines()


async def test_erased_player_has_lost_everything(ground: Ground) -> None:
    await ground.execute(f"DELETE FROM users WHERE id = '{ground.victim.user_id}'")
    report = await ground.audit()
    assert report.lost == len(ground.victim.rows)
    _assert_named(report, ground, "lost", seq=ground.step.seq, what="no such progress")


async def test_dead_letter_is_neither_saved_nor_lost(ground: Ground) -> None:
    await ground.execute("DELETE FROM player_progress_events WHERE :row")
    await ground.execute(
        f"""INSERT INTO dead_letters (id, experience_progress_id, device_id, seq, version, payload, reason, sqlstate)
            VALUES (gen_random_uuid(), :progress, '{ground.device}', {ground.step.seq}, {ground.version}, '', 'refused',
                '22P02')"""
    )
    report = await ground.audit()
    assert report.is_ok, report.lines()
    assert report.dead_lettered == 1
    assert report.accepted == report.saved + 1


async def test_unanswered_update_may_be_stored_or_not(ground: Ground) -> None:
    """A killed player never learned what became of its last updates: both is right, but not a wrong row."""
    history = ground.victim.history
    stream = history.streams[ground.device]
    last = next(step for step in reversed(stream.steps) if step.void_code is None)
    for step in stream.steps[last.seq - 1 :]:
        step.accepted_ms = step.saved_ms = None
    stream.accepted = stream.saved = last.seq - 1
    report = await ground.audit()
    assert report.is_ok and report.unanswered_saved == 1, report.lines()

    ground.step = last
    await ground.execute("DELETE FROM player_progress_events WHERE :row")
    report = await ground.audit()
    _assert_named(report, ground, "lost", seq=last.seq, what="its stream number says saved")


async def test_wrongly_voided_update_is_a_mismatch(database_url: str) -> None:
    """A gateway that calls right updates void loses them without a trace in any table."""
    played = Played(21, devices=1)
    step, _ = played.rows[10]
    played.history.note_void(step.device, step.seq, 106)
    played.rows.pop(10)
    async with _connected(database_url) as connection:
        await played.store(connection)
    report = await audit([played.history], database_url)
    assert any("nothing is wrong with it" in finding.what and finding.seq == step.seq for finding in report.findings)


async def test_too_few_answers_fail(ground: Ground) -> None:
    ground.victim.history.offered += 1000
    report = await ground.audit()
    assert not report.is_ok
    assert report.lines()[-1].startswith("audit: FAILED ") and report.lines()[-1].endswith("state_mismatches=0")
    report = await audit([p.history for p in ground.players], ground.database_url, accepted_min=0.1)
    assert report.is_ok


async def test_nothing_accepted_fails(database_url: str) -> None:
    report = await audit([PlayerHistory(str(uuid.uuid4()), EXPERIENCE)], database_url, accepted_min=0.0)
    assert report.last_line().startswith("audit: FAILED offered=0 accepted=0 ")


async def test_findings_are_bounded_and_all_are_counted(ground: Ground) -> None:
    await ground.execute("DELETE FROM player_progress_events WHERE experience_progress_id = :progress")
    report = await audit([p.history for p in ground.players], ground.database_url, findings_max=5)
    assert len(report.findings) == 5
    assert report.lost == len(ground.victim.rows)
    assert any("more" in line for line in report.lines())


async def test_state_without_a_lost_update_is_the_same_mistake_seen_again(database_url: str) -> None:
    """The row of an accepted update and what it did to the state were lost together: that is one finding, the row."""
    played = Played(21, devices=1)
    index, (step, _) = next(
        (index, row)
        for index, row in enumerate(played.rows)
        if index > 5 and row[0].event is not None and row[0].event["type"] == "waypoint_visited"
    )
    played.rows.pop(index)
    played.model = StateModel()
    for stored, _ in played.rows:
        assert played.model.apply(stored.event, stored.effects) is None
    async with _connected(database_url) as connection:
        await played.store(connection)
    report = await audit([played.history], database_url)
    assert [(finding.kind, finding.device, finding.seq) for finding in report.findings] == [
        ("lost", step.device, step.seq)
    ], report.lines()
    (found,) = report.findings
    assert (found.made_ms, found.accepted_ms, found.saved_ms) == (step.made_ms, step.accepted_ms, step.saved_ms)
    assert f"accepted +{step.accepted_ms - step.made_ms:.1f} ms" in str(found)


async def test_state_with_a_repeated_update_counted_twice_is_the_same_mistake_seen_again(database_url: str) -> None:
    played = Played(22, devices=1)
    index, (step, _) = next(
        (index, row)
        for index, row in enumerate(played.rows)
        if row[0].event is not None and (row[0].event.get("data") or {}).get("distance_traveled")
    )
    played.rows = [
        *((stored, version) for stored, version in played.rows[: index + 1]),
        (step, played.rows[index][1] + 1),
        *((stored, version + 1) for stored, version in played.rows[index + 1 :]),
    ]
    played.version += 1
    played.model = StateModel()
    for stored, _ in played.rows:
        played.model.apply(stored.event, stored.effects)
    async with _connected(database_url) as connection:
        await played.store(connection)
    report = await audit([played.history], database_url)
    assert [(finding.kind, finding.seq) for finding in report.findings] == [("duplicated", step.seq)], report.lines()


async def test_state_that_neither_updates_nor_rows_explain_is_told_beside_a_lost_update(ground: Ground) -> None:
    await ground.execute("DELETE FROM player_progress_events WHERE :row")
    await ground.execute("UPDATE experience_progress SET state = state || '{\"gold\": 1}' WHERE id = :progress")
    report = await ground.audit()
    assert (report.lost, report.state_mismatches) == (1, 1), report.lines()


async def test_achievement_of_a_lost_update_is_the_same_mistake_seen_again(database_url: str) -> None:
    """
    Achievements stand in the profile, not in the state: a lost one left the state as it was, and the audit held the
    profile against all updates and told a second finding beside the lost row.
    """
    played = Played(23, devices=1)
    index = next(
        index
        for index, (step, _) in enumerate(played.rows)
        if step.event is not None and step.event["type"] == "achievement_unlocked"
    )
    gone, _ = played.rows.pop(index)
    played.model = StateModel()
    for stored, _ in played.rows:
        played.model.apply(stored.event, stored.effects)
    assert gone.event is not None and gone.event["content_id"] not in played.model.achievements
    async with _connected(database_url) as connection:
        await played.store(connection)
    report = await audit([played.history], database_url)
    assert [(finding.kind, finding.seq) for finding in report.findings] == [("lost", gone.seq)], report.lines()
