"""
What the flusher would have written for a story: one progress, one profile, its streams, sessions and events.

Promise: nothing is computed here that the product computes. Updates go through `compile_update` and `apply_ops` as in a
gateway, and the whole log through `plan_write` as in a flush, so that state, totals and columns follow from the events
by the same code that `wayhold verify` holds them against.

Not here: ids and days. A journey is in ms after the midnight before its first session; who it happened to and when is
decided by fill.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from persistence.fill.story import StorySession, World
from persistence.flusher.completion import find_completed_at
from persistence.flusher.plan import Copy, Entry, ProgressWrite, Row, plan_write
from persistence.progress_key import ProgressKey
from protocol.effects import compile_update
from protocol.entry import SessionBody, UpdateBody
from protocol.experience import Privacy, round_location
from protocol.state import apply_ops, as_stored, join_stored

# Names that stand for what each player gets anew.
DEVICES = ("device-0", "device-1")
_NOBODY = "00000000-0000-0000-0000-000000000000"
_NO_ROW = "0" * 32


@dataclass(slots=True)
class JourneyEvent:
    """One row of `player_progress_events` to be. Times in ms after the first midnight."""

    body: UpdateBody
    version: int
    playtime_ms: int


@dataclass(slots=True)
class JourneySession:
    device: int
    started_ms: int
    ended_ms: int
    end_reason: str
    playtime_ms: int
    first_event: int
    last_event: int  # events[first_event:last_event]


@dataclass(slots=True)
class Journey:
    """A story with everything that Postgres would have of it. `write` is what a single flush of all of it plans."""

    write: ProgressWrite
    sessions: list[JourneySession]
    events: list[JourneyEvent]
    last_seqs: list[int]
    """Of each device, how many updates it made."""
    last_ms: int
    """When the last entry was accepted."""


def make_journey(world: World, story: list[StorySession]) -> Journey:
    """Live a story through."""
    experience_id = world.experience_id
    privacy = Privacy() if world.definition is None else world.definition.privacy
    fields: dict[str, str | bytes] = {}
    entries: list[Entry] = []
    updates = 0
    sessions: list[JourneySession] = []
    seqs = [0] * len(DEVICES)

    def append(body: UpdateBody | SessionBody) -> None:
        version = len(entries) + 1
        entries.append(Entry(version, f"{version:032x}", 0, 0, b"", body))

    for number, told in enumerate(story):
        device, first = told.device, updates
        session = SessionBody(str(number), _NOBODY, experience_id, DEVICES[device], told.started_ms, 0, "")
        append(session)
        for update in told.updates:
            compiled = compile_update(update.event, update.effects)
            apply_ops(fields, compiled.ops)
            seqs[device] += 1
            received_ms = max(told.started_ms, update.at_ms)
            # As a gateway writes them: an update without an event shows its effects as its data.
            if compiled.event is None:
                event_type, data_json, effects_json = "update", compiled.effects_json, b""
            else:
                event_type, data_json, effects_json = compiled.event.type, compiled.data_json, compiled.effects_json
            lat, lng = round_location(privacy, compiled.lat, compiled.lng)
            body = UpdateBody(
                DEVICES[device],
                seqs[device],
                update.at_ms,
                received_ms,
                str(number),
                event_type,
                compiled.content_id,
                data_json,
                effects_json,
                lat,
                lng,
            )
            append(body)
            updates += 1
        append(
            SessionBody(
                str(number),
                _NOBODY,
                experience_id,
                DEVICES[device],
                told.started_ms,
                told.ended_ms,
                told.end_reason,
            )
        )
        sessions.append(JourneySession(device, told.started_ms, told.ended_ms, told.end_reason, 0, first, updates))
    stored = as_stored(fields)
    state_json, kinds_json = join_stored(stored)
    copy = Copy(
        key=ProgressKey(_NOBODY, experience_id),
        copy="",
        row_id=_NO_ROW,
        version=len(entries),
        base_version=0,
        base_id=_NO_ROW,
        stored=stored,
        state_json=state_json,
        kinds_json=kinds_json,
        entries=entries,
        entries_bytes=0,
    )
    write = plan_write(copy, Row(_NO_ROW, _NO_ROW, 0, _NO_ROW, None, 0), world.definition)
    if (write.is_complete_by_state or write.may_have_been_complete) and world.definition is not None:
        write.completed_at = find_completed_at(
            "{}", "{}", write.events, world.definition, is_complete=write.is_complete_by_state
        )
    events = [
        JourneyEvent(entry.body, entry.version, entry.playtime_ms)
        for entry in write.events
        if isinstance(entry.body, UpdateBody)
    ]
    for number, made in enumerate(sessions):
        made.playtime_ms = write.session_playtime_ms.get(str(number), 0)
    return Journey(write, sessions, events, seqs, max(session.ended_ms for session in story))
