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

from persistence.hot.client import HotClient
from persistence.hot.keys import (
    ACTIVE_EXPERIENCES_KEY,
    ACTIVE_EXPERIENCES_MAX,
    ACTIVE_PLAYERS_S,
    ERASED_CHANNEL,
    active_players_key,
    notices_channel,
)
from persistence.hot.shapes import ErasedNotice, SavedNotice
from persistence.progress_key import ProgressKey


class Presence(HotClient):
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
