"""
Hot copies: found, made from what Postgres has, taken away with a player who is erased.

Not here: reading Postgres and deciding when (gateway.sessions.hydrator); letting a copy go that has diverged
(flush_side.py).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from persistence.cold.shapes import ColdProgress
from persistence.hot.client import DEADLINE_S, HotClient, pack
from persistence.hot.head import find_head
from persistence.hot.keys import ERASED_CHANNEL, FENCE_KEY, active_players_key, erased_name
from persistence.hot.shapes import HotProgress
from persistence.progress_key import ProgressKey
from protocol.state import split_state, state_size

READ_AGE_MAX_MS = 5_000
"""
How old a read of Postgres may be when it is installed: far below any failover, so that it cannot bring lost commits
back.
"""

DEVICES_MAX = 32
"""Streams that a hot copy knows at once; further ones push out those that are saved whole."""

FENCE_S = 3600
"""How long an erased player's fence stands: far longer than any read of Postgres may take."""
assert READ_AGE_MAX_MS < FENCE_S * 1000
# A read that is installed must not have waited for Redis longer than it may be old.
assert DEADLINE_S * 1000 < READ_AGE_MAX_MS


class Copies(HotClient):
    async def find_progress(self, key: ProgressKey) -> HotProgress | None:
        found = pairs(await self._line.ask("find_progress", "HGETALL", self._keys.progress(key)))
        return parse_progress(found) if b"copy" in found else None

    async def install(self, cold: ColdProgress, read_started_ms: int) -> tuple[bool, int]:
        """
        Make what was read from Postgres the hot copy, under a new name, unless a copy is there that has not provably
        diverged. `read_started_ms` is `time_ms()` from before the read.

        Returns (a copy is there now, pending entries thrown away with a diverged one).
        """
        _, progress, pending, dirty, _ = self._keys.of_group(cold.key)
        fields = split_state(cold.state_json, cold.kinds_json)
        state_fields, state_bytes = state_size(fields)
        flat: list[str | bytes] = []
        for field, value in fields.items():
            flat += (field, value)
        packed = pack(
            (
                secrets.token_hex(8),
                cold.row_id,
                cold.version,
                cold.last_entry,
                read_started_ms,
                READ_AGE_MAX_MS,
                self._rules.progress_idle_s,
                cold.device,
                cold.device_seq,
                state_fields,
                state_bytes,
                cold.key.member,
                cold.erased_ms,
                flat,
            )
        )
        user_id = cold.key.user_id
        fence, quarantined = self._keys.fence(user_id), self._keys.quarantined(self._keys.partition(user_id))
        outcome, thrown = await self._line.run("install", (progress, pending, dirty, fence, quarantined), (packed,))
        return outcome >= 0, thrown

    async def install_device(
        self, key: ProgressKey, device: str, seq: int, seen: HotProgress, read_started_ms: int
    ) -> bool:
        """
        Load how far a stream got in Postgres, if the copy does not know it. `seen` is the copy as it was before the
        read. False: another copy or base is there by now, or none, or the read is too old; look and read again.
        """
        reply = await self._line.run(
            "install_device",
            (self._keys.progress(key),),
            (DEVICES_MAX, seen.copy, seen.base_version, device, seq, read_started_ms, READ_AGE_MAX_MS),
        )
        return bool(reply == 1)

    async def purge_player(
        self, user_id: str, experiences: Sequence[str], *, fence_ahead_s: float = 0.0
    ) -> tuple[int, list[str]]:
        """Remove everything hot of a player and fence off older reads. Returns (keys removed, devices Redis knew)."""
        keys = [self._keys.session(user_id), self._keys.expiry(self._keys.partition(user_id))]
        keys.append(self._keys.fence(user_id))
        for experience in experiences:
            key = ProgressKey(user_id, experience)
            keys += (self._keys.progress(key), self._keys.pending(key))
        removed, devices, fenced_ms = await self._run("purge_player", keys, [user_id, fence_ahead_s, FENCE_S])

        async def purge_indexes() -> None:
            forget = self._scripts["forget"]
            async with self._client.pipeline(transaction=False) as pipeline:
                # The fence first: what a frozen gateway notes after it is passed over, what it noted before is removed.
                pipeline.zremrangebyscore(FENCE_KEY, "-inf", int(fenced_ms) - FENCE_S * 1000)
                pipeline.zadd(FENCE_KEY, {erased_name(user_id): int(fenced_ms)})
                pipeline.expire(FENCE_KEY, FENCE_S)
                for experience in experiences:
                    key = ProgressKey(user_id, experience)
                    _, progress, _, dirty, _ = self._keys.of_group(key)
                    quarantined = self._keys.quarantined(self._keys.partition(user_id))
                    await forget(keys=[progress, dirty, quarantined], args=[key.member], client=pipeline)
                    pipeline.zrem(active_players_key(experience), user_id)
                pipeline.delete(self._keys.pushes(user_id), self._keys.ban(user_id), self._keys.farewell(user_id))
                pipeline.publish(ERASED_CHANNEL, user_id)
                await pipeline.execute()

        await self._call("purge_player", purge_indexes)
        return removed, [device.decode() for device in devices]


def pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    """HGETALL as a script returns it: field, value, field, value."""
    it = iter(flat)
    return dict(zip(it, it, strict=True))


def parse_progress(fields: Mapping[bytes, bytes]) -> HotProgress:
    """
    A progress hash by the meaning of its fields: names of several letters are ours, one-letter prefixes are the
    state's.
    """
    head = find_head(fields)
    progress = HotProgress(
        copy=fields[b"copy"].decode(),
        row_id=fields[b"row"].decode(),
        version=head.version,
        base_version=head.base_version,
        base_id=fields[b"base_id"].decode(),
        accepted={},
        saved={},
        voids={},
        fields={},
        quarantine=fields.get(b"quarantine", b"").decode(),
    )
    for name, value in fields.items():
        if name[1:2] == b":":
            progress.fields[name.decode()] = value
            continue
        kind, colon, rest = name.decode().partition(":")
        if not colon:
            continue
        if kind == "accepted":
            progress.accepted[rest] = int(value)
        elif kind == "saved":
            progress.saved[rest] = int(value)
        elif kind == "void":
            seq, _, device = rest.partition(":")
            code, _, message = value.decode().partition(" ")
            progress.voids.setdefault(device, []).append((int(seq), int(code), message))
    for notes in progress.voids.values():
        notes.sort()
    return progress
