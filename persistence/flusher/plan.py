"""
What a snapshot means for the row that Postgres has: pure decisions, no I/O.

A snapshot whose entries contain Postgres's last entry at its version has the same history (the match that Raft makes on
its log); then everything after that entry is new and the snapshot's state is the next state. Anything else says nothing
about what to write, and proves nothing about the copy: see `Verdict`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from persistence.hot.store import Settlement, Snapshot
from persistence.progress_key import ProgressKey
from protocol.entry import OPERATOR_EDIT, SessionBody, UpdateBody, decode_body
from protocol.experience import CompletionRule, ExperienceDefinition, completion_percentage
from protocol.limits import COUNTER_SCALE, OPS_DEVICE
from protocol.state import join_stored
from protocol.values import quoted

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
    playtime_ms: int = 0
    """What it adds to the playtime; known once the write is planned."""


@dataclass(slots=True)
class SavedAction:
    """What became of an operator's action: as which entry it is saved, or why it has no effect."""

    id: str
    version: int
    refusal: str | None


@dataclass(slots=True)
class Row:
    """A progress row as the flush locked it."""

    id: str
    player_id: str
    version: int
    last_entry: str
    last_update_at: datetime | None
    distance_micrometers: int
    is_completed: bool = False


class StoredFields(Mapping[str, bytes]):
    """
    The flat fields of a state, looked up in the hash that holds them: whoever asks for a few need not have hundreds
    decoded. The hash's own names are no fields.
    """

    __slots__ = ("_stored",)

    def __init__(self, stored: Mapping[bytes, bytes]) -> None:
        self._stored = stored

    def __getitem__(self, field: str) -> bytes:
        if field[1:2] != ":":
            raise KeyError(field)
        return self._stored[field.encode()]

    def __iter__(self) -> Iterator[str]:
        return (name.decode() for name in self._stored if name[1:2] == b":")

    def __len__(self) -> int:
        return sum(name[1:2] == b":" for name in self._stored)


@dataclass(slots=True)
class Copy:
    """A snapshot, taken apart."""

    key: ProgressKey
    copy: str
    row_id: str
    version: int
    base_version: int
    base_id: str
    stored: Mapping[bytes, bytes]
    """The hash in Redis, with the state as flat fields among its own."""
    state_json: str
    kinds_json: str
    entries: list[Entry]
    entries_bytes: int
    refusals: dict[int, str] = field(default_factory=dict)
    """Why operators' actions among the entries have no effect, by version."""


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
    completion: float | None
    """Percentage by the experience's definition; None without one."""
    is_complete_by_state: bool
    """The state is complete and was not before: when that happened has to be looked for (completion.py)."""
    may_have_been_complete: bool
    """The state is not complete, but something was taken away: it may have been in between (completion.py)."""
    streams: dict[str, int]
    events: list[Entry]
    sessions: list[SessionBody]
    session_playtime_ms: dict[str, int]
    achievements: list[str]
    voids: list[str]
    actions: list[SavedAction]
    fields: StoredFields
    """The state as flat fields, at `version`."""

    @property
    def is_first(self) -> bool:
        """True when this flush is the first that the progress gets: the player's profile counts one experience more."""
        return self.row.version == 0

    def settlement(self) -> Settlement:
        return Settlement(self.key, self.version, self.last_entry, self.streams, self.voids)


def parse_snapshot(snapshot: Snapshot) -> Copy:
    """Raises ValueError when an entry is not one that we wrote, or the state one that no op could have made."""
    h, head = snapshot.hash, snapshot.head
    state_json, kinds_json = join_stored(h)
    entries = [parse_entry(raw) for raw in snapshot.entries]
    return Copy(
        key=snapshot.key,
        copy=h[b"copy"].decode(),
        row_id=h[b"row"].decode(),
        version=head.version,
        base_version=head.base_version,
        base_id=h[b"base_id"].decode(),
        stored=h,
        state_json=state_json,
        kinds_json=kinds_json,
        entries=entries,
        entries_bytes=sum(entry.size for entry in entries),
        refusals={
            entry.version: h.get(b"void:%d:ops" % entry.body.seq, b"%d" % entry.void_code).decode()
            for entry in entries
            if entry.void_code and isinstance(entry.body, UpdateBody) and entry.body.device == OPS_DEVICE
        },
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


def plan_write(copy: Copy, row: Row, definition: ExperienceDefinition | None = None) -> ProgressWrite:
    """
    What to write for a copy of the same history. What Postgres has already is settled again, and written not at
    all.
    """
    streams: dict[str, int] = {}
    voids: list[str] = []
    fields = StoredFields(copy.stored)
    write = ProgressWrite(
        key=copy.key,
        copy=copy.copy,
        row=row,
        version=copy.version,
        last_entry=copy.entries[-1].entry_id if copy.entries else copy.base_id,
        state_json="",
        kinds_json="",
        current_location=None,
        distance_micrometers=int(copy.stored.get(b"c:distance_meters", b"0")) * (1_000_000 // COUNTER_SCALE),
        playtime_ms=0,
        last_update_at=None,
        first_at=None,
        last_at=None,
        completed_at=None,
        completion=None,
        is_complete_by_state=False,
        may_have_been_complete=False,
        streams=streams,
        events=[],
        sessions=[],
        session_playtime_ms={},
        achievements=[],
        voids=voids,
        actions=[],
        fields=fields,
    )
    last_ms = None if row.last_update_at is None else round(row.last_update_at.timestamp() * 1000)
    played_ms: list[int] = []
    is_completed_by_event = definition is None or definition.completion is None or definition.completion.by_event
    for entry in copy.entries:
        body = entry.body
        is_new = entry.version > row.version
        if isinstance(body, SessionBody):
            if is_new:
                write.sessions.append(body)
                played_ms.append(body.ended_ms or body.started_ms)
            continue
        if body.seq > streams.get(body.device, 0):
            streams[body.device] = body.seq
        is_action = body.device == OPS_DEVICE
        if is_action and is_new:
            write.actions.append(SavedAction(body.session_id, entry.version, copy.refusals.get(entry.version)))
        if entry.void_code:
            voids.append(f"void:{body.seq}:{body.device}")
            continue
        if not is_new:
            continue
        write.events.append(entry)
        if is_action and body.event_type == OPERATOR_EDIT:
            continue  # nothing that the player did
        at_ms = body.timestamp_ms
        played_ms.append(at_ms)
        if last_ms is not None and at_ms > last_ms:
            entry.playtime_ms = gap_ms = min(at_ms - last_ms, PLAYTIME_GAP_MAX_MS)
            write.playtime_ms += gap_ms
            if not is_action:
                write.session_playtime_ms[body.session_id] = write.session_playtime_ms.get(body.session_id, 0) + gap_ms
        last_ms = at_ms
        if body.event_type == "experience_completed":
            if write.completed_at is None and is_completed_by_event:
                write.completed_at = instant(at_ms)
        elif body.event_type == "achievement_unlocked" and body.content_id:
            write.achievements.append(body.content_id)
    if played_ms:
        write.first_at, write.last_at = instant(min(played_ms)), instant(max(played_ms))
    if write.events:
        write.last_update_at = None if last_ms is None else instant(last_ms)
    if copy.version > row.version:
        write.state_json, write.kinds_json = copy.state_json, copy.kinds_json
        write.current_location = _location(copy.stored.get(b"v:current_location"))
        if definition is not None and definition.completion is not None:
            write.completion = completion_percentage(definition, fields)
            if not row.is_completed:
                write.is_complete_by_state = write.completion >= 100.0
                write.may_have_been_complete = write.completion < 100.0 and _may_have_been_complete(
                    definition.completion, fields, write.events
                )
    return write


# Canonical JSON of effects that make a set or a counter smaller, and of some others; what events imply takes nothing
# away that a rule for completion may ask for.
_TAKES_AWAY = re.compile(rb'"op":"(?:remove|unset)"|"value":-')


def _may_have_been_complete(rule: CompletionRule, fields: Mapping[str, bytes], events: list[Entry]) -> bool:
    """
    Whether all that is missing now may have been there in between: then these events name each of it as they take it
    away. Nearly always something is missing that they do not name, and the state from before need not be read.
    """
    takers: list[bytes] = []
    for entry in events:
        body = entry.body
        assert isinstance(body, UpdateBody)
        effects = body.effects_json or body.data_json
        if _TAKES_AWAY.search(effects) is not None:
            takers.append(effects)
    if not takers:
        return False
    missing = [member.partition(".")[2] for member in rule.required_members if member not in fields]
    missing += [name[2:] for name, wanted in rule.required_counters if int(fields.get(name, b"0")) < wanted]
    return all(any(name in effects for effects in takers) for name in [quoted(text).encode() for text in missing])


def instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _location(value: bytes | None) -> str | None:
    """The column holds what fits it; the state holds whatever the client said."""
    if value is None:
        return None
    parsed: Any = json.loads(value)
    return parsed if isinstance(parsed, str) and len(parsed) <= LOCATION_CHARS_MAX else None
