"""
What viewers want and what gateways show, as bytes: msgpack, one layout for both sides.

Promise: reading never raises anything but ValueError; every list has a bound, so that one bad sender cannot fill
anybody's memory. A new field goes at the end, and readers take what they know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack

LEASE_MS = 6_000
"""How long a want holds after it was said last."""
SAY_S = 2.0
"""How often it is said again."""
assert SAY_S * 1000 * 2 < LEASE_MS

TRACED_MAX = 32
FILTERS_MAX = 16
MESSAGE_BYTES_MAX = 1 << 20

DISCONNECTED = 3
"""The state of a session whose player has no connection now."""

FIGURES, EVENTS, ROWS, TRACE = "f", "e", "r", "t"
"""Kinds of what is shown."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Of the events that somebody wants to see; empty fields let everything through."""

    experience: str = ""
    type: str = ""
    content: str = ""
    player: str = ""

    def takes(self, experience: str, player: str) -> bool:
        """What can be told without opening the event."""
        return self.experience in ("", experience) and self.player in ("", player)

    def takes_event(self, event_type: str, content_id: str | None) -> bool:
        return self.type in ("", event_type) and self.content in ("", content_id)


@dataclass(frozen=True, slots=True)
class Wants:
    """
    What the viewers of one ops process want together. `rows`: the table of sessions; 0 none, else the ms between two
    reports of what has changed in it. `rows_token`: another one than the last asks for the whole table.
    """

    viewer: str
    figures: bool = False
    events: tuple[EventFilter, ...] | None = None
    rows: int = 0
    rows_token: str = ""
    traced: tuple[str, ...] = ()

    def pack(self) -> bytes:
        events = None if self.events is None else [(f.experience, f.type, f.content, f.player) for f in self.events]
        packed: bytes = msgpack.packb((self.viewer, self.figures, events, self.rows, self.rows_token, self.traced))
        return packed


def parse_wants(packed: bytes) -> Wants:
    """Raises ValueError."""
    try:
        viewer, figures, events, rows, token, traced = _unpack(packed)[:6]
        return Wants(
            str(viewer),
            bool(figures),
            None if events is None else tuple(EventFilter(*map(str, one[:4])) for one in events[:FILTERS_MAX]),
            min(60_000, max(0, int(rows))),
            str(token),
            tuple(str(player) for player in traced[:TRACED_MAX]),
        )
    except (ValueError, TypeError, IndexError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"no wants: {error}") from None


@dataclass(slots=True)
class Row:
    """
    A session that has a connection, as its gateway sees it. Times are ms since 1970 by the gateway's clock; `accepted`
    and `saved` are seqs of the device's stream; `rtt_ms` is what the kernel measured, -1 where it does not say.
    """

    user_id: str
    session_id: str
    experience: str
    device: str
    connection: int
    started_ms: int
    state: int  # 0 playing, 1 suspended, 2 recovering, 3 without a connection
    heard_ms: int
    lat: float | None = None
    lng: float | None = None
    accepted: int = 0
    saved: int = 0
    rtt_ms: float = -1.0
    node: str = ""


def pack_seen(node: str, kind: str, body: Any) -> bytes:
    packed: bytes = msgpack.packb((node, kind, body), use_bin_type=True)
    return packed


def parse_seen(packed: bytes) -> tuple[str, str, Any]:
    """(node, kind, body). Raises ValueError."""
    try:
        node, kind, body = _unpack(packed)[:3]
    except (ValueError, TypeError, IndexError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"nothing seen: {error}") from None
    return str(node), str(kind), body


def _unpack(packed: bytes) -> Any:
    if len(packed) > MESSAGE_BYTES_MAX:
        raise ValueError("too large")
    return msgpack.unpackb(packed, strict_map_key=False)


@dataclass(slots=True)
class RowsSeen:
    """
    A part of a node's table. `whole` rows by number, `changed` ones as (number, state, heard_ms, lat, lng, accepted,
    saved), numbers that are `gone`. `begins` and `ends` mark a whole table: what was not in it is gone, too.
    """

    begins: bool = False
    ends: bool = False
    whole: list[Any] = field(default_factory=list)
    changed: list[Any] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)

    def body(self) -> Any:
        return (self.begins, self.ends, self.whole, self.changed, self.gone)
