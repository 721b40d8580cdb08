"""
What the hot store found, turned into what a client is told. `VERDICTS` is the table: every outcome, once.

| outcome | the client gets |
|---|---|
| OK | `ack`, and `pong` with `saved`; before that the pushes that came in between |
| GAP | `ack` for what was taken, error 103 with `expected` |
| FULL | `ack` for what was taken, error 202: the rest waits in its journal |
| QUARANTINED | `ack` for what was taken, error 201 |
| MISSING, NO_DEVICE | after a hydrate: `resync` redis_lost |
| DIFFERENT_COPY | `resync` diverged |
| BEHIND | after a hydrate: `resync` behind |
| FENCED | close 4201 |
| SESSION_ENDED | close 4007, or what the operator said who ended it |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gateway.sessions import pushes
from gateway.sessions.connection import Connection, Phase
from gateway.sessions.faults import retry_after_ms
from persistence.hot.shapes import GroupVerdict, Outcome, UpdateGroup
from protocol import frames
from protocol.closes import CloseCode
from protocol.errors import ErrorCode

_PLAYING = Phase.PLAYING
_OK = Outcome.OK


def take_verdict(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    """Count and tell. The connection may have ended meanwhile; what was accepted stays accepted."""
    outcome, accepted, version, _, taken, repeated, voids = verdict
    if taken or repeated:
        tally = connection.node.tally
        void_count = sum(1 for seq, _, _ in voids if seq > accepted - taken) if voids else 0
        tally.updates_accepted += taken - void_count
        tally.updates_void += void_count
        tally.updates_repeated += repeated
        if connection.node.spectator is not None and taken:
            connection.node.spectator.note_updates(connection, group, verdict)
    if connection.phase is not _PLAYING:
        return
    if outcome is _OK:
        if version == connection.version + taken and connection.feed is None:
            _answer(connection, group, verdict)
        else:
            _ok(connection, group, verdict)
    else:
        VERDICTS[outcome](connection, group, verdict)
    if connection.phase is _PLAYING:
        if connection.is_paused:
            connection.check_window()
        if connection.wants_leave and not connection.queue and not connection.in_flight:
            connection.node.start_leave(connection)


def take_full(connection: Connection, group: UpdateGroup) -> None:
    """Redis has no memory left: nothing of the call was taken."""
    if connection.phase is not Phase.PLAYING:
        return
    connection.answer_pings(None)
    if group.updates:
        _hold(connection, group.updates[0].seq, ErrorCode.OVERLOADED, "the hot store is full")
    connection.check_window()


def take_outage(connection: Connection) -> None:
    """Redis did not answer for too long: another node may reach it, and the journal keeps everything."""
    connection.end(CloseCode.UNAVAILABLE, retry_after_ms())


def _ok(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    if (verdict.version != connection.version + verdict.taken or connection.feed is not None) and pushes.must_wait(
        connection, verdict, partial(_answer, connection, group, verdict)
    ):
        if group.updates:
            connection.told = verdict.accepted
        if connection.pings:
            connection.answer_pings(None)
        return
    _answer(connection, group, verdict)


def _answer(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    _, accepted, version, saved, _, _, voids = verdict
    connection.version = version
    if group.updates:
        connection.told = accepted
        if saved > connection.saved_told:
            connection.saved_told = saved
        if voids:
            connection.send(frames.ack(accepted, version, saved, voids))
        else:
            connection.wire.send(connection.codec.encode_ack(accepted, version, saved))
    if connection.pings:
        if saved > connection.saved_told:
            connection.saved_told = saved
        connection.answer_pings(saved)


def _is_answered(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> bool:
    """Whether what was taken before an error is answered now: if it has to wait, a resync says both."""
    if not verdict.taken and not verdict.repeated:
        connection.answer_pings(verdict.saved)
        return True
    _ok(connection, group, verdict)
    if connection.phase is Phase.PLAYING and connection.feed is not None and connection.feed.held:
        connection.node.start_recovery(connection, "behind")
    return connection.phase is Phase.PLAYING


def _gap(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    if not _is_answered(connection, group, verdict):
        return
    expected = verdict.accepted + 1
    connection.go_back_to(expected)
    connection.send_error(ErrorCode.SEQUENCE_GAP, f"expected {expected}", expected=expected)


def _full(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    if not _is_answered(connection, group, verdict):
        return
    _hold(connection, verdict.accepted + 1, ErrorCode.OVERLOADED, "too much of this progress is not saved yet")


def _quarantined(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    if not _is_answered(connection, group, verdict):
        return
    _hold(connection, verdict.accepted + 1, ErrorCode.UNAVAILABLE, "this progress cannot be saved now")


def _hold(connection: Connection, seq: int, code: ErrorCode, message: str) -> None:
    """One 2xx for `seq`; what is above it is ignored until it comes again."""
    connection.go_back_to(seq)
    connection.send_error(code, message, seq=seq, retry_after_ms=retry_after_ms())


def _lost(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    connection.node.start_recovery(connection, "redis_lost")


def _diverged(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    connection.node.start_recovery(connection, "diverged")


def _behind(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    connection.node.start_recovery(connection, "behind")


def _fenced(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    connection.end(CloseCode.REPLACED)


def _session_ended(connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
    connection.node.start_farewell(connection)


VERDICTS: dict[Outcome, Callable[[Connection, UpdateGroup, GroupVerdict], None]] = {
    Outcome.OK: _ok,
    Outcome.GAP: _gap,
    Outcome.FULL: _full,
    Outcome.QUARANTINED: _quarantined,
    Outcome.MISSING: _lost,
    Outcome.NO_DEVICE: _lost,
    Outcome.DIFFERENT_COPY: _diverged,
    Outcome.BEHIND: _behind,
    Outcome.FENCED: _fenced,
    Outcome.SESSION_ENDED: _session_ended,
}

# These are answers to other questions.
assert set(Outcome) - set(VERDICTS) == {Outcome.CHANGED, Outcome.ACTIVE, Outcome.ERASED, Outcome.BANNED}
