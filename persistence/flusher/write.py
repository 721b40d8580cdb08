"""
One flush transaction: rows locked, snapshots judged, everything of a progress written or nothing of it.

Promise: what this wrote and committed is in Postgres exactly once, whoever else flushed the same progress before or
meanwhile, because new entries are told from old ones by version under the row lock. A row that Postgres refuses for its
data never holds up another: the batch is halved to find it. An event goes to `dead_letters` and the rest of its
progress is written; a state, session or stream that is refused puts its whole progress aside.

Everybody locks in one order, so that nobody waits in a circle: progress (skipping what somebody else holds), profiles,
new contents, rollups; within each by key.

Not here: claiming and settling (lane.py), what a snapshot means (plan.py), how rollups add up (rollups.py).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from persistence.cold.connect import is_refused
from persistence.cold.queries import queries
from persistence.flusher.completion import find_completed_at
from persistence.flusher.contents import Content, ContentIds
from persistence.flusher.event_rows import RowRefused, copy_events, encode_event
from persistence.flusher.levels import LevelRule
from persistence.flusher.plan import Copy, Entry, ProgressWrite, Row, Verdict, instant, judge, plan_write
from persistence.flusher.rollups import Rollups, list_contents
from protocol.entry import SessionBody, UpdateBody
from protocol.experience import ExperienceDefinition


@dataclass(slots=True)
class Bookkeeping:
    """
    What a write needs beside the copies. `shard`: where this connection adds to hourly rollups; `contents` is shared by
    all connections of a process; experiences without a definition are played as they are sent.
    """

    shard: int = 0
    contents: ContentIds = field(default_factory=ContentIds)
    levels: LevelRule = field(default_factory=LevelRule)
    experiences: Mapping[str, ExperienceDefinition] = field(default_factory=dict)


MESSAGE_CHARS_MAX = 500


@dataclass(slots=True)
class Refused:
    """A progress that Postgres refuses, and what it said."""

    write: ProgressWrite
    reason: str


@dataclass(slots=True)
class WriteReport:
    """What became of each copy that was handed in; those in no list were locked by another flusher and stay claimed."""

    written: list[ProgressWrite] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    unmatched: list[tuple[Copy, Row]] = field(default_factory=list)
    beyond: list[tuple[Copy, Row]] = field(default_factory=list)
    gone: list[Copy] = field(default_factory=list)
    dead_letters: int = 0
    contents: dict[Content, int] = field(default_factory=dict)
    """To be remembered once this is committed."""

    @property
    def updates(self) -> int:
        return sum(len(write.events) for write in self.written)


def pass_by(step: str) -> None:
    """Nobody stops here."""


async def write_copies(
    connection: Any,
    copies: Sequence[Copy],
    at_step: Callable[[str], None] = pass_by,
    books: Bookkeeping | None = None,
) -> WriteReport:
    """Write inside the caller's open transaction. Nothing is true before the caller commits."""
    books = books or Bookkeeping()
    sql = queries("flush")
    report = WriteReport()
    writes = await _lock_and_judge(connection, sql, copies, books, report, at_step)

    # Profiles come after progress for everybody who locks both, and all at once in id order, so that flushes never wait
    # in a circle.
    await connection.execute(sql["lock_profiles"], sorted({write.row.player_id for write in writes}))

    async def write_progress(some: Sequence[ProgressWrite]) -> None:
        await _write_progress(connection, sql, some)
        await _add_to_profiles(connection, sql, some, books.levels)

    async def put_aside(write: ProgressWrite, error: BaseException) -> None:
        report.refused.append(Refused(write, _reason(error)))

    await _halve(connection, writes, write_progress, put_aside)
    at_step("progress_written")
    put_aside_ids = {id(refused.write) for refused in report.refused}
    report.written = [write for write in writes if id(write) not in put_aside_ids]

    inserted = await _write_events(connection, sql, report)
    at_step("events_written")
    await _mark_actions(connection, report.written)
    if inserted:
        await _write_rollups(connection, inserted, books, report)
    at_step("rollups_written")
    return report


async def _lock_and_judge(
    connection: Any,
    sql: dict[str, str],
    copies: Sequence[Copy],
    books: Bookkeeping,
    report: WriteReport,
    at_step: Callable[[str], None],
) -> list[ProgressWrite]:
    """Lock what nobody else holds; what to write of it. Everything that is not written is in the report."""
    by_id = {copy.row_id: copy for copy in copies}
    locked = await connection.fetch(sql["lock_progress"], list(by_id))
    at_step("locked")
    writes = []
    for record in locked:
        row = Row(
            id=record["id"].hex,
            player_id=record["player_id"].hex,
            version=record["version"],
            last_entry=record["last_entry"].hex,
            last_update_at=record["last_update_at"],
            distance_micrometers=record["distance_micrometers"],
            is_completed=record["is_completed"],
        )
        copy = by_id.pop(row.id)
        verdict = judge(copy, row)
        if verdict is Verdict.SAME_HISTORY:
            writes.append(plan_write(copy, row, books.experiences.get(copy.key.experience)))
        elif verdict is Verdict.POSTGRES_BEHIND:
            report.beyond.append((copy, row))
        else:
            report.unmatched.append((copy, row))
    if by_id:
        present = {record["id"].hex for record in await connection.fetch(sql["list_present_progress"], list(by_id))}
        report.gone = [copy for row_id, copy in by_id.items() if row_id not in present]
    unclear = {w.row.id: w for w in writes if w.is_complete_by_state or w.may_have_been_complete}
    if unclear:
        for record in await connection.fetch(sql["find_states"], list(unclear)):
            write = unclear[record["id"].hex]
            write.completed_at = find_completed_at(
                record["state"],
                record["kinds"],
                write.events,
                books.experiences[write.key.experience],
                is_complete=write.is_complete_by_state,
            )
    return writes


async def _halve(
    connection: Any,
    items: Sequence[Any],
    write: Callable[[Sequence[Any]], Awaitable[None]],
    refuse: Callable[[Any, BaseException], Awaitable[None]],
) -> None:
    """Write all at once; if a row is refused, halve until it stands alone. Savepoints keep the transaction."""
    if not items:
        return
    try:
        async with connection.transaction():
            await write(items)
        return
    except Exception as error:
        if not is_refused(error):
            raise
        if len(items) == 1:
            await refuse(items[0], error)
            return
    middle = len(items) // 2
    await _halve(connection, items[:middle], write, refuse)
    await _halve(connection, items[middle:], write, refuse)


async def _write_progress(connection: Any, sql: dict[str, str], writes: Sequence[ProgressWrite]) -> None:
    changed = [w for w in writes if w.version > w.row.version]
    if not changed:
        return
    await connection.execute(
        sql["update_progress"],
        [w.row.id for w in changed],
        [w.version for w in changed],
        [w.last_entry for w in changed],
        [w.state_json for w in changed],
        [w.kinds_json for w in changed],
        [w.current_location for w in changed],
        [w.distance_micrometers for w in changed],
        [w.playtime_ms for w in changed],
        [w.last_update_at for w in changed],
        [w.first_at for w in changed],
        [w.last_at for w in changed],
        [w.completed_at for w in changed],
        [w.completion for w in changed],
    )
    streams = sorted((w.row.id, device, seq) for w in changed for device, seq in w.streams.items())
    if streams:
        await connection.execute(sql["upsert_device_streams"], *_columns(streams, 3))
    sessions: dict[str, SessionBody] = {}
    for write in changed:
        for s in write.sessions:
            known = sessions.get(s.session_id)
            if known is None or s.ended_ms:
                sessions[s.session_id] = s
    if sessions:
        rows = [
            (
                s.session_id,
                s.user_id,
                s.experience,
                s.device,
                instant(s.started_ms),
                instant(s.ended_ms) if s.ended_ms else None,
                s.end_reason if s.ended_ms else None,
            )
            for _, s in sorted(sessions.items())
        ]
        await connection.execute(sql["upsert_sessions"], *_columns(rows, 7))
    playtime: dict[str, int] = {}
    for write in changed:
        for session_id, ms in write.session_playtime_ms.items():
            playtime[session_id] = playtime.get(session_id, 0) + ms
    if playtime:
        await connection.execute(sql["add_session_playtime"], *_columns(sorted(playtime.items()), 2))


async def _add_to_profiles(
    connection: Any, sql: dict[str, str], writes: Sequence[ProgressWrite], levels: LevelRule
) -> None:
    """
    Profiles come after progress for everybody who locks both, and in id order, so that flushes never wait in a
    circle.
    """
    gains: dict[str, list[int]] = {}
    achievements: dict[str, set[str]] = {}
    for write in writes:
        if write.version == write.row.version:
            continue
        distance = write.distance_micrometers - write.row.distance_micrometers
        if write.is_first or write.playtime_ms or distance or write.achievements:
            gain = gains.setdefault(write.row.player_id, [0, 0, 0])
            gain[0] += int(write.is_first)
            gain[1] += write.playtime_ms
            gain[2] += distance
        if write.achievements:
            achievements.setdefault(write.row.player_id, set()).update(write.achievements)
    # Achievements first: the level counts them.
    if achievements:
        as_json = [(player_id, list_achievements_json(names)) for player_id, names in sorted(achievements.items())]
        await connection.execute(sql["add_achievements"], *_columns(as_json, 2))
    if gains:
        rows = [(player_id, *gain) for player_id, gain in sorted(gains.items())]
        await connection.execute(sql["add_to_profiles"], *_columns(rows, 4), *levels.as_arguments())


async def _write_events(
    connection: Any, sql: dict[str, str], report: WriteReport
) -> list[tuple[ProgressWrite, list[tuple[UpdateBody, int]]]]:
    """Append the events of what was written; those that were really inserted, by progress."""
    rows: list[tuple[bytes, ProgressWrite, Entry]] = []
    left_out: set[int] = set()

    async def bury(write: ProgressWrite, entry: Entry, error: BaseException) -> None:
        left_out.add(id(entry))
        # A row with this key is there: these entries were written before. Nothing is missing and nothing counts twice.
        if not isinstance(error, asyncpg.UniqueViolationError):
            await _insert_dead_letter(connection, sql, write, entry, error)
            report.dead_letters += 1

    async def copy(some: Sequence[tuple[bytes, ProgressWrite, Entry]]) -> None:
        await copy_events(connection, [row for row, _, _ in some])

    async def refuse(row: tuple[bytes, ProgressWrite, Entry], error: BaseException) -> None:
        await bury(row[1], row[2], error)

    for write in report.written:
        progress_id = bytes.fromhex(write.row.id)
        for entry in write.events:
            assert isinstance(entry.body, UpdateBody)
            try:
                row = encode_event(entry.entry_id, progress_id, entry.version, entry.playtime_ms, entry.body)
            except RowRefused as error:
                await bury(write, entry, error)
            else:
                rows.append((row, write, entry))
    await _halve(connection, rows, copy, refuse)
    inserted: list[tuple[ProgressWrite, list[tuple[UpdateBody, int]]]] = []
    for write in report.written:
        events = [
            (entry.body, entry.playtime_ms)
            for entry in write.events
            if isinstance(entry.body, UpdateBody) and (not left_out or id(entry) not in left_out)
        ]
        if events:
            inserted.append((write, events))
    return inserted


async def _write_rollups(
    connection: Any,
    inserted: Sequence[tuple[ProgressWrite, list[tuple[UpdateBody, int]]]],
    books: Bookkeeping,
    report: WriteReport,
) -> None:
    wanted: set[Content] = set()
    for write, events in inserted:
        wanted |= list_contents(write.key.experience, events)
    report.contents = await books.contents.find_or_make(connection, wanted)
    rollups = Rollups()
    for write, events in inserted:
        last_at = write.row.last_update_at
        last_ms = None if last_at is None else round(last_at.timestamp() * 1000)
        rollups.add(write.key.experience, write.row.id, events, report.contents, last_ms)
    await rollups.write(connection, books.shard)


async def _mark_actions(connection: Any, writes: Sequence[ProgressWrite]) -> None:
    """Operators' actions among the entries: they are done when this commits."""
    actions = sorted((action for write in writes for action in write.actions), key=lambda action: action.id)
    if actions:
        await connection.execute(
            queries("actions")["mark_actions"],
            [action.id for action in actions],
            ["done" if action.refusal is None else "refused" for action in actions],
            [None if action.refusal is None else action.refusal[:MESSAGE_CHARS_MAX] for action in actions],
            [json.dumps({"version": action.version}) for action in actions],
        )


async def _insert_dead_letter(
    connection: Any, sql: dict[str, str], write: ProgressWrite, entry: Entry, error: BaseException
) -> None:
    body = entry.body
    assert isinstance(body, UpdateBody)
    await connection.execute(
        sql["insert_dead_letter"],
        entry.entry_id,
        write.row.id,
        body.device,
        body.seq,
        entry.version,
        entry.payload,
        _reason(error),
        getattr(error, "sqlstate", None) or "",
        entry.playtime_ms,
    )


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(count)]


def list_achievements_json(names: set[str]) -> str:
    """As `stats.achievements` holds them: a sorted array."""
    return json.dumps(sorted(names), ensure_ascii=False)


def _reason(error: BaseException) -> str:
    state = error.sqlstate if isinstance(error, asyncpg.PostgresError) else type(error).__name__
    return f"{state}: {error}"[:500]
