"""
Export: everything that is known about a player, as one JSON document.

Promise: what Postgres says is of one instant, and what Redis says was read just before it: a step that was being saved
meanwhile stands in both, never in none. Memory is bounded, however much there is: rows pass through in small pages.
The keys stand in a fixed order, rows with their columns as the table has them. Tables that this file does not know are
exported as they stand, if they refer to players at all.

Not here: who may ask for it, and what becomes of the text.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from persistence.cold.connect import CONNECT_TIMEOUT_S, POSTGRES_ERRORS
from persistence.cold.queries import queries
from persistence.errors import PlayerUnknown, StoreUnavailable
from persistence.flusher.plan import StoredFields, parse_snapshot
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey
from protocol.entry import SessionBody, UpdateBody, decode_body
from protocol.state import document

FORMAT: Final = 1
"""Rises when a key changes its meaning or goes. New keys may come without."""

PAGE_ROWS: Final = 200
COMMAND_TIMEOUT_S: Final = 60.0
"""Of one page. A long history is many of them."""

KNOWN_TABLES: Final = frozenset(
    {
        *("player_profiles", "player_sessions", "experience_progress", "device_streams", "player_progress_events"),
        *("dead_letters", "player_days", "content_player_days"),
    }
)
"""Tables about players that have a key of their own in an export."""


async def export_player(hot: HotStore, database_url: str, user_id: str) -> AsyncGenerator[str, None]:
    """
    The document in pieces of text. Read to the end, or close it (`aclosing`): it holds a connection.

    Raises:
        PlayerUnknown: nothing is known of this player (before the first piece).
        StoreUnavailable: a store did not answer; what came so far is no document.
    """
    sql = queries("export")
    try:
        connection: Any = await asyncpg.connect(
            database_url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings={"application_name": "wayhold-export", "timezone": "UTC"},
        )
        try:
            if await connection.fetchval(sql["find_exported_user"], user_id) is None:
                raise PlayerUnknown(user_id)
            experiences = [
                row["experience_id"] for row in await connection.fetch(sql["list_exported_progress"], user_id)
            ]
            head = {"format": FORMAT, "kind": "wayhold player export", "player": user_id, "exported_at": _now()}
            yield json.dumps(head, indent=1)[:-2]
            async for piece in _redis(hot, user_id, experiences):
                yield piece
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                async for piece in _postgres(connection, sql, user_id):
                    yield piece
            yield "\n}\n"
        finally:
            connection.terminate()
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "export_player", error or type(error).__name__) from error


async def _redis(hot: HotStore, user_id: str, experiences: list[str]) -> AsyncGenerator[str, None]:
    """What is going on, and what Postgres does not have yet. One experience at a time: each is bounded."""
    session = await hot.find_session(user_id)
    shown = None
    if session is not None:
        shown = {
            "id": session.id,
            "experience": session.experience,
            "device": session.device,
            "started_at": _instant(session.started_ms),
            "last_activity": _instant(session.last_activity_ms),
            "claims": _json_or_text(session.claims),
        }
    yield f',\n "redis": {{\n  "session": {_dump(shown)},\n  "progress": ['
    is_first = True
    for experience in experiences:
        for snapshot in await hot.snapshot([ProgressKey(user_id, experience)]):
            yield "\n   " if is_first else ",\n   "
            is_first = False
            copy = parse_snapshot(snapshot)
            streams = {
                field: {
                    name[len(field) + 1 :].decode(): int(held)
                    for name, held in sorted(snapshot.hash.items())
                    if name.startswith(field.encode() + b":")
                }
                for field in ("accepted", "saved")
            }
            facts = {
                "experience": experience,
                "version": copy.version,
                "saved_version": copy.base_version,
                **streams,
                "state": document(StoredFields(copy.stored)),
                "pending": [
                    {"version": entry.version, "void_code": entry.void_code or None, **_shown_body(entry.body)}
                    for entry in copy.entries
                ],
            }
            yield _dump(facts)
    yield "]" if is_first else "\n  ]"
    pushes = await hot.list_pushes(user_id, session.id, 0) if session is not None else None
    shown_pushes = [
        {"n": push.n, "after": push.after, "version": push.version, "message": _json_or_text(push.body)}
        for push in (pushes.pushes if pushes is not None else [])
    ]
    yield f',\n  "pushes": {_dump(shown_pushes)}}}'


async def _postgres(connection: Any, sql: dict[str, str], user_id: str) -> AsyncGenerator[str, None]:
    yield f',\n "user": {await connection.fetchval(sql["find_exported_user"], user_id) or "null"}'
    yield f',\n "profile": {await connection.fetchval(sql["find_exported_profile"], user_id) or "null"}'
    async for piece in _list("sessions", connection.cursor(sql["list_exported_sessions"], user_id, prefetch=PAGE_ROWS)):
        yield piece
    yield ',\n "progress": ['
    progress_ids = [row["id"] for row in await connection.fetch(sql["list_exported_progress"], user_id)]
    for number, progress_id in enumerate(progress_ids):
        row = await connection.fetchval(sql["find_exported_progress"], progress_id)
        yield ("," if number else "") + "\n" + row.rstrip()[:-1]
        for name, query in (
            ("streams", "list_exported_streams"),
            ("events", "list_exported_events"),
            ("days", "list_exported_days"),
            ("content_days", "list_exported_content_days"),
        ):
            async for piece in _list(name, connection.cursor(sql[query], progress_id, prefetch=PAGE_ROWS)):
                yield piece
        letters = connection.cursor(sql["list_exported_dead_letters"], progress_id, prefetch=PAGE_ROWS)
        async for piece in _list("dead_letters", letters, _shown_letter):
            yield piece
        yield "}"
    yield "\n ]"
    yield ',\n "tables": {'
    async for piece in _other_tables(connection, sql, user_id):
        yield piece
    yield "\n }"


async def _other_tables(connection: Any, sql: dict[str, str], user_id: str) -> AsyncGenerator[str, None]:
    """Tables that others have added, by whatever they call a player."""
    # As the column's own type, so that an index on it serves.
    conditions = {
        "user_id": "t.user_id = $1::text::{type}",
        "player_id": "t.player_id IN (SELECT f.id::{type} FROM player_profiles f WHERE f.user_id = $1::text::uuid)",
        "experience_progress_id": "t.experience_progress_id IN (SELECT p.id::{type} FROM experience_progress p"
        " JOIN player_profiles f ON f.id = p.player_id WHERE f.user_id = $1::text::uuid)",
    }
    wanted: dict[str, list[str]] = {}
    for row in await connection.fetch(sql["list_player_columns"]):
        if row["table_name"] not in KNOWN_TABLES:
            condition = conditions[row["column_name"]].format(type=row["column_type"])
            wanted.setdefault(row["table_name"], []).append(condition)
    for number, (table, some) in enumerate(wanted.items()):
        # Names come from the catalogue of the database, not from anybody who asks.
        quoted = '"' + table.replace('"', '""') + '"'
        query = f"SELECT row_to_json(t)::text FROM {quoted} t WHERE {' OR '.join(some)} ORDER BY 1"
        comma = "," if number else ""
        async for piece in _list(table, connection.cursor(query, user_id, prefetch=PAGE_ROWS), comma=comma):
            yield piece


async def _list(name: str, cursor: Any, show: Any = None, *, comma: str = ",") -> AsyncGenerator[str, None]:
    """`"name": [row, row]`, a line for each row."""
    yield f"{comma}\n  {_dump(name)}: ["
    is_first = True
    async for row in cursor:
        text = row[0] if show is None else show(row)
        yield ("\n   " if is_first else ",\n   ") + text
        is_first = False
    yield "]"


def _shown_letter(row: Any) -> str:
    facts = json.loads(row["row"])
    try:
        facts["entry"] = _shown_body(decode_body(row["payload"]))
    except ValueError:
        facts["payload_hex"] = row["payload"].hex()
    return _dump(facts)


def _shown_body(body: UpdateBody | SessionBody) -> dict[str, Any]:
    """An entry in the words of the tables it is on its way to."""
    if isinstance(body, SessionBody):
        return {
            "kind": "session",
            "session_id": body.session_id,
            "device_id": body.device,
            "started_at": _instant(body.started_ms),
            "ended_at": _instant(body.ended_ms) if body.ended_ms else None,
            "end_reason": body.end_reason or None,
        }
    return {
        "kind": "update",
        "event_type": body.event_type,
        "content_id": body.content_id,
        "data": _json_or_text(body.data_json),
        "effects": _json_or_text(body.effects_json) if body.effects_json else None,
        "location_lat": body.lat,
        "location_lng": body.lng,
        "timestamp": _instant(body.timestamp_ms),
        "device_id": body.device,
        "seq": body.seq,
        "session_id": body.session_id,
        "received_at": _instant(body.received_ms),
    }


def _json_or_text(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text if isinstance(text, str) else text.decode("utf-8", "replace")


def _dump(facts: Any) -> str:
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
