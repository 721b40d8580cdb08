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
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from redis.exceptions import RedisError

from persistence.hot.client import HotClient

VIEWERS_CHANNEL = "wayhold:viewers"
SEEN_CHANNEL = "wayhold:seen"


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
