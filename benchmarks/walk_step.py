"""
The workload `walk-step`: one update per frame, about 127 bytes of msgpack, one event and two effects, every seq once.

The frames are made before the run: of a frame only the four bytes of its seq change, XORed with the mask that the frame
was made with. So the sender costs little, and what it sends is what any client sends.

Not here: who sends them (load.py).
"""

from __future__ import annotations

import os
import struct
import uuid
from typing import Any

import msgpack

EXPERIENCE = "bench-walk"
DEVICE = "bench"
EVENT_TYPE = "waypoint_visited"
WAYPOINTS, ITEMS, QUESTS = 18, 8, 5
SEEDED_UPDATES = WAYPOINTS + ITEMS + QUESTS
TURNS = 4 * WAYPOINTS
"""How many different frames there are."""

_SEQ_HOLE = 0xFEDCBA98  # packed as five bytes; found again to know where the seq stands


def make_user_id(run: str, index: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"wayhold-benchmark:{run}:{index}"))


def make_update(seq: int, turn: int) -> dict[str, Any]:
    """One step: a waypoint (which by itself is two operations more), a counter and a value."""
    return {
        "t": "update",
        "seq": seq,
        "event": {"type": EVENT_TYPE, "content_id": f"wp-{turn % WAYPOINTS:02d}"},
        "effects": [
            {"op": "incr", "path": "steps", "value": 10 + turn % 90},
            {"op": "set", "path": "pose", "value": turn % 100},
        ],
    }


def make_seeding(first_seq: int) -> dict[str, Any]:
    """One batch that gives a new player the state of the workload."""
    events = [{"type": EVENT_TYPE, "content_id": f"wp-{number:02d}"} for number in range(WAYPOINTS)]
    events += [{"type": "item_collected", "content_id": f"item-{number}"} for number in range(ITEMS)]
    events += [{"type": "quest_started", "content_id": f"quest-{number}"} for number in range(QUESTS)]
    updates = [{"seq": first_seq + index, "event": event} for index, event in enumerate(events)]
    return {"t": "batch", "updates": updates}


def make_frame(payload: bytes, opcode: int = 2) -> bytes:
    """A whole masked WebSocket frame, as clients must send them."""
    mask = os.urandom(4)
    size = len(payload)
    if size < 126:
        header = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65_536:
        header = struct.pack("!BBH", 0x80 | opcode, 0xFE, size)
    else:
        header = struct.pack("!BBQ", 0x80 | opcode, 0xFF, size)
    return header + mask + apply_mask(payload, mask)


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


class StepFrames:
    """
    The frames of walk-step in msgpack: with `before, key, after = parts[seq % TURNS]` the frame of a seq is
    `before + (seq ^ key).to_bytes(4, "big") + after`. `prefix` stands before the payload, where a protocol wants that.
    """

    def __init__(self, prefix: bytes = b"") -> None:
        self.parts: list[tuple[bytes, int, bytes]] = []
        self.payload_bytes = 0.0
        for turn in range(TURNS):
            payload = prefix + msgpack.packb(make_update(_SEQ_HOLE, turn))
            hole = payload.index(struct.pack("!BI", 0xCE, _SEQ_HOLE)) + 1
            frame = make_frame(payload)
            head = len(frame) - len(payload)
            masked = int.from_bytes(frame[head + hole : head + hole + 4], "big")
            self.parts.append((frame[: head + hole], masked ^ _SEQ_HOLE, frame[head + hole + 4 :]))
            self.payload_bytes += len(payload) / TURNS
