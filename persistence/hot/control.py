"""
What operators' actions need of Redis beside the state of players: bans for hellos, why a session was ended, whether
there is maintenance, notices to one gateway, and who is there.

Not here: what an action is and who may ask for it (gateway.liveops), what a gateway does about a notice
(gateway.sessions).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from persistence.ban import Ban
from persistence.hot.client import HotClient
from persistence.hot.keys import MAINTENANCE_KEY, drained_key, notices_channel
from persistence.hot.shapes import CloseNotice, DrainNotice, Farewell

LIFTED_KEPT_S = 86_400
"""How long a lifted ban is remembered: longer than any word from before it can be under way."""

FAREWELL_KEPT_S = 600
DRAINED_KEPT_S = 3_600
PLAYERS_AT_ONCE = 200
"""Sessions that are looked at in one pipeline."""


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The last word: whether players are asked to wait, from when (ms), and what they are told."""

    is_on: bool
    starts_ms: int
    message: str
    asked_us: int

    def holds_at(self, now_ms: int) -> bool:
        return self.is_on and now_ms >= self.starts_ms


class Control(HotClient):
    # --- bans ------------------------------------------------------------------------------------------------------

    async def note_bans(self, bans: Sequence[tuple[str, Ban]]) -> None:
        """
        Keep the last word about players, given as (user id, ban); later words that are there stay.

        Raises:
            StoreUnavailable, StoreFull: some may have been noted; say it again.
        """

        async def note() -> None:
            script = self._scripts["note_ban"]
            for first in range(0, len(bans), PLAYERS_AT_ONCE):
                async with self._client.pipeline(transaction=False) as pipeline:
                    for user_id, ban in bans[first : first + PLAYERS_AT_ONCE]:
                        until_ms = -1 if ban.is_lifted else 0 if ban.until_ms is None else max(1, ban.until_ms)
                        await script(
                            keys=[self._keys.ban(user_id)],
                            args=[ban.asked_us, until_ms, ban.message, LIFTED_KEPT_S],
                            client=pipeline,
                        )
                    await pipeline.execute()

        if bans:
            await self._call("note_bans", note)

    async def find_ban(self, user_id: str) -> Ban | None:
        """The last word that Redis has; None: it has none, which proves nothing."""
        found: Any = await self._call("find_ban", lambda: self._client.get(self._keys.ban(user_id)))
        return None if found is None else parse_ban(found)

    # --- sending players away --------------------------------------------------------------------------------------

    async def say_farewell(self, user_id: str, session_id: str, node: str, farewell: Farewell) -> None:
        """
        Have the gateway that holds a session close its connection, and leave the reason for whoever misses the notice.
        Before the session is ended: so its connection hears why, and not only that it is over.
        """
        facts = json.dumps([session_id, farewell.code, farewell.message, farewell.retry_after_ms], ensure_ascii=False)

        async def say() -> None:
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.set(self._keys.farewell(user_id), facts, ex=FAREWELL_KEPT_S)
                pipeline.publish(notices_channel(node), f"close {user_id} {facts}")
                await pipeline.execute()

        await self._call("say_farewell", say)

    async def find_farewell(self, user_id: str, session_id: str) -> Farewell | None:
        """Why an operator ended this session; None: no operator did, or long ago."""
        found = await self._call("find_farewell", lambda: self._client.get(self._keys.farewell(user_id)))
        if found is None:
            return None
        ended, code, message, retry_after_ms = json.loads(found)
        return Farewell(code, message, retry_after_ms) if ended == session_id else None

    # --- gateways --------------------------------------------------------------------------------------------------

    async def ask_to_drain(self, node: str, is_on: bool) -> bool:
        """Tell a gateway to send its players away, or to take them again. False: nobody listens under that name."""
        heard = await self._call(
            "ask_to_drain", lambda: self._client.publish(notices_channel(node), f"drain {int(is_on)}")
        )
        return bool(heard)

    async def note_drained(self, node: str, is_on: bool) -> None:
        """What a gateway does when it was told."""
        await self._call("note_drained", lambda: self._client.set(drained_key(node), int(is_on), ex=DRAINED_KEPT_S))

    async def is_drained(self, node: str) -> bool | None:
        """What a gateway was last told and has heard; None: nothing."""
        found = await self._call("is_drained", lambda: self._client.get(drained_key(node)))
        return None if found is None else found == b"1"

    # --- maintenance -----------------------------------------------------------------------------------------------

    async def note_maintenance(self, maintenance: Maintenance) -> None:
        facts = [maintenance.is_on, maintenance.starts_ms, maintenance.message, maintenance.asked_us]
        await self._call("note_maintenance", lambda: self._client.set(MAINTENANCE_KEY, json.dumps(facts)))

    async def find_maintenance(self) -> Maintenance | None:
        found = await self._call("find_maintenance", lambda: self._client.get(MAINTENANCE_KEY))
        return None if found is None else Maintenance(*json.loads(found))

    # --- who is there ----------------------------------------------------------------------------------------------

    async def count_sessions(self) -> int:
        """Players who have a session, connected or not."""

        async def count() -> list[int]:
            async with self._client.pipeline(transaction=False) as pipeline:
                for partition in range(self._keys.partitions):
                    pipeline.zcard(self._keys.expiry(partition))
                counted: list[int] = await pipeline.execute()
                return counted

        return sum(await self._call("count_sessions", count))

    async def list_sessions(self) -> AsyncIterator[list[tuple[str, str, str]]]:
        """Everybody who has a session, in pages of (user id, experience, node)."""
        for partition in range(self._keys.partitions):
            key = self._keys.expiry(partition)
            range_of: Callable[[], Awaitable[Any]] = partial(self._client.zrange, key, 0, -1)
            members: list[bytes] = await self._call("list_sessions", range_of)
            for first in range(0, len(members), PLAYERS_AT_ONCE):
                users = [member.decode() for member in members[first : first + PLAYERS_AT_ONCE]]

                async def ask(users: list[str] = users) -> list[list[bytes | None]]:
                    async with self._client.pipeline(transaction=False) as pipeline:
                        for user_id in users:
                            pipeline.hmget(self._keys.session(user_id), "current_experience", "node")
                        answered: list[list[bytes | None]] = await pipeline.execute()
                        return answered

                found = await self._call("list_sessions", ask)
                page = [
                    (user_id, held[0].decode(), (held[1] or b"").decode())
                    for user_id, held in zip(users, found, strict=True)
                    if held[0] is not None
                ]
                if page:
                    yield page


def parse_ban(text: bytes) -> Ban:
    """What note_ban.lua keeps."""
    asked_us, until_ms, message = text.split(b" ", 2)
    until = int(until_ms)
    return Ban(int(asked_us), None if until <= 0 else until, message.decode(), is_lifted=until < 0)


def parse_control_notice(data: bytes) -> CloseNotice | DrainNotice | None:
    """What `say_farewell` and `ask_to_drain` publish; None for anything else on that channel."""
    try:
        if data.startswith(b"close "):
            _, user_id, facts = data.split(b" ", 2)
            session_id, code, message, retry_after_ms = json.loads(facts)
            return CloseNotice(user_id.decode(), session_id, Farewell(code, message, retry_after_ms))
        if data.startswith(b"drain "):
            return DrainNotice(data == b"drain 1")
    except (ValueError, TypeError):
        pass
    return None
