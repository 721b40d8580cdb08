"""
Frames from clients to what they ask for. `HANDLERS` is the table: every frame type, once.

Promise: whatever one connection sends, only that connection feels it. A frame that is refused gets one error; a fault
of
ours is logged once and closes that connection with a code that lets it resume.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.sessions import pushes
from gateway.sessions.connection import Connection, Phase
from gateway.sessions.faults import error_of
from gateway.sessions.intake import take_updates
from gateway.sessions.opening import open_connection
from gateway.sessions.queries import BadQuery, answer_query
from gateway.sessions.rules import FRAMES_PER_S_MAX, PONG_DEADLINE_S, QUERIES_MAX
from gateway.sessions.tokens import TokenRefused
from protocol import frames
from protocol.errors import ErrorCode, FrameError
from protocol.frames import Batch, Hello, Leave, Ping, Query, Refresh, Suspend, Update, parse_client_frame

PINGS_MAX = 4
"""Open pings of one connection that wait for a look at the hot copy; more are answered without one."""


_ENDED = Phase.ENDED


def receive(connection: Connection, payload: bytes) -> None:
    """One message of a connection. Never raises."""
    if connection.phase is _ENDED:
        return
    connection.heard_at = now = connection.node.clock()
    if now - connection.frames_since < 1.0 and connection.frames < FRAMES_PER_S_MAX:
        connection.frames += 1
    elif not connection.count_frame(now):
        return
    try:
        frame = parse_client_frame(connection.codec.decode(payload))
        connection.suspended_until = 0.0
        if type(frame) is Update:
            take_updates(connection, (frame,))
        else:
            HANDLERS[type(frame)](connection, frame)
    except FrameError as fault:
        _refuse(connection, fault)
    except Exception as error:
        connection.node.fail(connection, error)


def _refuse(connection: Connection, fault: FrameError) -> None:
    if fault.seq is not None and fault.seq == connection.expected:
        # This error names the number that must come next, so numbers behind it need no error of their own.
        connection.is_held = True
    connection.send_error(fault.code, fault.message, seq=fault.seq, id=fault.id)
    connection.note_bad_frame()


def _hello(connection: Connection, hello: Hello) -> None:
    if connection.phase is not Phase.WAITING:
        connection.send_error(ErrorCode.NOT_IN_SESSION, "hello was said already")
        connection.note_bad_frame()
        return
    connection.phase = Phase.OPENING
    connection.node.start_flow(connection, open_connection(connection, hello), "hello")


def _batch(connection: Connection, batch: Batch) -> None:
    take_updates(connection, batch.updates)


def _ping(connection: Connection, ping: Ping) -> None:
    if not _is_in_session(connection):
        return
    if ping.seen is not None:
        pushes.note_seen(connection, ping.seen)
    connection.pings = [*connection.pings, ping.at]
    if connection.phase is not Phase.PLAYING or len(connection.pings) > PINGS_MAX:
        connection.answer_pings(None)
        return
    connection.node.await_pong(connection, PONG_DEADLINE_S)
    connection.node.committer.enqueue(connection)


def _suspend(connection: Connection, suspend: Suspend) -> None:
    if not _is_in_session(connection):
        return
    rules = connection.node.rules
    # The session must outlive the silence, with time left for the heartbeats that may be missed after it.
    expires_s = min(suspend.expected_s, rules.session_expiry_s - rules.silence_s)
    connection.suspended_until = connection.node.clock() + expires_s
    # A look at the store now: its clock for this session starts here.
    connection.node.committer.enqueue(connection)
    connection.send(frames.suspended(expires_s))


def _refresh(connection: Connection, refresh: Refresh) -> None:
    if not _is_in_session(connection):
        return
    node = connection.node
    try:
        claims = node.tokens.check(refresh.token)
    except TokenRefused as refused:
        fault = error_of(refused)
        connection.send_error(fault.code, fault.message)
        connection.note_bad_frame()
        return
    if claims.user_id != connection.key.user_id or not claims.allows(connection.key.experience):
        connection.send_error(ErrorCode.FORBIDDEN, "the token is for another player or experience")
        connection.note_bad_frame()
        return
    assert claims.expires_at is not None
    expires_s = max(0.0, claims.expires_at - node.now_ms() / 1000)
    connection.token_due = node.clock() + expires_s
    connection.schedule_look(node.clock())
    connection.claims = claims.to_json()
    connection.send(frames.refreshed(expires_s))


def _leave(connection: Connection, leave: Leave) -> None:
    if not _is_in_session(connection) or connection.wants_leave:
        return
    connection.wants_leave = True
    # What it has handed over by now; a copy that is rebuilt may know less.
    connection.leave_seq = max(connection.told, connection.expected - 1)
    if connection.phase is Phase.PLAYING and not connection.queue and not connection.in_flight:
        connection.node.start_leave(connection)


def _query(connection: Connection, query: Query) -> None:
    if connection.phase is not Phase.PLAYING and connection.phase is not Phase.RECOVERING:
        connection.send_error(ErrorCode.NOT_IN_SESSION, "say hello first", id=query.id)
        return
    if connection.queries >= QUERIES_MAX:
        connection.send_error(ErrorCode.RATE_LIMITED, "too many queries at once", id=query.id, retry_after_ms=500)
        return
    connection.queries += 1
    connection.node.start_query(connection, _answer(connection, query))


async def _answer(connection: Connection, query: Query) -> None:
    try:
        data = await answer_query(connection, query)
    except BadQuery as bad:
        if connection.is_open:
            connection.send_error(ErrorCode.INVALID_MESSAGE, str(bad), id=query.id)
    except Exception as error:
        fault = error_of(error)
        if not fault.is_expected:
            connection.node.log_fault(connection, error)
        if connection.is_open:
            connection.send_error(fault.code, fault.message, id=query.id, retry_after_ms=fault.retry_after_ms)
    else:
        if connection.is_open:
            connection.send(frames.result(query.id, data))
    finally:
        connection.queries -= 1


def _is_in_session(connection: Connection) -> bool:
    """Whether it was welcomed; 104 otherwise."""
    if connection.phase is Phase.WAITING or connection.phase is Phase.OPENING:
        connection.send_error(ErrorCode.NOT_IN_SESSION, "say hello first")
        if connection.phase is Phase.WAITING:
            connection.note_bad_frame()
        return False
    return True


HANDLERS: dict[type, Callable[[Connection, Any], None]] = {
    Hello: _hello,
    Batch: _batch,
    Ping: _ping,
    Suspend: _suspend,
    Refresh: _refresh,
    Leave: _leave,
    Query: _query,
}
