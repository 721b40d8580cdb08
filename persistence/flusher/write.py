"""
One flush transaction: rows locked, snapshots judged, everything of a progress written or nothing of it.

Promise: what this wrote and committed is in Postgres exactly once, whoever else flushed the same progress before or
meanwhile, because new entries are told from old ones by version under the row lock. A row that Postgres refuses for its
data never holds up another: the batch is halved to find it. An event goes to `dead_letters` and the rest of its
progress is written; a state, session or stream that is refused puts its whole progress aside.

Not here: claiming and settling (flusher.py), what a snapshot means (plan.py).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from persistence.cold.connect import is_refused
from persistence.cold.queries import queries
from persistence.flusher.plan import Copy, Entry, ProgressWrite, Row, Verdict, instant, judge, plan_write
from protocol.entry import SessionBody, UpdateBody


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

    @property
    def updates(self) -> int:
        return sum(len(write.events) for write in self.written)


def pass_by(step: str) -> None:
    """Nobody stops here."""


async def write_copies(
    connection: Any, copies: Sequence[Copy], at_step: Callable[[str], None] = pass_by
) -> WriteReport:
    """Write inside the caller's open transaction. Nothing is true before the caller commits."""
    sql = queries("flush")
    report = WriteReport()
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
        )
        copy = by_id.pop(row.id)
        verdict = judge(copy, row)
        if verdict is Verdict.SAME_HISTORY:
            writes.append(plan_write(copy, row))
        elif verdict is Verdict.POSTGRES_BEHIND:
            report.beyond.append((copy, row))
        else:
            report.unmatched.append((copy, row))
    if by_id:
        present = {record["id"].hex for record in await connection.fetch(sql["list_present_progress"], list(by_id))}
        report.gone = [copy for row_id, copy in by_id.items() if row_id not in present]

    # Profiles come after progress for everybody who locks both, and all at once in id order, so that flushes never wait
    # in a circle.
    await connection.execute(sql["lock_profiles"], sorted({write.row.player_id for write in writes}))

    async def write_progress(some: Sequence[ProgressWrite]) -> None:
        await _write_progress(connection, sql, some)
        await _add_to_profiles(connection, sql, some)

    async def put_aside(write: ProgressWrite, error: BaseException) -> None:
        report.refused.append(Refused(write, _reason(error)))

    await _halve(connection, writes, write_progress, put_aside)
    at_step("progress_written")
    put_aside_ids = {id(refused.write) for refused in report.refused}
    report.written = [write for write in writes if id(write) not in put_aside_ids]

    async def insert_events(some: Sequence[tuple[ProgressWrite, Entry]]) -> None:
        await _insert_events(connection, sql, some)

    async def bury(event: tuple[ProgressWrite, Entry], error: BaseException) -> None:
        await _insert_dead_letter(connection, sql, event, error)
        report.dead_letters += 1

    events = [(write, entry) for write in report.written for entry in write.events]
    await _halve(connection, events, insert_events, bury)
    at_step("events_written")
    return report


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


async def _add_to_profiles(connection: Any, sql: dict[str, str], writes: Sequence[ProgressWrite]) -> None:
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
        if write.is_first or write.playtime_ms or distance:
            gain = gains.setdefault(write.row.player_id, [0, 0, 0])
            gain[0] += int(write.is_first)
            gain[1] += write.playtime_ms
            gain[2] += distance
        if write.achievements:
            achievements.setdefault(write.row.player_id, set()).update(write.achievements)
    if gains:
        rows = [(player_id, *gain) for player_id, gain in sorted(gains.items())]
        await connection.execute(sql["add_to_profiles"], *_columns(rows, 4))
    if achievements:
        as_json = [(player_id, _json_array(names)) for player_id, names in sorted(achievements.items())]
        await connection.execute(sql["add_achievements"], *_columns(as_json, 2))


async def _insert_events(connection: Any, sql: dict[str, str], events: Sequence[tuple[ProgressWrite, Entry]]) -> None:
    rows = []
    for write, entry in events:
        assert isinstance(entry.body, UpdateBody)
        rows.append(event_row(entry.entry_id, write.row.id, entry.version, entry.body))
    await connection.execute(sql["insert_events"], *_columns(rows, 14))


def event_row(entry_id: str, row_id: str, version: int, body: UpdateBody) -> tuple[Any, ...]:
    """An event as the columns of `insert_events`."""
    return (
        entry_id,
        row_id,
        body.event_type,
        body.content_id,
        body.data_json.decode(),
        body.effects_json.decode() if body.effects_json else None,
        body.lat,
        body.lng,
        instant(body.timestamp_ms),
        body.device,
        body.seq,
        version,
        body.session_id,
        instant(body.received_ms),
    )


async def _insert_dead_letter(
    connection: Any, sql: dict[str, str], event: tuple[ProgressWrite, Entry], error: BaseException
) -> None:
    write, entry = event
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
    )


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(count)]


def _json_array(names: set[str]) -> str:
    return json.dumps(sorted(names), ensure_ascii=False)


def _reason(error: BaseException) -> str:
    state = error.sqlstate if isinstance(error, asyncpg.PostgresError) else type(error).__name__
    return f"{state}: {error}"[:500]
