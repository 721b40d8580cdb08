"""
What a stored update does to a state: its operations, compiled again from what was kept of it.

Promise: the same operations as when it was accepted, because they are compiled by the same code from the same values
(`protocol.effects`), and what is stored is their canonical JSON.

Not here: who replays. The flush looks for the update that completed an experience, `wayhold verify` computes states.
"""

from __future__ import annotations

from typing import Any

from protocol.effects import compile_update
from protocol.events import Op
from protocol.values import parse_json

UPDATE = "update"
"""The event type of an update without an event; its data is the array of its effects."""


def compile_stored(
    event_type: str, content_id: str | None, data_json: bytes | str, effects_json: bytes | str | None
) -> tuple[Op, ...]:
    """
    The operations of an update as `player_progress_events` or an entry's body holds it.

    Raises:
        VoidUpdate, ValueRefused: it cannot have been accepted by this release.
    """
    data = parse_json(data_json)
    # A client may call an event of its own "update" as well; then its data is a map.
    if event_type == UPDATE and type(data) is list:
        return tuple(compile_update(None, data).ops)
    event: dict[str, Any] = {"type": event_type, "data": data}
    if content_id is not None:
        event["content_id"] = content_id
    return tuple(compile_update(event, parse_json(effects_json) if effects_json else None).ops)
