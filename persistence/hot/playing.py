"""
The hot path: updates of many connections, taken in one call.

Not here: which updates go together (gateway.sessions.committer), what a verdict means (gateway.sessions.verdicts).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis_asyncio

from persistence.hot.client import HotClient, HotRules, pack
from persistence.hot.flat_ops import FieldList
from persistence.hot.keys import HotKeys
from persistence.hot.shapes import GroupVerdict, Outcome, UpdateGroup
from protocol.limits import COUNTER_MAX, COUNTER_SCALE, STATE_BYTES_MAX, STATE_FIELDS_MAX

ACTIVITY_MS = 5_000
"""
How often a playing session's `last_activity` is written. Lower costs two writes more per message; it is the
precision of an expiry.
"""

PENDING_DUE_UPDATES = 1_000
"""A progress with this many pending entries is flushed at once, whatever the interval."""

# As apply_updates.lua has them.
_HEADER_ITEMS = 9
_TAKEN_WHOLE = -1
_OUTCOMES = tuple(Outcome)


class Playing(HotClient):
    def __init__(self, client: redis_asyncio.Redis, keys: HotKeys, rules: HotRules) -> None:
        super().__init__(client, keys, rules)
        self._apply_options: bytes = pack(
            (
                rules.flush_interval_ms,
                rules.session_expiry_ms,
                min(ACTIVITY_MS, rules.session_expiry_ms // 4),
                rules.pending_updates_max,
                rules.pending_bytes_max,
                PENDING_DUE_UPDATES,
                STATE_FIELDS_MAX,
                STATE_BYTES_MAX,
                COUNTER_MAX * COUNTER_SCALE,
            )
        )

    async def apply_updates(self, groups: Sequence[UpdateGroup]) -> list[GroupVerdict]:
        """
        Take updates, all groups in one call; a verdict for each, in order.

        Repeating a call is harmless. The caller keeps a call to at most 128 updates, 1,000 operations and 64 KiB, and
        one call in flight, so that Redis is never held for long.
        """
        if not groups:
            return []
        packed: list[Any] = []
        for group in groups:
            _, progress, pending, _, _ = self._keys.of_group(group.key)
            fields = FieldList()
            updates: list[Any] = []
            for u in group.updates:
                if u.void is None:
                    items = fields.refer(u.ops)
                    updates += (u.seq, u.entry_id, u.body, len(items), *items)
                else:
                    updates += (u.seq, u.entry_id, u.body, -1, *u.void)
            packed += (
                _HEADER_ITEMS + 2 + len(fields.names) + len(updates),
                progress,
                pending,
                f"{group.copy} {group.session_id}",
                group.connection,
                group.told,
                group.durable,
                len(group.updates),
                2 + len(fields.names),
                f"accepted:{group.device}",
                f"saved:{group.device}",
                *fields.names,
                *updates,
            )
        numbers, notes = await self._run("apply_updates", [packed[1]], [self._apply_options, pack(packed)])
        verdicts = []
        at = note = 0
        for group in groups:
            if numbers[at] == _TAKEN_WHOLE:
                _, version, saved, saved_version = numbers[at : at + 4]
                at += 4
                accepted, taken = group.updates[-1].seq, len(group.updates)
                verdicts.append(GroupVerdict(Outcome.OK, accepted, version, saved, saved_version, taken, 0, []))
                continue
            outcome, accepted, version, saved, saved_version, taken, repeated, void_count = numbers[at : at + 8]
            at += 8
            voids = []
            for _ in range(void_count):
                voids.append((notes[note], notes[note + 1], notes[note + 2].decode()))
                note += 3
            verdicts.append(
                GroupVerdict(_OUTCOMES[outcome], accepted, version, saved, saved_version, taken, repeated, voids)
            )
        return verdicts
