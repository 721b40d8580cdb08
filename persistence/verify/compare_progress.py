"""
A progress's row beside what its history comes to: every column that follows from events. Pure.

What was removed for its age is unknown, so of a progress that lost events only bounds are compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from persistence.verify.replay_progress import ProgressReplay
from protocol.experience import ExperienceDefinition, completion_percentage
from protocol.state import split_state
from protocol.values import ValueRefused

LOCATION_CHARS_MAX = 255

Problem = tuple[str, str, Any, Any]
"""(check, what, found, expected)."""


@dataclass(slots=True)
class StoredProgress:
    """What is in the tables about one progress: its row, its streams, its sessions' playtime in ms by session id."""

    row: Mapping[str, Any]
    streams: dict[str, int]
    sessions_ms: dict[str, int]


def list_problems(
    stored: StoredProgress, replay: ProgressReplay, definition: ExperienceDefinition | None
) -> Iterator[Problem]:
    yield from replay.problems
    yield from _numbering(stored, replay)
    yield from _times(stored.row, replay)
    if not replay.is_whole:
        return
    row = stored.row
    if row["playtime_ms"] != replay.playtime_ms:
        yield "playtime", "playtime_ms", row["playtime_ms"], replay.playtime_ms
    for session_id in sorted({*stored.sessions_ms, *replay.sessions_ms}):
        found, expected = stored.sessions_ms.get(session_id), replay.sessions_ms.get(session_id, 0)
        if (found or 0) != expected:
            yield "sessions", f"playtime_ms of session {session_id}", found, expected
    if replay.is_replayable:
        yield from _state(row, replay)
        yield from _completion(row, replay, definition)


def _numbering(stored: StoredProgress, replay: ProgressReplay) -> Iterator[Problem]:
    for device, seq in sorted(replay.last_seqs.items()):
        if stored.streams.get(device, 0) < seq:
            yield "numbering", f"last_seq of {device}", stored.streams.get(device), f"at least {seq}"
    row = stored.row
    if row["version"] < replay.last_version:
        yield "numbering", "version", row["version"], f"at least {replay.last_version}"
    elif row["version"] == replay.last_version and replay.updates and row["last_entry"] != replay.last_entry:
        yield "numbering", "last_entry", row["last_entry"], replay.last_entry


def _times(row: Mapping[str, Any], replay: ProgressReplay) -> Iterator[Problem]:
    started_ms, played_ms = _ms(row["started_at"]), _ms(row["last_played_at"])
    # Starts and ends of sessions count as well, and have no events: these are bounds.
    if replay.first_ms is not None and (started_ms is None or started_ms > replay.first_ms):
        yield "times", "started_at", row["started_at"], f"{_at(replay.first_ms)} or before"
    if replay.newest_ms is not None and (played_ms is None or played_ms < replay.newest_ms):
        yield "times", "last_played_at", row["last_played_at"], f"{_at(replay.newest_ms)} or after"
    if replay.is_whole and _ms(row["last_update_at"]) != replay.last_at_ms:
        yield "times", "last_update_at", row["last_update_at"], _at(replay.last_at_ms)


def _state(row: Mapping[str, Any], replay: ProgressReplay) -> Iterator[Problem]:
    try:
        found = split_state(row["state"], row["kinds"])
    except ValueRefused as error:
        yield "state", "state cannot be read", str(error), "a state"
        return
    expected = replay.fields
    if found != expected:
        for name in sorted({*found, *expected}):
            if found.get(name) != expected.get(name):
                yield "state", f"field {name}", _text(found.get(name)), _text(expected.get(name))
                return
    distance = int(expected.get("c:distance_meters", b"0"))
    if row["distance_micrometers"] != distance:
        yield "state", "distance_micrometers", row["distance_micrometers"], distance
    location = expected.get("v:current_location")
    shown = None if location is None else json.loads(location)
    if not isinstance(shown, str) or len(shown) > LOCATION_CHARS_MAX:
        shown = None
    if row["current_location"] != shown:
        yield "state", "current_location", row["current_location"], shown


def _completion(
    row: Mapping[str, Any], replay: ProgressReplay, definition: ExperienceDefinition | None
) -> Iterator[Problem]:
    completed_ms = _ms(row["completed_at"])
    rule = None if definition is None else definition.completion
    percentage = 0.0 if definition is None else completion_percentage(definition, replay.fields)
    if rule is None:
        if completed_ms != replay.completed_ms:
            yield "completion", "completed_at", row["completed_at"], _at(replay.completed_ms)
            return
    # One that was completed stays so, also when the definition asks for more by now. Earlier flushers did not see
    # one that was complete only between two flushes; that is no drift, because it may be of an earlier definition, too.
    elif completed_ms is None and (replay.is_completed_by_event or percentage >= 100.0):
        yield "completion", "completed_at", None, _at(replay.completed_ms)
        return
    expected = percentage if completed_ms is None else 100.0
    if row["completion_percentage"] != expected:
        yield "completion", "completion_percentage", row["completion_percentage"], expected


def _ms(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1000)


def _at(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat()


def _text(stored: bytes | None) -> str | None:
    return None if stored is None else stored.decode("utf-8", "replace")[:200]
