"""
Who is there, and what gateways are told: active players, what was saved, who was erased.

Not here: when to tell and whom (gateway.sessions.node, persistence.flusher).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

import msgpack
from redis.exceptions import RedisError

from persistence.hot.actions import parse_push_notice
from persistence.hot.client import HotClient, pack
from persistence.hot.control import parse_control_notice
from persistence.hot.keys import (
    ACTIVE_EXPERIENCES_KEY,
    ACTIVE_EXPERIENCES_MAX,
    ACTIVE_PLAYERS_S,
    ERASED_CHANNEL,
    FENCE_KEY,
    active_players_key,
    beats_key,
    notices_channel,
)
from persistence.hot.shapes import (
    CloseNotice,
    DrainNotice,
    ErasedNotice,
    MissedNotices,
    PushNotice,
    SavedNotice,
)
from persistence.progress_key import ProgressKey

Notice = SavedNotice | ErasedNotice | PushNotice | MissedNotices | CloseNotice | DrainNotice
NOTED_AT_ONCE = 1_000
"""Players in one call of the script, so that Redis is never held for long."""

BEATS_KEPT_S = 3_600
"""Longer than any gateway stands still and lives on."""


class Presence(HotClient):
    async def note_active_players(self, players: Mapping[str, Sequence[tuple[str, int]]]) -> None:
        """
        Mark players as active now: by experience, (user id, connection number) of each. Trims those that have not been
        seen for `ACTIVE_PLAYERS_S`. A player who was erased after that connection was opened is passed over.
        """

        async def note() -> None:
            script = self._scripts["note_active_players"]
            async with self._client.pipeline(transaction=False) as pipeline:
                for experience, heard in players.items():
                    keys = [active_players_key(experience), ACTIVE_EXPERIENCES_KEY, FENCE_KEY]
                    for first in range(0, max(1, len(heard)), NOTED_AT_ONCE):
                        some = pack([fact for player in heard[first : first + NOTED_AT_ONCE] for fact in player])
                        await script(keys=keys, args=[experience, ACTIVE_PLAYERS_S, some], client=pipeline)
                await pipeline.execute()

        if players:
            await self._call("note_active_players", note)

    async def beat(self, node: str) -> int:
        """
        How often this node has asked so, this time included. An answer that is not above the last one means that Redis
        has forgotten something since: all, or what is newer than some time between the two.
        """

        async def ask() -> int:
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.incr(beats_key(node))
                pipeline.expire(beats_key(node), BEATS_KEPT_S)
                answered = await pipeline.execute()
                return int(answered[0])

        return await self._call("beat", ask)

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

    async def notices(self, node: str) -> AsyncIterator[list[Notice]]:
        """
        What concerns the players of `node`: what flushers saved, who was erased, what there is to be told. For ever;
        connects again by itself, and says so: what was published meanwhile is missed.
        """
        backoff_s = 0.1
        is_first = True
        while True:
            channel = self._client.pubsub()
            names = (notices_channel(node), ERASED_CHANNEL)
            confirmed = 0
            try:
                await channel.subscribe(*names)
                while True:
                    message = await channel.get_message(timeout=0.5)
                    backoff_s = 0.1
                    if message is None:
                        continue
                    if message["type"] == "subscribe":
                        # Only from the last confirmation on is nothing missed.
                        confirmed += 1
                        if confirmed == len(names):
                            if not is_first:
                                yield [MissedNotices()]
                            is_first = False
                        continue
                    if message["channel"] == ERASED_CHANNEL.encode():
                        yield [ErasedNotice(message["data"].decode())]
                        continue
                    if (push := parse_push_notice(message["data"])) is not None:
                        yield [push]
                        continue
                    if (control := parse_control_notice(message["data"])) is not None:
                        yield [control]
                        continue
                    try:
                        notices: list[Notice] = [
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
