"""
Event rows in the binary form that COPY takes.

Most bytes of a row are the same for everybody who lives the same journey: they are made once, and a row is a join of
twelve pieces. That is ten times quicker than encoding fifteen values, and leaves Postgres as what a fill waits for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from persistence.fill.journey import Journey, JourneyEvent
from persistence.flusher.event_rows import EVENT_COLUMNS

COPY_START = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
COPY_END = struct.pack(">h", -1)

# Postgres counts microseconds from 2000 on.
_EPOCH_MS = 946_684_800_000
_NULL = struct.pack(">i", -1)
_HEAD = struct.pack(">hi", len(EVENT_COLUMNS), 16)
_LENGTH_8, _LENGTH_16, _LENGTH_DEVICE = (struct.pack(">i", length) for length in (8, 16, 36))
_pack_id = struct.Struct(">QQ").pack
_pack_time = struct.Struct(">q").pack


@dataclass(slots=True)
class BakedEvent:
    """What is the same for everybody: from `event_type` to `location_lng`, and from `seq` to `playtime_ms`."""

    at_ms: int
    received_ms: int
    what: bytes
    numbers: bytes


def bake_events(journey: Journey) -> list[BakedEvent]:
    return [
        BakedEvent(
            event.body.timestamp_ms,
            event.body.received_ms,
            _encode_what(event) + _LENGTH_8,
            struct.pack(">iqiqii", 8, event.body.seq, 8, event.version, 4, event.playtime_ms) + _LENGTH_16,
        )
        for event in journey.events
    ]


class EventIds:
    """Ids in the shape of a UUIDv7, as `protocol.entry.EntryIds` makes them, as 16 bytes."""

    __slots__ = ("_count", "_node")

    def __init__(self, node: int) -> None:
        self._node = node & 0x3FFFFFFFFFFFFFFF
        self._count = 0

    def next(self, at_ms: int) -> bytes:
        self._count = count = self._count + 1
        return _pack_id(
            at_ms << 16 | 0x7000 | count & 0xFFF,
            0x8000000000000000 | ((self._node + (count >> 12)) & 0x3FFFFFFFFFFFFFFF),
        )


def join_rows(
    rows: list[bytes],
    events: list[BakedEvent],
    ids: EventIds,
    *,
    progress_id: bytes,
    session_id: bytes,
    device_id: bytes,
    base_ms: int,
) -> None:
    """Append the pieces of these rows for one player. `device_id` has 36 bytes, `base_ms` is the first midnight."""
    # One call for a whole session: with a call for each row this would take a third longer.
    next_id, append = ids.next, rows.extend
    base_us = (base_ms - _EPOCH_MS) * 1000
    for event in events:
        append(
            (
                _HEAD,
                next_id(base_ms + event.received_ms),
                _LENGTH_16,
                progress_id,
                event.what,
                _pack_time(base_us + event.at_ms * 1000),
                _LENGTH_DEVICE,
                device_id,
                event.numbers,
                session_id,
                _LENGTH_8,
                _pack_time(base_us + event.received_ms * 1000),
            )
        )


def _encode_what(event: JourneyEvent) -> bytes:
    body = event.body
    return b"".join(
        (
            _text(body.event_type.encode()),
            _NULL if body.content_id is None else _text(body.content_id.encode()),
            _jsonb(body.data_json),
            _jsonb(body.effects_json) if body.effects_json else _NULL,
            _NULL if body.lat is None else struct.pack(">id", 8, body.lat),
            _NULL if body.lng is None else struct.pack(">id", 8, body.lng),
        )
    )


def _text(encoded: bytes) -> bytes:
    return struct.pack(">i", len(encoded)) + encoded


def _jsonb(encoded: bytes) -> bytes:
    """The text with the number of its format in front."""
    return struct.pack(">ib", len(encoded) + 1, 1) + encoded
