"""
Between those who watch (ops processes) and what they watch (gateways): two channels of Redis, nothing kept.

`wayhold:viewers`: an ops process says what its viewers want to see, again and again while there are any; what it said
lapses by itself. `wayhold:seen`: gateways say what is wanted, to all ops processes at once. Both lose what is published
while somebody is not connected; whoever comes back asks anew. A reader who is too slow is cut off by Redis, which never
holds up who publishes.

Not here: what is wanted and what is said (gateway.sessions.viewing, gateway.liveops.live).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial

from redis.exceptions import RedisError

from persistence.hot.client import HotClient
from persistence.progress_key import ProgressKey
from persistence.viewing import DISCONNECTED, Row

VIEWERS_CHANNEL = "wayhold:viewers"
SEEN_CHANNEL = "wayhold:seen"

ABSENT_MAX = 50_000
PARTITIONS_AT_ONCE = 8
SESSIONS_AT_ONCE = 100


class Viewing(HotClient):
    async def publish_wants(self, wants: bytes) -> int:
        """What a viewer wants; returns how many gateways heard it."""
        heard: int = await self._call("publish_wants", lambda: self._client.publish(VIEWERS_CHANNEL, wants))
        return heard

    async def publish_seen(self, messages: Sequence[bytes]) -> None:
        """What a gateway has to show, in order."""

        async def publish() -> None:
            async with self._client.pipeline(transaction=False) as pipeline:
                for message in messages:
                    pipeline.publish(SEEN_CHANNEL, message)
                await pipeline.execute()

        if messages:
            await self._call("publish_seen", publish)

    async def listen_for_wants(self) -> AsyncIterator[bytes]:
        """What viewers want, for ever; connects again by itself. Viewers repeat themselves, so nothing is missed."""
        async for message in self._listen_to(VIEWERS_CHANNEL):
            if message is not None:
                yield message

    async def listen_for_seen(self) -> AsyncIterator[bytes | None]:
        """What gateways show, for ever; None when something may have been missed: at the start, and after a cut."""
        async for message in self._listen_to(SEEN_CHANNEL):
            yield message

    async def list_absent_sessions(
        self, connected: Collection[str], known: Mapping[str, Row], sessions_max: int = ABSENT_MAX
    ) -> list[Row]:
        """
        Sessions of players who are not `connected`: at most `sessions_max`. Those that are `known` and were not used
        since are not read again. In small pieces, so that Redis is never held for long.
        """
        rows: list[Row] = []
        unknown: list[tuple[str, int]] = []
        for first in range(0, self._keys.partitions, PARTITIONS_AT_ONCE):
            partitions = range(first, min(first + PARTITIONS_AT_ONCE, self._keys.partitions))
            found = await self._call("list_absent_sessions", partial(self._list_expiries, partitions, sessions_max))
            for member, score in itertools.chain.from_iterable(found):
                user_id = member.decode()
                if user_id in connected or len(rows) + len(unknown) >= sessions_max:
                    continue
                row = known.get(user_id)
                heard_ms = int(score) - self._rules.session_expiry_ms
                if row is not None and abs(row.heard_ms - heard_ms) < 1_000:
                    rows.append(row)
                else:
                    unknown.append((user_id, heard_ms))
        for first in range(0, len(unknown), SESSIONS_AT_ONCE):
            some = unknown[first : first + SESSIONS_AT_ONCE]
            for (user_id, heard_ms), fields in zip(
                some, await self._call("list_absent_sessions", partial(self._read_sessions, some)), strict=True
            ):
                session_id, experience, device, connection, started, node = fields
                if session_id is None or experience is None:
                    continue
                rows.append(
                    Row(
                        user_id=user_id,
                        session_id=session_id.decode(),
                        experience=experience.decode(),
                        device=(device or b"").decode(),
                        connection=int(connection or 0),
                        started_ms=int(started or 0),
                        state=DISCONNECTED,
                        heard_ms=heard_ms,
                        node=(node or b"").decode(),
                    )
                )
        return rows

    async def find_places(self, keys: Sequence[ProgressKey]) -> list[str | None]:
        """`current_location` in the state of each, as JSON text; for a page of them."""

        async def read() -> list[bytes | None]:
            async with self._client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.hget(self._keys.progress(key), "v:current_location")
                answered: list[bytes | None] = await pipeline.execute()
                return answered

        found = await self._call("find_places", read) if keys else []
        return [None if place is None else place.decode() for place in found]

    async def count_quarantined(self) -> int:
        async def ask() -> list[int]:
            async with self._client.pipeline(transaction=False) as pipeline:
                for partition in range(self._keys.partitions):
                    pipeline.zcard(self._keys.quarantined(partition))
                answered: list[int] = await pipeline.execute()
                return answered

        return sum(await self._call("count_quarantined", ask))

    async def _list_expiries(self, partitions: Sequence[int], limit: int) -> list[list[tuple[bytes, float]]]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for partition in partitions:
                pipeline.zrange(self._keys.expiry(partition), 0, limit, withscores=True)
            answered: list[list[tuple[bytes, float]]] = await pipeline.execute()
            return answered

    async def _read_sessions(self, some: Sequence[tuple[str, int]]) -> list[list[bytes | None]]:
        names = ("id", "current_experience", "device", "connection", "session_start", "node")
        async with self._client.pipeline(transaction=False) as pipeline:
            for user_id, _ in some:
                pipeline.hmget(self._keys.session(user_id), *names)
            answered: list[list[bytes | None]] = await pipeline.execute()
            return answered

    async def _listen_to(self, name: str) -> AsyncIterator[bytes | None]:
        backoff_s = 0.1
        while True:
            channel = self._client.pubsub()
            try:
                await channel.subscribe(name)
                while True:
                    message = await channel.get_message(timeout=0.5)
                    backoff_s = 0.1
                    if message is None:
                        continue
                    yield message["data"] if message["type"] == "message" else None
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, 2.0)
            finally:
                with suppress(RedisError, OSError, TimeoutError):
                    await channel.aclose()  # type: ignore[no-untyped-call]
