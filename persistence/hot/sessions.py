"""
Sessions in Redis: found, taken or started, ended by exactly one.

Not here: who may have a session, and what ends one (gateway.sessions).
"""

from __future__ import annotations

from collections.abc import Mapping

from persistence.hot.client import HotClient, pack
from persistence.hot.control import parse_ban
from persistence.hot.copies import pairs, parse_progress
from persistence.hot.shapes import EndSession, HotSession, OpenSession, Outcome, SessionEnd, SessionOpened

_ANY_CONNECTION = -1
"""Whatever number the session's connection has: `OpenSession.takes`."""


class Sessions(HotClient):
    async def find_session(self, user_id: str) -> HotSession | None:
        found = await self._line.ask("find_session", "HGETALL", self._keys.session(user_id))
        return _parse_session(user_id, pairs(found))

    async def open_session(self, request: OpenSession) -> SessionOpened:
        """
        Take or start a session; the progress comes with it. See `OpenSession` for the rules.

        After StoreUnavailable the session may have been opened: look again with `find_session` and decide anew.
        """
        seen_id, seen_connection = request.seen or ("", 0)
        if request.takes:
            seen_id, seen_connection = request.session_id, _ANY_CONNECTION
        start, end = request.start_entry, request.end_entry
        packed = pack(
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
                self._rules.session_expiry_ms,
                self._rules.flush_interval_ms,
                request.key.member,
                -1 if request.token_ms is None else request.token_ms,
            )
        )
        reply = await self._line.run(
            "open_session", (*self._keys.of_group(request.key), self._keys.ban(request.key.user_id)), (packed,)
        )
        outcome = Outcome(reply[0])
        if outcome is Outcome.BANNED:
            return SessionOpened(outcome, ban=parse_ban(reply[1]))
        if outcome is not Outcome.OK:
            there = _parse_session(request.key.user_id, pairs(reply[1])) if len(reply) > 1 else None
            return SessionOpened(outcome, session=there)
        return SessionOpened(outcome, reply[1], parse_progress(pairs(reply[2])), reply[3], reply[4], reply[5])

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
                self._rules.session_expiry_ms,
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


def _parse_session(user_id: str, found: Mapping[bytes, bytes]) -> HotSession | None:
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
