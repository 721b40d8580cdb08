"""
Events as rows in the binary form that COPY takes, straight into `player_progress_events`.

COPY skips what an INSERT does for each row, and a row that is one `join` of packed pieces costs a third of having the
driver encode fifteen values. A row that cannot be encoded is refused here, before Postgres sees it.

Not here: what becomes of a refused row (write.py).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Any, Final

from protocol.entry import UpdateBody

EVENT_COLUMNS: Final = (
    *("id", "experience_progress_id", "event_type", "content_id", "data", "effects", "location_lat", "location_lng"),
    *("timestamp", "device_id", "seq", "version", "playtime_ms", "session_id", "received_at"),
)

_START = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_END = struct.pack(">h", -1)
_HEAD = struct.pack(">hi", len(EVENT_COLUMNS), 16)
_LENGTH_16 = struct.pack(">i", 16)
_NULL = struct.pack(">i", -1)
_NO_PLACE = _NULL + _NULL

# Postgres counts microseconds from 2000 on.
_EPOCH_MS = 946_684_800_000
_TIME_MS_MAX = 253_402_300_800_000  # the year 10000: what Python and Postgres both can tell

_pack_jsonb = struct.Struct(">ib").pack  # length, and the number of jsonb's format
_pack_place = struct.Struct(">idid").pack
_pack_time = struct.Struct(">iq").pack
_pack_numbers = struct.Struct(">iqiqii").pack


class RowRefused(ValueError):
    """A value that no column can hold; Postgres was not asked."""


def encode_event(entry_id: str, progress_id: bytes, version: int, playtime_ms: int, body: UpdateBody) -> bytes:
    """
    One row. `progress_id` has 16 bytes.

    Raises:
        RowRefused: it cannot be a row.
    """
    try:
        at_ms, received_ms = body.timestamp_ms, body.received_ms
        if not (0 <= at_ms < _TIME_MS_MAX and 0 <= received_ms < _TIME_MS_MAX):
            raise RowRefused("a time that is none")
        data, effects = body.data_json, body.effects_json
        if body.lat is None and body.lng is None:
            place = _NO_PLACE
        elif body.lat is None or body.lng is None:
            place = _encode_float(body.lat) + _encode_float(body.lng)
        else:
            place = _pack_place(8, body.lat, 8, body.lng)
        return b"".join(
            (
                _HEAD,
                bytes.fromhex(entry_id),
                _LENGTH_16,
                progress_id,
                _encode_what(body.event_type, body.content_id),
                _pack_jsonb(len(data) + 1, 1),
                data,
                _pack_jsonb(len(effects) + 1, 1) if effects else _NULL,
                effects,
                place,
                _pack_time(8, (at_ms - _EPOCH_MS) * 1000),
                _encode_device(body.device),
                _pack_numbers(8, body.seq, 8, version, 4, playtime_ms),
                _encode_session(body.session_id),
                _pack_time(8, (received_ms - _EPOCH_MS) * 1000),
            )
        )
    except (struct.error, ValueError, TypeError, AttributeError) as error:
        # The body was somebody's bytes: what is in it may be of any kind.
        raise RowRefused(str(error)) from error


async def copy_events(connection: Any, rows: Sequence[bytes]) -> None:
    """Append encoded rows; all of them or, when Postgres refuses one, none."""
    await connection.copy_to_table(
        "player_progress_events", source=_once(b"".join((_START, *rows, _END))), columns=EVENT_COLUMNS, format="binary"
    )


async def _once(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


def _encode_float(number: float | None) -> bytes:
    return _NULL if number is None else struct.pack(">id", 8, number)


# Players of an experience do the same things at the same places.
@lru_cache(8192)
def _encode_what(event_type: str, content_id: str | None) -> bytes:
    return _encode_text(event_type) + (_NULL if content_id is None else _encode_text(content_id))


@lru_cache(8192)
def _encode_device(device: str) -> bytes:
    return _encode_text(device)


@lru_cache(8192)
def _encode_session(session_id: str) -> bytes:
    return _LENGTH_16 + uuid.UUID(session_id).bytes


def _encode_text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">i", len(encoded)) + encoded
