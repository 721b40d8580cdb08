"""
The hot store: everything that is asked of Redis, one method for each operation, named as its script.

Promise: a call either answers or raises within `DEADLINE_S`, and is sent once. We never let the client library repeat a
write: whether a call that got no answer took effect is unknown, and only callers know how to repeat it harmlessly.

Not here: what an outcome means for a player (gateway.sessions), when to flush (persistence.flusher).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack
import redis.asyncio as redis_asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from persistence.cold.shapes import ColdProgress
from persistence.errors import StoreFull, StoreUnavailable
from persistence.hot import scripts
from persistence.hot.flat_ops import FieldList
from persistence.hot.keys import (
    ACTIVE_EXPERIENCES_KEY,
    ACTIVE_EXPERIENCES_MAX,
    ACTIVE_PLAYERS_S,
    ERASED_CHANNEL,
    HotKeys,
    active_players_key,
    notices_channel,
)
from persistence.hot.shapes import (
    EndSession,
    ErasedNotice,
    GroupVerdict,
    HotProgress,
    HotSession,
    OpenSession,
    Outcome,
    SavedNotice,
    SessionEnd,
    SessionOpened,
    UpdateGroup,
)
from persistence.progress_key import ProgressKey
from protocol.limits import COUNTER_MAX, COUNTER_SCALE, STATE_BYTES_MAX, STATE_FIELDS_MAX
from protocol.state import split_state, state_size

CALL_TIMEOUT_S = 1.0
"""How long Redis may take to answer. Longer, and a stalled Redis looks like a dead gateway to its players."""

DEADLINE_S = 3 * CALL_TIMEOUT_S
"""The longest any call takes: waiting for a free connection, connecting, and the answer."""

READ_AGE_MAX_MS = 5_000
"""
How old a read of Postgres may be when it is installed: far below any failover, so that it cannot bring lost commits
back.
"""

ACTIVITY_MS = 5_000
"""
How often a playing session's `last_activity` is written. Lower costs two writes more per message; it is the
precision of an expiry.
"""

DEVICES_MAX = 32
"""Streams that a hot copy knows at once; further ones push out those that are saved whole."""

PENDING_DUE_UPDATES = 1_000
"""A progress with this many pending entries is flushed at once, whatever the interval."""

FENCE_S = 3600
"""How long an erased player's fence stands: far longer than any read of Postgres may take."""
assert READ_AGE_MAX_MS < FENCE_S * 1000
# A read that is installed must not have waited for Redis longer than it may be old.
assert DEADLINE_S * 1000 < READ_AGE_MAX_MS

T = TypeVar("T")

_pack = msgpack.Packer(use_bin_type=False, autoreset=True).pack

_NOT_VOID = (0, "")
_OUTCOMES = tuple(Outcome)


@dataclass(slots=True)
class PendingTotals:
    """What Postgres does not have yet, over all players."""

    progress: int
    updates: int
    bytes: int
    oldest_s: float


@dataclass(slots=True)
class Snapshot:
    """A progress whole at one instant, as a flush sees it: the hash and the entries as they lie in Redis."""

    key: ProgressKey
    hash: dict[bytes, bytes]
    entries: list[bytes]


class HotStore:
    """One Redis-compatible server. Safe for many tasks of one event loop."""

    def __init__(
        self,
        client: redis_asyncio.Redis,
        *,
        keys: HotKeys,
        flush_interval_s: float,
        session_expiry_s: float,
        progress_idle_s: float,
        pending_updates_max: int,
        pending_bytes_max: int,
    ) -> None:
        self._client = client
        self._keys = keys
        self._scripts = scripts.register_all(client)
        self._flush_interval_ms = round(flush_interval_s * 1000)
        self._expiry_ms = round(session_expiry_s * 1000)
        self._idle_s = max(1, round(progress_idle_s))
        self._apply_options: bytes = _pack(
            (
                self._flush_interval_ms,
                self._expiry_ms,
                min(ACTIVITY_MS, self._expiry_ms // 4),
                pending_updates_max,
                pending_bytes_max,
                PENDING_DUE_UPDATES,
                STATE_FIELDS_MAX,
                STATE_BYTES_MAX,
                COUNTER_MAX * COUNTER_SCALE,
            )
        )

    @classmethod
    async def open(
        cls,
        redis_url: str,
        *,
        partitions: int = 64,
        flush_interval_s: float = 5.0,
        session_expiry_s: float = 3600.0,
        progress_idle_s: float = 3600.0,
        pending_updates_max: int = 5000,
        pending_bytes_max: int = 2 << 20,
    ) -> HotStore:
        """Connections are made when they are needed: a Redis that is away raises from the first call, not from here."""
        pool = redis_asyncio.BlockingConnectionPool.from_url(
            redis_url,
            protocol=2,
            decode_responses=False,
            socket_timeout=CALL_TIMEOUT_S,
            socket_connect_timeout=CALL_TIMEOUT_S,
            max_connections=16,
            timeout=CALL_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        return cls(
            redis_asyncio.Redis(connection_pool=pool),
            keys=HotKeys(partitions),
            flush_interval_s=flush_interval_s,
            session_expiry_s=session_expiry_s,
            progress_idle_s=progress_idle_s,
            pending_updates_max=pending_updates_max,
            pending_bytes_max=pending_bytes_max,
        )

    async def close(self) -> None:
        with suppress(RedisError, OSError, TimeoutError):
            await self._client.aclose(close_connection_pool=True)

    # --- playing ---------------------------------------------------------------------------------------------------

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
        numbers, notes = await self._run("apply_updates", keys, [self._apply_options, _pack(packed)])
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

    # --- sessions --------------------------------------------------------------------------------------------------

    async def find_session(self, user_id: str) -> HotSession | None:
        found = await self._read_hash("find_session", self._keys.session(user_id))
        if b"id" not in found:
            return None
        return HotSession(
            user_id=user_id,
            id=found[b"id"].decode(),
            experience=found[b"current_experience"].decode(),
            device=found[b"device"].decode(),
            node=found[b"node"].decode(),
            connection=int(found[b"connection"]),
            started_ms=int(found[b"session_start"]),
            last_activity_ms=int(found[b"last_activity"]),
            claims=found[b"claims"].decode(),
        )

    async def open_session(self, request: OpenSession) -> SessionOpened:
        """
        Take or start a session; the progress comes with it. See `OpenSession` for the rules.

        After StoreUnavailable the session may have been opened: look again with `find_session` and decide anew.
        """
        seen_id, seen_connection = request.seen or ("", 0)
        start, end = request.start_entry, request.end_entry
        packed = _pack(
            (
                request.key.user_id,
                request.key.experience,
                request.device,
                request.node,
                request.session_id,
                request.started_ms,
                request.claims,
                request.connection_min,
                seen_id,
                seen_connection,
                start.entry_id if start else "",
                start.body if start else b"",
                end.entry_id if end else "",
                end.body if end else b"",
                request.restore,
                self._expiry_ms,
                self._flush_interval_ms,
                request.key.member,
            )
        )
        reply = await self._run("open_session", list(self._keys.of_group(request.key)), [packed])
        outcome = Outcome(reply[0])
        if outcome is not Outcome.OK:
            return SessionOpened(outcome)
        return SessionOpened(outcome, reply[1], parse_progress(pairs(reply[2])))

    async def end_session(self, request: EndSession) -> SessionEnd:
        """End a session; exactly one caller wins, the others hear SESSION_ENDED."""
        reply = await self._run(
            "end_session",
            list(self._keys.of_group(request.key)),
            [
                request.key.user_id,
                request.session_id,
                -1 if request.connection is None else request.connection,
                -1 if request.last_activity_ms is None else request.last_activity_ms,
                self._expiry_ms,
                request.entry.entry_id,
                request.entry.body,
                request.key.member,
                int(request.is_rowless),
            ],
        )
        return SessionEnd(Outcome(reply[0]), reply[1] if len(reply) > 1 else 0)

    async def list_expired_sessions(self, limit: int) -> list[str]:
        """User ids whose session was not used for `session_expiry_s`, by the clock of Redis; at most `limit`."""
        now_ms = await self.time_ms()

        async def ask() -> list[list[bytes]]:
            async with self._client.pipeline(transaction=False) as pipeline:
                for partition in range(self._keys.partitions):
                    pipeline.zrangebyscore(self._keys.expiry(partition), "-inf", now_ms, start=0, num=limit)
                answered: list[list[bytes]] = await pipeline.execute()
                return answered

        found = await self._call("list_expired_sessions", ask)
        return [user_id.decode() for members in found for user_id in members][:limit]

    # --- hydrating -------------------------------------------------------------------------------------------------

    async def find_progress(self, key: ProgressKey) -> HotProgress | None:
        found = await self._read_hash("find_progress", self._keys.progress(key))
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
        packed = _pack(
            (
                secrets.token_hex(8),
                cold.row_id,
                cold.version,
                cold.last_entry,
                read_started_ms,
                READ_AGE_MAX_MS,
                self._idle_s,
                cold.device,
                cold.device_seq,
                state_fields,
                state_bytes,
                cold.key.member,
                flat,
            )
        )
        fence = self._keys.fence(cold.key.user_id)
        outcome, thrown = await self._run("install", [progress, pending, dirty, fence], [packed])
        return outcome >= 0, thrown

    async def install_device(
        self, key: ProgressKey, device: str, seq: int, seen: HotProgress, read_started_ms: int
    ) -> bool:
        """
        Load how far a stream got in Postgres, if the copy does not know it. `seen` is the copy as it was before the
        read. False: another copy or base is there by now, or none, or the read is too old; look and read again.
        """
        reply = await self._run(
            "install_device",
            [self._keys.progress(key)],
            [DEVICES_MAX, seen.copy, seen.base_version, device, seq, read_started_ms, READ_AGE_MAX_MS],
        )
        return bool(reply == 1)

    async def time_ms(self) -> int:
        """The clock of Redis. Node clocks differ; everything that is compared between nodes is told by this one."""
        seconds, microseconds = await self._call("time_ms", lambda: self._client.time())
        return int(seconds) * 1000 + int(microseconds) // 1000

    # --- who is there ----------------------------------------------------------------------------------------------

    async def note_active_players(self, players: Mapping[str, Sequence[str]]) -> None:
        """Mark players as active now, by experience; trims those that have not been seen for `ACTIVE_PLAYERS_S`."""
        now_s = await self.time_ms() / 1000

        async def note() -> None:
            async with self._client.pipeline(transaction=False) as pipeline:
                for experience, user_ids in players.items():
                    key = active_players_key(experience)
                    pipeline.zremrangebyscore(key, "-inf", now_s - ACTIVE_PLAYERS_S)
                    if user_ids:
                        pipeline.zadd(key, dict.fromkeys(user_ids, now_s))
                    pipeline.expire(key, ACTIVE_PLAYERS_S)
                    pipeline.zadd(ACTIVE_EXPERIENCES_KEY, {experience: now_s})
                pipeline.expire(ACTIVE_EXPERIENCES_KEY, ACTIVE_PLAYERS_S)
                await pipeline.execute()

        await self._call("note_active_players", note)

    async def count_active_players(self, experience: str) -> int:
        now_s = await self.time_ms() / 1000
        key = active_players_key(experience)
        count: int = await self._call(
            "count_active_players", lambda: self._client.zcount(key, now_s - ACTIVE_PLAYERS_S, "+inf")
        )
        return count

    async def count_all_active_players(self) -> int:
        """Over every experience that was played in the last `ACTIVE_PLAYERS_S`, on any node."""
        since_s = await self.time_ms() / 1000 - ACTIVE_PLAYERS_S

        async def ask() -> list[bytes]:
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.zremrangebyscore(ACTIVE_EXPERIENCES_KEY, "-inf", since_s)
                pipeline.zrange(ACTIVE_EXPERIENCES_KEY, 0, ACTIVE_EXPERIENCES_MAX)
                answered = await pipeline.execute()
                experiences: list[bytes] = answered[1]
                return experiences

        experiences = await self._call("count_all_active_players", ask)
        return sum([await self.count_active_players(experience.decode()) for experience in experiences])

    # --- flushing --------------------------------------------------------------------------------------------------

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

        async def ask() -> list[list[bytes | None]]:
            async with self._client.pipeline(transaction=False) as pipeline:
                for key in claimed:
                    pipeline.hmget(self._keys.progress(key), "version", "base_version", "offset", "base_offset")
                answered: list[list[bytes | None]] = await pipeline.execute()
                return answered

        found = await self._call("list_pending_sizes", ask) if claimed else []
        sizes = []
        for version, base_version, offset, base_offset in found:
            entries = int(version or 0) - int(base_version or 0)
            sizes.append((entries, int(offset or 0) - int(base_offset or 0)))
        return sizes

    async def snapshot(self, claimed: Sequence[ProgressKey]) -> list[Snapshot]:
        """Read progress, each whole at its own instant; those without a hot copy are left out."""

        async def read() -> list[list[Any]]:
            script = self._scripts["snapshot"]
            async with self._client.pipeline(transaction=False) as pipeline:
                for key in claimed:
                    _, progress, pending, _, _ = self._keys.of_group(key)
                    await script(keys=[progress, pending], client=pipeline)
                answered: list[list[Any]] = await pipeline.execute()
                return answered

        replies = await self._call("snapshot", read) if claimed else []
        snapshots = []
        for key, (flat, entries) in zip(claimed, replies, strict=True):
            if flat:
                snapshots.append(Snapshot(key, pairs(flat), entries))
        return snapshots

    async def settle(self, written: Sequence[Settlement]) -> list[SettleOutcome]:
        """Tell Redis what Postgres has now; an outcome for each, in order."""

        async def tell() -> list[list[Any]]:
            script = self._scripts["settle"]
            async with self._client.pipeline(transaction=False) as pipeline:
                for s in written:
                    session, progress, pending, dirty, _ = self._keys.of_group(s.key)
                    saved: list[str | int] = []
                    for device, seq in s.saved.items():
                        saved += (device, seq)
                    await script(
                        keys=[progress, pending, dirty, session],
                        args=[
                            s.key.member,
                            s.key.experience,
                            s.version,
                            s.entry_id,
                            self._flush_interval_ms,
                            self._idle_s,
                            _pack(saved),
                            _pack(s.voids),
                        ],
                        client=pipeline,
                    )
                answered: list[list[Any]] = await pipeline.execute()
                return answered

        replies = await self._call("settle", tell) if written else []
        return [SettleOutcome(r[0] == 1, r[1] if r[0] == 1 else 0, r[2].decode() if r[0] == 1 else "") for r in replies]

    async def discard_if_diverged(self, key: ProgressKey, version: int, last_entry: str) -> tuple[bool, int]:
        """(thrown away, pending entries that went with it): only with proof, see the script."""
        _, progress, pending, dirty, _ = self._keys.of_group(key)
        thrown, entries = await self._run(
            "discard_if_diverged", [progress, pending, dirty], [key.member, version, last_entry]
        )
        return thrown == 1, entries

    async def discard_if_base(self, key: ProgressKey, base_version: int, base_id: str) -> tuple[bool, int]:
        """Throw a copy away whose base Postgres has lost, if its base is still this one."""
        _, progress, pending, dirty, _ = self._keys.of_group(key)
        thrown, entries = await self._run(
            "discard_if_base", [progress, pending, dirty], [key.member, base_version, base_id]
        )
        return thrown == 1, entries

    async def forget(self, key: ProgressKey) -> None:
        """Take a progress out of `dirty`, unless it has a hot copy again."""
        _, progress, _, dirty, _ = self._keys.of_group(key)
        await self._run("forget", [progress, dirty], [key.member])

    async def quarantine(self, key: ProgressKey, copy: str, reason: str) -> bool:
        """Put a progress aside that Postgres refuses; False when another copy is there by now."""
        _, progress, _, dirty, _ = self._keys.of_group(key)
        quarantined = self._keys.quarantined(self._keys.partition(key.user_id))
        reply = await self._run("quarantine", [progress, dirty, quarantined], [key.member, copy, reason])
        return bool(reply == 1)

    async def release_quarantine(self, key: ProgressKey) -> bool:
        """Let it be flushed again, at once; False when it was not in quarantine."""
        _, progress, pending, dirty, _ = self._keys.of_group(key)
        quarantined = self._keys.quarantined(self._keys.partition(key.user_id))
        reply = await self._run("release_quarantine", [progress, pending, dirty, quarantined], [key.member])
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

    # --- erasing -----------------------------------------------------------------------------------------------------

    async def purge_player(
        self, user_id: str, experiences: Sequence[str], *, fence_ahead_s: float = 0.0
    ) -> tuple[int, list[str]]:
        """Remove everything hot of a player and fence off older reads. Returns (keys removed, devices Redis knew)."""
        keys = [self._keys.session(user_id), self._keys.expiry(self._keys.partition(user_id))]
        keys.append(self._keys.fence(user_id))
        for experience in experiences:
            key = ProgressKey(user_id, experience)
            keys += (self._keys.progress(key), self._keys.pending(key))
        removed, devices = await self._run("purge_player", keys, [user_id, fence_ahead_s, FENCE_S])

        async def purge_indexes() -> None:
            forget = self._scripts["forget"]
            async with self._client.pipeline(transaction=False) as pipeline:
                for experience in experiences:
                    key = ProgressKey(user_id, experience)
                    member = key.member
                    _, progress, _, dirty, _ = self._keys.of_group(key)
                    await forget(keys=[progress, dirty], args=[member], client=pipeline)
                    pipeline.zrem(self._keys.quarantined(self._keys.partition(user_id)), member)
                    pipeline.zrem(active_players_key(experience), user_id)
                pipeline.publish(ERASED_CHANNEL, user_id)
                await pipeline.execute()

        await self._call("purge_player", purge_indexes)
        return removed, [device.decode() for device in devices]

    async def find_memory_share(self) -> float:
        """How much of its memory limit Redis has in use, 0 to 1 and beyond; 0 without a limit."""
        found: dict[str, Any] = await self._call("find_memory_share", lambda: self._client.info("memory"))
        limit = int(found.get("maxmemory", 0))
        return int(found["used_memory"]) / limit if limit else 0.0

    # --- telling gateways ------------------------------------------------------------------------------------------

    async def publish_saved(self, notices: Mapping[str, Sequence[SavedNotice]]) -> None:
        """
        Tell each node what was saved for its players. A notice that is lost costs nothing: `saved` rides on every
        ack and pong.
        """

        async def publish() -> None:
            async with self._client.pipeline(transaction=False) as pipeline:
                for node, saved in notices.items():
                    body = [(n.key.user_id, n.key.experience, n.saved_version, n.saved) for n in saved]
                    pipeline.publish(notices_channel(node), msgpack.packb(body))
                await pipeline.execute()

        if notices:
            await self._call("publish_saved", publish)

    async def notices(self, node: str) -> AsyncIterator[list[SavedNotice | ErasedNotice]]:
        """
        What concerns the players of `node`: what flushers saved, who was erased. For ever; connects again by itself,
        and what was missed meanwhile is missed.
        """
        backoff_s = 0.1
        while True:
            channel = self._client.pubsub(ignore_subscribe_messages=True)
            try:
                await channel.subscribe(notices_channel(node), ERASED_CHANNEL)
                while True:
                    message = await channel.get_message(timeout=0.5)
                    backoff_s = 0.1
                    if message is None:
                        continue
                    if message["channel"] == ERASED_CHANNEL.encode():
                        yield [ErasedNotice(message["data"].decode())]
                        continue
                    try:
                        notices: list[SavedNotice | ErasedNotice] = [
                            SavedNotice(ProgressKey(user_id, experience), version, saved)
                            for user_id, experience, version, saved in msgpack.unpackb(message["data"])
                        ]
                    except (ValueError, TypeError):
                        continue  # somebody else's bytes; what was saved is told again with every ack and pong
                    yield notices
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, 2.0)
            finally:
                with suppress(RedisError, OSError, TimeoutError):
                    await channel.aclose()  # type: ignore[no-untyped-call]

    # --- calls -----------------------------------------------------------------------------------------------------

    async def _read_hash(self, operation: str, key: str) -> dict[bytes, bytes]:
        found: dict[Any, Any] = await self._call(operation, lambda: self._client.hgetall(key))
        return found

    async def _run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        script = self._scripts[name]
        return await self._call(name, lambda: script(keys=keys, args=args))

    async def _call(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """The one place that turns what a Redis client raises into what this package raises, and bounds the wait."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await call()
        except RedisError as error:
            # The client takes the word OOM off plain commands' errors and leaves it on those of scripts.
            if isinstance(error, OutOfMemoryError) or "OOM" in str(error):
                raise StoreFull(operation) from error
            raise StoreUnavailable("redis", operation, error) from error
        except (OSError, TimeoutError) as error:
            raise StoreUnavailable("redis", operation, error or type(error).__name__) from error


@dataclass(slots=True)
class Settlement:
    """
    What Postgres has of a progress after a commit: its newest entry there, how far each stream got, void notes that
    are over.
    """

    key: ProgressKey
    version: int
    entry_id: str
    saved: dict[str, int]
    voids: list[str]


@dataclass(slots=True)
class SettleOutcome:
    is_settled: bool
    left: int
    node: str


def pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    """HGETALL as a script returns it: field, value, field, value."""
    it = iter(flat)
    return dict(zip(it, it, strict=True))


def parse_progress(fields: Mapping[bytes, bytes]) -> HotProgress:
    """
    A progress hash by the meaning of its fields: names of several letters are ours, one-letter prefixes are the
    state's.
    """
    progress = HotProgress(
        copy=fields[b"copy"].decode(),
        row_id=fields[b"row"].decode(),
        version=int(fields[b"version"]),
        base_version=int(fields[b"base_version"]),
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
