"""
What flushers and their operators ask of Redis: claims, snapshots, settling, giving up a copy with proof, quarantine.

Not here: what a snapshot means (persistence.flusher.plan), when to flush (persistence.flusher).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.commands.core import AsyncScript

from persistence.hot.client import HotClient, pack
from persistence.hot.copies import pairs
from persistence.hot.head import unpack_head
from persistence.hot.pipe import Command, is_script_missing, raise_first_error, send_commands
from persistence.hot.shapes import PendingTotals, Settlement, SettleOutcome, Snapshot
from persistence.progress_key import ProgressKey


class FlushSide(HotClient):
    async def claim_due(
        self, progress_max: int, lease_s: float, first_partition: int = 0, ahead_s: float = 0.0
    ) -> list[ProgressKey]:
        """
        Take the progress that are due, at most `progress_max`, looking at partitions from `first_partition` on.

        After `lease_s` it is anybody's again: whatever is done with a claim must bear being done twice.
        """
        count = self._keys.partitions
        keys = [self._keys.dirty((first_partition + i) % count) for i in range(count)]
        members = await self._run("claim_due", keys, [round(lease_s * 1000), progress_max, round(ahead_s * 1000)])
        return [ProgressKey.of_member(member.decode()) for member in members]

    async def list_pending_sizes(self, claimed: Sequence[ProgressKey]) -> list[tuple[int, int]]:
        """How much each progress has pending: (entries, bytes); (0, 0) without a hot copy."""

        found = await self._send("list_pending_sizes", [("HGET", self._keys.progress(key), "head") for key in claimed])
        sizes = []
        for packed in found:
            if packed is None:
                sizes.append((0, 0))
            else:
                head = unpack_head(packed)
                sizes.append((head.version - head.base_version, head.offset - head.base_offset))
        return sizes

    async def snapshot(self, claimed: Sequence[ProgressKey]) -> list[Snapshot]:
        """Read progress, each whole at its own instant; those without a hot copy are left out."""

        commands: list[Command] = []
        for key in claimed:
            _, progress, pending, _, _ = self._keys.of_group(key)
            # Not a script: the way of a whole hash through Lua and back would cost Redis twice as much as the rest.
            commands += (("MULTI",), ("HGETALL", progress), ("LRANGE", pending, 0, -1), ("EXEC",))
        replies = await self._send("snapshot", commands)
        snapshots = []
        for key, (flat, entries) in zip(claimed, replies[3::4], strict=True):
            if flat:
                snapshots.append(Snapshot(key, pairs(flat), entries))
        return snapshots

    async def settle(self, written: Sequence[Settlement]) -> list[SettleOutcome]:
        """Tell Redis what Postgres has now; an outcome for each, in order."""

        script = self._scripts["settle"]
        rules = (self._rules.flush_interval_ms, self._rules.progress_idle_s)
        commands: list[Command] = []
        for s in written:
            session, progress, pending, dirty, _ = self._keys.of_group(s.key)
            saved: list[str | int] = []
            for device, seq in s.saved.items():
                saved += (device, seq)
            keys = (progress, pending, dirty, session, self._quarantined(s.key))
            args = (s.key.member, s.key.experience, s.version, s.entry_id, *rules, pack(saved), pack(s.voids))
            commands.append(("EVALSHA", script.sha, len(keys), *keys, *args))
        replies = await self._send("settle", commands, script)
        return [SettleOutcome(r[0] == 1, r[1] if r[0] == 1 else 0, r[2].decode() if r[0] == 1 else "") for r in replies]

    async def _send(self, operation: str, commands: Sequence[Command], script: AsyncScript | None = None) -> list[Any]:
        """The replies to many commands, all or nothing; those that run `script` may be sent twice."""

        async def send() -> list[Any]:
            replies = await send_commands(self._client.connection_pool, commands)
            if script is not None and any(is_script_missing(reply) for reply in replies):
                await self._client.script_load(script.script)
                replies = await send_commands(self._client.connection_pool, commands)
            raise_first_error(replies)
            return replies

        return await self._call(operation, send) if commands else []

    async def discard_if_diverged(self, key: ProgressKey, version: int, last_entry: str) -> tuple[bool, int]:
        """(thrown away, pending entries that went with it): only with proof, see the script."""
        _, progress, pending, dirty, _ = self._keys.of_group(key)
        thrown, entries = await self._run(
            "discard_if_diverged",
            [progress, pending, dirty, self._quarantined(key)],
            [key.member, version, last_entry],
        )
        return thrown == 1, entries

    async def discard_if_base(self, key: ProgressKey, base_version: int, base_id: str) -> tuple[bool, int]:
        """Throw a copy away whose base Postgres has lost, if its base is still this one."""
        _, progress, pending, dirty, _ = self._keys.of_group(key)
        thrown, entries = await self._run(
            "discard_if_base",
            [progress, pending, dirty, self._quarantined(key)],
            [key.member, base_version, base_id],
        )
        return thrown == 1, entries

    async def forget(self, key: ProgressKey) -> None:
        """Take a progress out of `dirty`, unless it has a hot copy again."""
        _, progress, _, dirty, _ = self._keys.of_group(key)
        await self._run("forget", [progress, dirty, self._quarantined(key)], [key.member])

    async def quarantine(self, key: ProgressKey, copy: str, version: int, entry_id: str, reason: str) -> bool:
        """
        Put a progress aside that Postgres refuses, up to the entry `version` with `entry_id` (empty: whatever its id).
        False when that is not pending any more: another copy is there, or somebody has written it meanwhile.
        """
        _, progress, pending, dirty, _ = self._keys.of_group(key)
        reply = await self._run(
            "quarantine",
            [progress, pending, dirty, self._quarantined(key)],
            [key.member, copy, version, entry_id, reason],
        )
        return bool(reply == 1)

    async def release_quarantine(self, key: ProgressKey) -> bool:
        """Let it be flushed again, at once; False when it was not in quarantine."""
        _, progress, pending, dirty, _ = self._keys.of_group(key)
        reply = await self._run("release_quarantine", [progress, pending, dirty, self._quarantined(key)], [key.member])
        return bool(reply == 1)

    async def list_quarantined(self, limit: int = 1000) -> list[tuple[ProgressKey, str]]:
        """Progress that were put aside, and why."""

        async def members() -> list[list[bytes]]:
            async with self._client.pipeline(transaction=False) as pipeline:
                for partition in range(self._keys.partitions):
                    pipeline.zrange(self._keys.quarantined(partition), 0, limit)
                answered: list[list[bytes]] = await pipeline.execute()
                return answered

        found = await self._call("list_quarantined", members)
        keys = [ProgressKey.of_member(member.decode()) for some in found for member in some][:limit]

        async def reasons() -> list[bytes | None]:
            async with self._client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.hget(self._keys.progress(key), "quarantine")
                answered: list[bytes | None] = await pipeline.execute()
                return answered

        told = await self._call("list_quarantined", reasons) if keys else []
        return [(key, (reason or b"").decode(errors="replace")) for key, reason in zip(keys, told, strict=True)]

    async def release_claims(self, claimed: Sequence[ProgressKey]) -> None:
        """Give claims back that were not used, so that nobody waits for their lease."""

        async def release() -> None:
            script = self._scripts["make_due"]
            async with self._client.pipeline(transaction=False) as pipeline:
                for key in claimed:
                    await script(keys=[self._keys.of_group(key)[3]], args=[key.member], client=pipeline)
                await pipeline.execute()

        if claimed:
            await self._call("release_claims", release)

    async def make_due(self, key: ProgressKey) -> bool:
        """Let a progress be flushed at once; False when it has nothing pending."""
        return bool(await self._run("make_due", [self._keys.of_group(key)[3]], [key.member]) == 1)

    async def count_pending(self, progress_max: int = 100_000) -> PendingTotals:
        """
        Add up what is pending. Its cost grows with the number of dirty progress: ask every few seconds, not per
        message.
        """

        async def members() -> list[list[bytes]]:
            async with self._client.pipeline(transaction=False) as pipeline:
                for partition in range(self._keys.partitions):
                    pipeline.zrange(self._keys.dirty(partition), 0, max(1, progress_max // self._keys.partitions))
                answered: list[list[bytes]] = await pipeline.execute()
                return answered

        found = await self._call("count_pending", members)
        keys = [self._keys.progress(ProgressKey.of_member(member.decode())) for some in found for member in some]
        totals = PendingTotals(len(keys), 0, 0, 0.0)
        for first in range(0, len(keys), 500):
            updates, size, oldest_ms = await self._run("sum_pending", keys[first : first + 500], [])
            totals.updates += updates
            totals.bytes += size
            totals.oldest_s = max(totals.oldest_s, oldest_ms / 1000)
        return totals

    def _quarantined(self, key: ProgressKey) -> str:
        return self._keys.quarantined(self._keys.partition(key.user_id))
