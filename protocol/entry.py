"""
What an accepted update becomes: the body of an entry in `pending`, written by the gateway, read by the flusher, opaque
to Redis. Session starts and ends are entries too.

Promise: a body says everything that Postgres will need, so that a flush never asks anybody. A flusher reads the bodies
of any earlier version of this file: a body starts with the number of its layout, and numbers are never reused.

Not here: the header that Redis puts in front (version, id, offset), see `persistence.hot`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from protocol.limits import OPS_DEVICE

_UPDATE_1 = 1
_SESSION_1 = 2

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)

UPDATE_LAYOUT = _UPDATE_1
pack_update_body: Callable[[tuple[Any, ...]], bytes] = _packer.pack
"""
`encode_update_body` without the call: what it takes, in its order, behind UPDATE_LAYOUT. For the hot path, where the
call costs as much as the packing.
"""


class EntryIds:
    """
    Makes entry ids: 32 hex digits in the shape of a UUIDv7, unique over all processes, roughly ordered by time.

    An entry id tells histories apart and is the id of the event row, so it is never made twice.
    """

    __slots__ = ("_at_ms", "_count", "_head", "_node", "_tail")

    def __init__(self) -> None:
        self._node = secrets.randbits(62)
        self._count = secrets.randbits(12)
        # What does not change from one id to the next is kept as text: an id costs as much as all else about an entry.
        self._at_ms = -1
        self._head = ""
        self._tail = self._make_tail()

    def next(self, now_ms: int | None = None) -> str:
        if now_ms is None:
            now_ms = time.time_ns() // 1_000_000
        if now_ms != self._at_ms:
            self._at_ms = now_ms
            self._head = f"{now_ms & 0xFFFFFFFFFFFF:012x}7"
        self._count = count = self._count + 1
        low = count & 0xFFF
        if low == 0:
            self._tail = self._make_tail()
        return f"{self._head}{low:03x}{self._tail}"

    def _make_tail(self) -> str:
        return f"{0x8000000000000000 | ((self._node + (self._count >> 12)) & 0x3FFFFFFFFFFFFFFF):016x}"


OPERATOR_EDIT = "operator_edit"
"""The event type of an operator's action that carries no event."""


@dataclass(slots=True)
class UpdateBody:
    """
    One update. `event_type` is "update" when it carries no event. `data_json` and `effects_json` are canonical JSON
    (`protocol.values`); `effects_json` is empty without effects. Times are ms since 1970.

    An operator's action is one, too: of the device `ops`, with the id of the action in `session_id`.
    """

    device: str
    seq: int
    timestamp_ms: int
    received_ms: int
    session_id: str
    event_type: str
    content_id: str | None
    data_json: bytes
    effects_json: bytes
    lat: float | None
    lng: float | None

    @property
    def is_play(self) -> bool:
        """False for an operator's edit: it is nothing that the player did, so it adds no playtime and no day played."""
        return self.device != OPS_DEVICE or self.event_type != OPERATOR_EDIT


@dataclass(slots=True)
class SessionBody:
    """
    A whole session: written as an upsert by id, so that start and end may arrive in any order. `ended_ms` 0: it is
    open.
    """

    session_id: str
    user_id: str
    experience: str
    device: str
    started_ms: int
    ended_ms: int
    end_reason: str


def encode_update_body(
    device: str,
    seq: int,
    timestamp_ms: int,
    received_ms: int,
    session_id: str,
    event_type: str,
    content_id: str | None,
    data_json: bytes,
    effects_json: bytes,
    lat: float | None,
    lng: float | None,
) -> bytes:
    packed: bytes = _packer.pack(
        (
            _UPDATE_1,
            device,
            seq,
            timestamp_ms,
            received_ms,
            session_id,
            event_type,
            content_id,
            data_json,
            effects_json,
            lat,
            lng,
        )
    )
    return packed


def encode_session_body(session: SessionBody) -> bytes:
    packed: bytes = _packer.pack(
        (
            _SESSION_1,
            session.session_id,
            session.user_id,
            session.experience,
            session.device,
            session.started_ms,
            session.ended_ms,
            session.end_reason,
        )
    )
    return packed


def decode_body(body: bytes) -> UpdateBody | SessionBody:
    """Raises ValueError for anything that no version of this file has written."""
    try:
        fields: Any = msgpack.unpackb(body, raw=False)
        layout = fields[0]
        if layout == _UPDATE_1:
            return UpdateBody(*fields[1:12])
        if layout == _SESSION_1:
            return SessionBody(*fields[1:8])
    except (TypeError, IndexError, KeyError) as error:
        raise ValueError(f"not the body of an entry: {error}") from error
    raise ValueError(f"an entry body of unknown layout {layout!r}")
