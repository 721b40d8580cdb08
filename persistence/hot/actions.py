"""
Operators' actions, messages to players, and reads of a part of a copy.

Not here: what an action is and in which order actions are issued (persistence.actions), frames (gateway.sessions).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis_asyncio

from persistence.hot.client import HotClient, HotRules, pack
from persistence.hot.copies import pairs, parse_progress
from persistence.hot.flat_ops import FieldList
from persistence.hot.keys import HotKeys
from persistence.hot.shapes import (
    ActionOutcome,
    ActionVerdict,
    HotAction,
    HotProgress,
    HotPush,
    KeptPushes,
    PushNotice,
)
from persistence.progress_key import ProgressKey
from protocol.limits import COUNTER_MAX, COUNTER_SCALE, STATE_BYTES_MAX, STATE_FIELDS_MAX

PUSHES_MAX = 64
"""Messages that are kept for a client that is away; one that missed more gets its whole state instead."""

_NOT_VOID = (0, "")


class Actions(HotClient):
    def __init__(self, client: redis_asyncio.Redis, keys: HotKeys, rules: HotRules) -> None:
        super().__init__(client, keys, rules)
        self._pushes_ttl_s = max(1, rules.session_expiry_ms // 1000)
        self._action_options: bytes = pack(
            (
                rules.flush_interval_ms,
                STATE_FIELDS_MAX,
                STATE_BYTES_MAX,
                COUNTER_MAX * COUNTER_SCALE,
                PUSHES_MAX,
                self._pushes_ttl_s,
            )
        )

    async def apply_action(self, action: HotAction) -> ActionVerdict:
        """
        Apply one action, in the order of the stream `ops`. Repeating it is harmless, whoever does.

        Raises:
            StoreUnavailable: it may have been applied; ask again.
            StoreFull: nothing was done.
        """
        key = action.key
        session, progress, pending, dirty, _ = self._keys.of_group(key)
        fields = FieldList()
        items = fields.refer(action.ops)
        code, message = action.void or _NOT_VOID
        packed = pack(
            (
                key.user_id,
                key.experience,
                action.row_id,
                action.seq,
                action.entry_id,
                action.body,
                key.member,
                action.durable,
                action.push,
                code,
                message,
                len(fields.names),
                *fields.names,
                *items,
            )
        )
        expects: list[str | bool] = []
        for name, value in action.expects.items():
            expects += (name, False if value is None else value)
        reply = await self._run(
            "apply_action",
            [session, progress, pending, dirty, self._keys.pushes(key.user_id), self._keys.fence(key.user_id)],
            [self._action_options, packed, pack(expects)],
        )
        outcome = ActionOutcome(reply[0])
        if len(reply) < 6:
            return ActionVerdict(outcome, reply[1] if len(reply) > 1 else 0)
        _, accepted, version, void_code, void_message, pushed, *found = reply
        void = (void_code, void_message.decode()) if void_code else None
        before = None
        if found and void is None:
            before = {
                name: None if held is None else held.decode() for name, held in zip(fields.names, found[0], strict=True)
            }
        return ActionVerdict(outcome, accepted, version, void, pushed, before)

    # --- messages --------------------------------------------------------------------------------------------------

    async def push(self, user_id: str, message_id: str, body: bytes, *, experience: str | None = None) -> int:
        """
        Send a message to a player who is there (in `experience`, if one is named). Returns its number in the session,
        or 0: nobody is there. The same `message_id` again changes nothing as long as the message is kept.
        """
        n: int = await self._run(
            "push",
            [self._keys.session(user_id), self._keys.pushes(user_id)],
            [user_id, experience or "", message_id, body, PUSHES_MAX, self._pushes_ttl_s],
        )
        return n

    async def list_pushes(self, user_id: str, session_id: str, behind: int) -> KeptPushes | None:
        """What is kept of a session's messages behind the number `behind`; None: this session is over."""
        reply = await self._run(
            "list_pushes", [self._keys.session(user_id), self._keys.pushes(user_id)], [session_id, behind]
        )
        if reply[0] < 0:
            return None
        pushed, offset, kept = reply
        first = pushed - len(kept) + 1
        return KeptPushes(pushed, offset, [_parse_push(first + i, message) for i, message in enumerate(kept)])

    async def count_pushes(self, sessions: Sequence[tuple[str, str]]) -> list[int | None]:
        """How many messages there were in each session, given as (user id, session id); None: it is over."""

        async def ask() -> list[list[bytes | None]]:
            async with self._client.pipeline(transaction=False) as pipeline:
                for user_id, _ in sessions:
                    pipeline.hmget(self._keys.session(user_id), "id", "pushed")
                answered: list[list[bytes | None]] = await pipeline.execute()
                return answered

        found = await self._call("count_pushes", ask) if sessions else []
        return [
            int(pushed or 0) if held is not None and held.decode() == session_id else None
            for (_, session_id), (held, pushed) in zip(sessions, found, strict=True)
        ]

    async def reset_pushes(self, user_id: str, session_id: str, delivered: int) -> tuple[int, int] | None:
        """
        Let the client count from 1 again, from behind `delivered`. Returns (messages so far, offset of the client's
        count); None: this session is over.
        """
        reply = await self._run(
            "reset_pushes", [self._keys.session(user_id), self._keys.pushes(user_id)], [session_id, delivered]
        )
        return None if reply[0] < 0 else (reply[0], reply[1])

    async def trim_pushes(self, user_id: str, session_id: str, seen: int) -> int:
        """Forget what the client has seen, up to that number. Returns how many were forgotten."""
        forgotten: int = await self._run(
            "trim_pushes", [self._keys.session(user_id), self._keys.pushes(user_id)], [session_id, seen]
        )
        return forgotten

    # --- a part of a copy ------------------------------------------------------------------------------------------

    async def read_progress(self, key: ProgressKey) -> HotProgress | None:
        """As `find_progress`, and it counts as a use of the copy."""
        progress = self._keys.progress(key)
        answered, _ = await self._line.ask_all("read_progress", ("HGETALL", progress), self._use(progress))
        found = pairs(answered)
        return parse_progress(found) if b"copy" in found else None

    async def find_members(self, key: ProgressKey, name: str) -> list[str] | None:
        """The members of a set of the state, sorted; None without a hot copy. A read counts as a use of the copy."""
        progress = self._keys.progress(key)
        prefix = f"m:{name}."

        found: set[bytes] = set()
        cursor = b"0"
        while True:
            copy, (cursor, flat), _ = await self._line.ask_all(
                "find_members",
                ("HGET", progress, "copy"),
                ("HSCAN", progress, cursor, "MATCH", f"{prefix}*", "COUNT", 10_000),
                self._use(progress),
            )
            found.update(flat[::2])
            if cursor == b"0" or copy is None:
                break
        if copy is None:
            return None
        # `*` matches a longer name's members, too, if the name has a character that stands for others: ours have none.
        return sorted(field.decode()[len(prefix) :] for field in found)

    async def has_member(self, key: ProgressKey, name: str, member: str) -> bool | None:
        """Whether a set of the state has a member; None without a hot copy. A read counts as a use of the copy."""
        progress = self._keys.progress(key)

        (copy, held), _ = await self._line.ask_all(
            "has_member", ("HMGET", progress, "copy", f"m:{name}.{member}"), self._use(progress)
        )
        return None if copy is None else held is not None

    def _use(self, progress: str) -> tuple[Any, ...]:
        """The command that counts as a use of a copy: it stays for as long again, unless what is unsaved keeps it."""
        return ("EXPIRE", progress, self._rules.progress_idle_s, "XX")


def parse_push_notice(data: bytes) -> PushNotice | None:
    """What `append_push` publishes; None for anything else on that channel."""
    if not data.startswith(b"push "):
        return None
    try:
        _, user_id, session_id, n, message = data.split(b" ", 4)
        return PushNotice(user_id.decode(), session_id.decode(), _parse_push(int(n), message))
    except ValueError:
        return None


def _parse_push(n: int, message: bytes) -> HotPush:
    id, after, version, body = message.split(b" ", 3)
    if version == b"-":
        return HotPush(n, id.decode(), None, None, body)
    return HotPush(n, id.decode(), int(after), int(version), body)
