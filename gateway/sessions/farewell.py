"""
What a player is told whose session an operator ended: the close code and the operator's words.

Promise: whoever was kicked or banned hears that, not only that the session is over. A notice brings it at once; when
the notice is late or lost, the next verdict says that the session has ended, and then the reason is looked up.

Not here: ending the session (gateway.liveops.actions), refusing hellos (opening.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.sessions.faults import Goodbye
from gateway.telemetry.logs import get_logger
from persistence.ban import Ban
from persistence.errors import PersistenceError
from persistence.hot.shapes import CloseNotice, Farewell
from protocol.closes import CloseCode

if TYPE_CHECKING:
    from gateway.sessions.connection import Connection
    from gateway.sessions.node import Node

RETRY_MAX_MS = 2**53 - 1
"""What JavaScript can still say exactly."""

log = get_logger("sessions")


def banned(ban: Ban, now_ms: int) -> Goodbye:
    """Why a player may not play now, and in how long again (nothing said: never)."""
    retry_ms = None if ban.until_ms is None else min(max(0, ban.until_ms - now_ms), RETRY_MAX_MS)
    return Goodbye(CloseCode.BANNED, retry_ms, ban.message)


async def say_why_it_ended(connection: Connection) -> None:
    """
    The store says that this session is over.

    Raises:
        Goodbye: always, with the reason.
    """
    farewell = None
    try:
        farewell = await connection.node.hot.find_farewell(connection.key.user_id, connection.session_id)
    except PersistenceError as error:
        log.info("farewell_not_read", progress=connection.key.member, error=str(error))
    raise _goodbye(farewell or Farewell(CloseCode.SESSION_ENDED))


def take_close_notice(node: Node, notice: CloseNotice) -> None:
    """An operator ends the session of a player who may be here; perhaps of one that is over already."""
    connection = node.players.get(notice.user_id)
    if connection is not None and connection.session_id == notice.session_id:
        node.fail(connection, _goodbye(notice.farewell))


def _goodbye(farewell: Farewell) -> Goodbye:
    try:
        code = CloseCode(farewell.code)
    except ValueError:
        code = CloseCode.SESSION_ENDED  # said by a newer release
    return Goodbye(code, farewell.retry_after_ms, farewell.message)
