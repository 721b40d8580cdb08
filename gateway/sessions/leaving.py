"""
Leave: end the session, wait until Postgres has everything, say `left`.

Promise: `left` with saved true means that a flush has committed the end of the session and every update that this
connection handed over: the client may drop its journal. When that takes too long, or the store has forgotten some of
them, the client hears false and may go: what was accepted is kept in Redis and flushed without it.
"""

from __future__ import annotations

import asyncio

from gateway.sessions.connection import CLOSE_NORMAL, Connection, Phase
from gateway.sessions.faults import Goodbye
from gateway.sessions.recovery import rebuild
from gateway.sessions.rules import LEAVE_DEADLINE_S, OPEN_ATTEMPTS_MAX
from gateway.sessions.session_entries import end_entry
from persistence.errors import StoreUnavailable
from persistence.hot.shapes import EndSession, HotSession, Outcome
from protocol import frames
from protocol.closes import CloseCode

POLL_S = 1.0
"""A notice may be lost; so often we look ourselves."""

_RETRY_S = 0.2


async def leave(connection: Connection) -> None:
    """
    From `leave` to `left` and a normal close.

    Raises:
        Goodbye: the session is somebody else's or over already.
    """
    connection.answer_pings(None)
    deadline = connection.node.clock() + LEAVE_DEADLINE_S
    is_saved = False
    try:
        async with asyncio.timeout(LEAVE_DEADLINE_S):
            version = await _end(connection)
            is_saved = await _wait_until_saved(connection, version, deadline)
    except TimeoutError:
        pass
    if connection.phase is Phase.LEAVING:
        connection.send(frames.left(is_saved))
        connection.end(CLOSE_NORMAL)


async def _end(connection: Connection) -> int:
    """End the session; returns the version whose saving makes the end saved."""
    node = connection.node
    may_have_ended = False
    for _ in range(OPEN_ATTEMPTS_MAX * 4):
        session = HotSession(
            user_id=connection.key.user_id,
            id=connection.session_id,
            experience=connection.key.experience,
            device=connection.device,
            node=node.name,
            connection=connection.number,
            started_ms=connection.started_ms,
            last_activity_ms=0,
            claims="",
        )
        request = EndSession(
            key=connection.key,
            session_id=connection.session_id,
            entry=end_entry(node.entry_ids, session, node.now_ms(), "left"),
            connection=connection.number,
        )
        try:
            ended = await node.hot.end_session(request)
        except StoreUnavailable:
            may_have_ended = True
            await asyncio.sleep(_RETRY_S)
            continue
        match ended.outcome:
            case Outcome.OK:
                return ended.version
            case Outcome.FENCED:
                raise Goodbye(CloseCode.REPLACED)
            case Outcome.MISSING:
                try:
                    await rebuild(connection)
                except StoreUnavailable:
                    await asyncio.sleep(_RETRY_S)
            case _:
                if may_have_ended:
                    progress = await node.hot.find_progress(connection.key)
                    if progress is not None:
                        return progress.version
                raise Goodbye(CloseCode.SESSION_ENDED)
    raise TimeoutError


async def _wait_until_saved(connection: Connection, version: int, deadline: float) -> bool:
    """True once Postgres has `version`: by a notice, or by looking."""
    node = connection.node
    connection.leave_version = version
    while True:
        connection.leave_saved = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(connection.leave_saved, min(POLL_S, max(0.01, deadline - node.clock())))
            return True
        except TimeoutError:
            if node.clock() >= deadline:
                return False
        try:
            progress = await node.hot.find_progress(connection.key)
        except StoreUnavailable:
            continue
        if progress is None:
            return False  # the copy went away before it was saved, or long after: we cannot tell
        if progress.accepted.get(connection.device, 0) < connection.leave_seq:
            return False  # the store forgot some of it: it is in the journal, for the next hello
        if progress.base_version >= version and progress.saved.get(connection.device, 0) >= connection.leave_seq:
            return True
