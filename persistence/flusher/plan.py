"""
What a snapshot means for the row that Postgres has: pure decisions, no I/O.

A snapshot whose entries contain Postgres's last entry at its version has the same history (the match that Raft makes on
its log); then everything after that entry is new and the snapshot's state is the next state. Anything else says nothing
about what to write, and proves nothing about the copy: see `Verdict`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from persistence.hot.store import Settlement, Snapshot
from persistence.progress_key import ProgressKey
from protocol.entry import SessionBody, UpdateBody, decode_body
from protocol.limits import COUNTER_SCALE
from protocol.state import join_state

PLAYTIME_GAP_MAX_MS = 60_000
"""A pause longer than this between two updates is not played time, it is counted as this much."""

LOCATION_CHARS_MAX = 255


class Verdict(Enum):
    """How a snapshot stands to the row."""

    SAME_HISTORY = auto()
    NO_MATCH = auto()  # Postgres's last entry is not in it: ask Redis again, against the copy that is there now
    POSTGRES_BEHIND = auto()  # its base was saved once and is gone: Postgres lost commits
    OTHER_ROW = auto()  # it belongs to a row that was erased


@dataclass(slots=True)
class Entry:
    """One element of a pending list, taken apart. `void_code` 0: it has an effect."""

    version: int
    entry_id: str
    void_code: int
    size: int
    payload: bytes
    body: UpdateBody | SessionBody


@dataclass(slots=True)
class Row:
    """A progress row as the flush locked it."""

    id: str
    player_id: str
    version: int
    last_entry: str
    last_update_at: datetime | None
    distance_micrometers: int


@dataclass(slots=True)
class Copy:
    """A snapshot, taken apart."""

    key: ProgressKey
    copy: str
    row_id: str
    version: int
    base_version: int
    base_id: str
    fields: dict[str, bytes]
    entries: list[Entry]
    entries_bytes: int


@dataclass(slots=True)
class ProgressWrite:
    """Everything that one progress contributes to a flush."""

    key: ProgressKey
    copy: str
    row: Row
    version: int
    last_entry: str
    state_json: str
    kinds_json: str
    current_location: str | None
    distance_micrometers: int
    playtime_ms: int
    last_update_at: datetime | None
    first_at: datetime | None
    last_at: datetime | None
    completed_at: datetime | None
    streams: dict[str, int]
    events: list[Entry]
    sessions: list[SessionBody]
    session_playtime_ms: dict[str, int]
    achievements: list[str]
    voids: list[str]

    @property
    def is_first(self) -> bool:
        """True when this flush is the first that the progress gets: the player's profile counts one experience more."""
        return self.row.version == 0

    def settlement(self) -> Settlement:
        return Settlement(self.key, self.version, self.last_entry, self.streams, self.voids)


def parse_snapshot(snapshot: Snapshot) -> Copy:
    """Raises ValueError when an entry is not one that we wrote."""
    h = snapshot.hash
    entries = [parse_entry(raw) for raw in snapshot.entries]
    return Copy(
        key=snapshot.key,
        copy=h[b"copy"].decode(),
        row_id=h[b"row"].decode(),
        version=int(h[b"version"]),
        base_version=int(h[b"base_version"]),
        base_id=h[b"base_id"].decode(),
        fields={name.decode(): value for name, value in h.items() if name[1:2] == b":"},
        entries=entries,
        entries_bytes=sum(entry.size for entry in entries),
    )


def parse_entry(raw: bytes) -> Entry:
    version, entry_id, _offset, _accepted_ms, void_code, payload = raw.split(b" ", 5)
    return Entry(int(version), entry_id.decode(), int(void_code), len(raw), payload, decode_body(payload))


def judge(copy: Copy, row: Row) -> Verdict:
    """The log match. Entry 0 of a progress is its row id, so a copy of an erased row never matches a new one."""
    if copy.row_id != row.id:
        return Verdict.OTHER_ROW
    if copy.base_version > row.version:
        return Verdict.POSTGRES_BEHIND
    at = copy.base_id
    if row.version > copy.base_version:
        index = row.version - copy.base_version - 1
        if index >= len(copy.entries):
            return Verdict.NO_MATCH
        at = copy.entries[index].entry_id
    return Verdict.SAME_HISTORY if at == row.last_entry else Verdict.NO_MATCH


def plan_write(copy: Copy, row: Row) -> ProgressWrite:
    """
    What to write for a copy of the same history. What Postgres has already is settled again, and written not at
    all.
    """
    streams: dict[str, int] = {}
    voids: list[str] = []
    write = ProgressWrite(
        key=copy.key,
        copy=copy.copy,
        row=row,
        version=copy.version,
        last_entry=copy.entries[-1].entry_id if copy.entries else copy.base_id,
        state_json="",
        kinds_json="",
        current_location=None,
        distance_micrometers=int(copy.fields.get("c:distance_meters", b"0")) * (1_000_000 // COUNTER_SCALE),
        playtime_ms=0,
        last_update_at=None,
        first_at=None,
        last_at=None,
        completed_at=None,
        streams=streams,
        events=[],
        sessions=[],
        session_playtime_ms={},
        achievements=[],
        voids=voids,
    )
    last_ms = None if row.last_update_at is None else round(row.last_update_at.timestamp() * 1000)
    for entry in copy.entries:
        body = entry.body
        is_new = entry.version > row.version
        if isinstance(body, SessionBody):
            if is_new:
                write.sessions.append(body)
                _played_at(write, instant(body.ended_ms or body.started_ms))
            continue
        streams[body.device] = max(streams.get(body.device, 0), body.seq)
        if entry.void_code:
            voids.append(f"void:{body.seq}:{body.device}")
            continue
        if not is_new:
            continue
        write.events.append(entry)
        at = instant(body.timestamp_ms)
        _played_at(write, at)
        if last_ms is not None:
            gap_ms = min(max(body.timestamp_ms - last_ms, 0), PLAYTIME_GAP_MAX_MS)
            if gap_ms:
                write.playtime_ms += gap_ms
                write.session_playtime_ms[body.session_id] = write.session_playtime_ms.get(body.session_id, 0) + gap_ms
        last_ms = body.timestamp_ms
        write.last_update_at = at
        if body.event_type == "experience_completed" and write.completed_at is None:
            write.completed_at = at
        elif body.event_type == "achievement_unlocked" and body.content_id:
            write.achievements.append(body.content_id)
    write.state_json, write.kinds_json = join_state(copy.fields)
    write.current_location = _location(copy.fields.get("v:current_location"))
    return write


def instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _played_at(write: ProgressWrite, at: datetime) -> None:
    write.first_at = at if write.first_at is None else min(write.first_at, at)
    write.last_at = at if write.last_at is None else max(write.last_at, at)


def _location(value: bytes | None) -> str | None:
    """The column holds what fits it; the state holds whatever the client said."""
    if value is None:
        return None
    parsed: Any = json.loads(value)
    return parsed if isinstance(parsed, str) and len(parsed) <= LOCATION_CHARS_MAX else None
