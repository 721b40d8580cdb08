"""
The hot path: updates of many connections, taken in one call.

Not here: which updates go together (gateway.sessions.committer), what a verdict means (gateway.sessions.verdicts).
"""

from __future__ import annotations

from collections.abc import Sequence

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

_NOT_VOID = (0, "")
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
        keys: list[str] = []
        packed = []
        for group in groups:
            key = group.key
            keys.extend(self._keys.of_group(key))
            fields = FieldList(group.device)
            updates = [(u.seq, u.entry_id, u.body, fields.refer(u.ops), *(u.void or _NOT_VOID)) for u in group.updates]
            packed.append(
                (
                    key.user_id,
                    group.session_id,
                    group.connection,
                    group.copy,
                    group.device,
                    group.told,
                    key.member,
                    group.durable,
                    fields.names,
                    updates,
                )
            )
        numbers, notes = await self._run("apply_updates", keys, [self._apply_options, pack(packed)])
        verdicts = []
        note = 0
        for n in range(0, len(numbers), 8):
            outcome, accepted, version, saved, saved_version, taken, repeated, void_count = numbers[n : n + 8]
            voids = []
            for _ in range(void_count):
                voids.append((notes[note], notes[note + 1], notes[note + 2].decode()))
                note += 3
            verdicts.append(
                GroupVerdict(_OUTCOMES[outcome], accepted, version, saved, saved_version, taken, repeated, voids)
            )
        return verdicts
