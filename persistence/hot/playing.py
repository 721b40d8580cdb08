"""
The hot path: updates of many connections, taken in one call.

Not here: which updates go together (gateway.sessions.committer), what a verdict means (gateway.sessions.verdicts).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgpack
import redis.asyncio as redis_asyncio

from persistence.hot import scripts
from persistence.hot.client import CALL_TIMEOUT_S, HotClient, HotRules, pack
from persistence.hot.commit_line import CommitLine
from persistence.hot.flat_ops import add_ops
from persistence.hot.keys import HotKeys
from persistence.hot.known_fields import UPDATES_MAX as LEARNED_UPDATES_MAX
from persistence.hot.known_fields import Foreseen
from persistence.hot.shapes import GroupHeader, GroupVerdict, HotUpdate, Outcome, UpdateGroup
from persistence.progress_key import ProgressKey
from protocol.limits import COUNTER_MAX, COUNTER_SCALE, STATE_BYTES_MAX, STATE_FIELDS_MAX

ACTIVITY_MS = 5_000
"""
How often a playing session's `last_activity` is written. Lower costs two writes more per message; it is the
precision of an expiry.
"""

PENDING_DUE_UPDATES = 1_000
"""A progress with this many pending entries is flushed at once, whatever the interval."""

# As apply_updates.lua has them.
_HEADER_ITEMS = 11
_STATIC_ITEMS = 6
_MOVED = -14

_OUTCOMES = tuple(Outcome)
_OK = Outcome.OK
_NO_VOIDS: tuple[()] = ()
_new_verdict = tuple.__new__
_pack_array_header = msgpack.Packer(autoreset=True).pack_array_header


class Playing(HotClient):
    def __init__(self, client: redis_asyncio.Redis, keys: HotKeys, rules: HotRules) -> None:
        super().__init__(client, keys, rules)
        source = scripts.source("apply_updates")
        self._commits = CommitLine(client.connection_pool, "apply_updates", source, CALL_TIMEOUT_S)
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

    async def close(self) -> None:
        await self._commits.close()
        await super().close()

    def make_header(self, key: ProgressKey, session_id: str, connection: int, copy: str, device: str) -> GroupHeader:
        """
        What all groups of a connection begin with, ready to be sent. It changes with the copy and the connection
        number.
        """
        _, progress, pending, _, _ = self._keys.of_group(key)
        packed: bytes = pack(
            (progress, pending, f"{copy} {session_id}", connection, f"accepted:{device}", f"saved:{device}")
        )
        return GroupHeader(packed[1:])  # without the array's own byte

    async def apply_updates(self, groups: Sequence[UpdateGroup]) -> list[GroupVerdict]:
        """
        Take updates, all groups in one call; a verdict for each, in order. Those for which something was foreseen that
        is not so are asked about again, in a second call.

        Repeating a call is harmless. The caller keeps a call to at most 128 updates, 1,000 operations and 64 KiB, and
        one call in flight, so that Redis is never held for long.
        """
        if not groups:
            return []
        try:
            verdicts = await self._apply(groups)
            moved = [index for index, verdict in enumerate(verdicts) if verdict is None]
            if moved:
                # What it knew was forgotten, so nothing is foreseen this time.
                again = await self._apply([groups[index] for index in moved])
                for index, verdict in zip(moved, again, strict=True):
                    verdicts[index] = verdict
        except BaseException:
            # Nobody is told what the first call did, and only what was told is looked for in a store that forgot.
            for group in groups:
                if group.known is not None:
                    group.known.forget()
            raise
        return cast(list[GroupVerdict], verdicts)

    async def _apply(self, groups: Sequence[UpdateGroup]) -> list[GroupVerdict | None]:
        """One call; None for a group that was not what was foreseen: nothing of it was done."""
        items = 0
        parts: list[bytes] = []
        awaited: list[Foreseen | list[str] | None] = []
        for header, told, updates, durable, known in groups:
            flags = 1 if durable else 0
            foreseen = known.foresee(updates) if known is not None and updates and known.version >= 0 else None
            if foreseen is not None:
                awaited.append(foreseen)
                named, listed, _ = foreseen
                field_count = -1 - named
            else:
                names, listed = _list_items(updates)
                field_count = len(names)
                listed = [*names, *listed]
                if known is None or not updates or len(updates) > LEARNED_UPDATES_MAX:
                    awaited.append(None)
                else:
                    counters = [name for name in names if name[0] == "c"]
                    awaited.append(counters)
                    if counters:
                        flags += 2
            count = _HEADER_ITEMS - _STATIC_ITEMS + len(listed)
            items += _STATIC_ITEMS + count
            listed[:0] = (_STATIC_ITEMS + count, told, flags, len(updates), field_count)
            packed = pack(listed)
            parts += (header, packed[1 if count < 16 else 3 if count < 65_536 else 5 :])
        args = b"".join((_pack_array_header(items), *parts))
        slot = groups[0].header
        numbers, notes = await self._commits.call(slot[2 : 2 + slot[1]], self._apply_options, args)
        verdicts: list[GroupVerdict | None] = []
        at = note = 0
        for (_, _, updates, _, known), hoped in zip(groups, awaited, strict=True):
            version = numbers[at]
            if version > 0:
                if type(hoped) is Foreseen:
                    known.fields.update(hoped[2])  # type: ignore[union-attr]
                    known.version = version  # type: ignore[union-attr]
                elif hoped is None:
                    if known is not None and updates:
                        known.forget()
                else:
                    told_count = len(hoped)
                    counters_now = dict(zip(hoped, notes[note : note + told_count], strict=True))
                    note += told_count
                    known.learn(updates, counters_now, version)  # type: ignore[union-attr, arg-type]
                verdicts.append(
                    _new_verdict(
                        GroupVerdict,
                        (
                            _OK,
                            updates[-1][0],
                            version,
                            numbers[at + 1],
                            len(updates),
                            0,
                            _NO_VOIDS,
                        ),
                    )
                )
                at += 2
                continue
            found, accepted, version, saved, taken, repeated, void_count = numbers[at : at + 7]
            at += 7
            if known is not None and updates:
                known.forget()
            if found == _MOVED:
                verdicts.append(None)
                continue
            voids = []
            for _ in range(void_count):
                voids.append((notes[note], notes[note + 1], notes[note + 2].decode()))
                note += 3
            verdicts.append(GroupVerdict(_OUTCOMES[-1 - found], accepted, version, saved, taken, repeated, voids))
        return verdicts


def _list_items(updates: Sequence[HotUpdate]) -> tuple[dict[str, int], list[Any]]:
    """The fields that these updates touch, and the updates as the script takes them."""
    places: dict[str, int] = {}
    items: list[Any] = []
    for seq, entry_id, body, ops, void in updates:
        if void is None:
            items += (seq, entry_id, body, 0)
            before = len(items)
            add_ops(ops, places, items)
            items[before - 1] = len(items) - before
        else:
            items += (seq, entry_id, body, -1, *void)
    return places, items
