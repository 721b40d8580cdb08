"""
When an experience was completed: the first update after which the state holds all that its definition asks for.

Pure. That a state is complete is seen without looking back (plan.py); the way there is walked only when it has just
become so, or when something was taken away and it may have been complete in between: who has everything for a moment
has completed the experience, whenever flushes happen to come.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

from persistence.flusher.plan import Entry, instant
from persistence.replay import compile_stored
from protocol.entry import UpdateBody
from protocol.errors import VoidUpdate
from protocol.experience import ExperienceDefinition, completion_percentage
from protocol.state import apply_ops, split_state
from protocol.values import ValueRefused


def find_completed_at(
    state_json: str, kinds_json: str, events: Iterable[Entry], definition: ExperienceDefinition, *, is_complete: bool
) -> datetime | None:
    """
    The timestamp of the first of `events` that completes the state before them: by what it adds, or by saying so. None
    when none does.

    `is_complete`: the state after them is. Then, if they cannot be replayed, it is the last one's.
    """
    rule = definition.completion
    last: datetime | None = None
    try:
        fields: dict[str, Any] = dict(split_state(state_json, kinds_json))
    except ValueRefused:
        fields = {}
    for entry in events:
        body = entry.body
        assert isinstance(body, UpdateBody)
        last = instant(body.timestamp_ms)
        if body.event_type == "experience_completed" and (rule is None or rule.by_event):
            return last
        with suppress(VoidUpdate, ValueRefused):
            apply_ops(fields, compile_stored(body.event_type, body.content_id, body.data_json, body.effects_json))
        if completion_percentage(definition, fields) >= 100.0:
            return last
    return last if is_complete else None
