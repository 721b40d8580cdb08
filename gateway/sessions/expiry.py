"""
The expiry sweep: sessions that nobody used for too long end, and their last steps are flushed.

Promise: one sweeper wins, however many nodes sweep; a session that was used in the meantime goes on. What cannot be
ended now (Postgres away, copy missing) stays listed and is tried again. Sessions that Redis lost altogether are closed
in Postgres as `lost` after the same time; a real end that comes after all replaces that.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from gateway.sessions.session_entries import end_entry
from gateway.telemetry.logs import get_logger
from persistence.errors import StoreFull, StoreUnavailable
from persistence.hot.shapes import EndSession, HotSession, Outcome, SessionEntry
from persistence.progress_key import ProgressKey

if TYPE_CHECKING:
    from gateway.sessions.node import Node

SWEEP_S = 1.0
SWEEP_SESSIONS_MAX = 200
AT_ONCE = 4
LOST_SWEEP_S = 60.0
LOST_SESSIONS_MAX = 500
LOST_PAGES_MAX = 40

log = get_logger("expiry")


class ExpirySweeper:
    """One per node. `run` never raises; a store that is away is asked again with the next sweep."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._missing_since: dict[str, float] = {}
        self._lost_due = node.clock() + LOST_SWEEP_S * random.random()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.sweep()
                if self._node.clock() >= self._lost_due:
                    self._lost_due = self._node.clock() + LOST_SWEEP_S * random.uniform(0.7, 1.3)
                    await self.sweep_lost()
            except (StoreUnavailable, StoreFull) as error:
                log.debug("sweep_failed", error=str(error))
            except Exception:
                log.error("sweep_failed", exc_info=True)
            # Jittered: many nodes must not all ask in the same moment.
            await _wait(stop, SWEEP_S * random.uniform(0.7, 1.3))

    async def sweep(self) -> int:
        """End what is over; returns how many sessions this node ended."""
        user_ids = await self._node.hot.list_expired_sessions(SWEEP_SESSIONS_MAX)
        ended = 0
        for first in range(0, len(user_ids), AT_ONCE):
            results = await asyncio.gather(
                *(self._expire(user_id) for user_id in user_ids[first : first + AT_ONCE]), return_exceptions=True
            )
            for result in results:
                if isinstance(result, (StoreUnavailable, StoreFull)):
                    log.debug("expiry_waits", error=str(result))
                elif isinstance(result, BaseException):
                    log.error("expiry_failed", exc_info=result)
                else:
                    ended += result
        return ended

    async def sweep_lost(self) -> int:
        """
        Close what Postgres takes for open although no such session is hot; returns how many. A session is closed only
        when it has been missing for as long as a living connection needs to bring it back.
        """
        node = self._node
        closed = 0
        after = None
        now = node.clock()
        known, self._missing_since = self._missing_since, {}
        for _ in range(LOST_PAGES_MAX):
            page = await node.cold.list_open_sessions(node.rules.session_expiry_s, LOST_SESSIONS_MAX, after)
            lost = []
            for session_id, key in page:
                after = session_id
                session = await node.hot.find_session(key.user_id)
                if session is None or session.id != session_id:
                    # Kept until it is closed: its row may be locked now, and is then tried again.
                    since = self._missing_since[session_id] = known.get(session_id, now)
                    if now - since >= node.rules.silence_s:
                        lost.append(session_id)
            if lost and (done := await node.cold.close_lost_sessions(lost)):
                log.warning("lost_sessions_closed", sessions=len(done))
                closed += len(done)
            if len(page) < LOST_SESSIONS_MAX:
                break
        return closed

    async def _expire(self, user_id: str) -> bool:
        node = self._node
        session = await node.hot.find_session(user_id)
        if session is None:
            # An index row without a session: asking to end it removes the row.
            nobody = EndSession(ProgressKey(user_id, "-"), "", SessionEntry(node.entry_ids.next(), b""))
            await node.hot.end_session(nobody)
            return False
        connection = node.players.get(user_id)
        if connection is not None and connection.session_id == session.id and not connection.suspended_until:
            # It lives: its heartbeats were only not written (an outage). This one will be.
            node.committer.enqueue(connection)
            return False
        outcome = await self._end(session)
        if outcome is Outcome.MISSING:
            key = ProgressKey(user_id, session.experience)
            if await node.hydrator.hydrate(key, session.device) is None:
                log.error("session_without_progress", progress=key.member, session=session.id)
                outcome = await self._end(session, is_rowless=True)
            else:
                outcome = await self._end(session)
        return outcome is Outcome.OK

    async def _end(self, session: HotSession, *, is_rowless: bool = False) -> Outcome:
        node = self._node
        ended = await node.hot.end_session(
            EndSession(
                key=ProgressKey(session.user_id, session.experience),
                session_id=session.id,
                # It was over when it was last used, not when we noticed.
                entry=end_entry(node.entry_ids, session, session.last_activity_ms, "expired"),
                last_activity_ms=session.last_activity_ms,
                is_rowless=is_rowless,
            )
        )
        return ended.outcome


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        pass
