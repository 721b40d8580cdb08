"""
Updates from frames into the queue of their connection: order, rate, what they ask for, when they happened.

Promise: an update that is next in line enters the queue, as an entry with effects or as a void one; whatever is wrong
inside it, its number is used up. Only 2xx leaves a number unused, and then exactly one error says so. A number that was
seen before goes to the store again, which knows what was answered then.

This is the hot path: it runs once for every step a player makes.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.sessions.connection import Connection, Phase
from gateway.sessions.rules import EVENT_AGE_MAX_MS, EVENT_AHEAD_MAX_MS
from persistence.hot.shapes import HotUpdate
from protocol.effects import compile_update
from protocol.entry import UPDATE_LAYOUT, encode_update_body, pack_update_body
from protocol.errors import ErrorCode, VoidUpdate
from protocol.frames import Update

EVENT_TYPE_OF_UPDATE = "update"
"""The event type of an update that carries no event."""

_PLAYING = Phase.PLAYING
# The class's own __new__ is Python and costs as much as an entry id.
_new_update = tuple.__new__


def take_updates(connection: Connection, updates: Sequence[Update]) -> None:
    """Queue what is next in line; one error for the first that cannot be taken."""
    if connection.phase is not _PLAYING:
        if connection.phase is Phase.WAITING or connection.phase is Phase.OPENING:
            connection.send_error(ErrorCode.NOT_IN_SESSION, "say hello first", seq=updates[0].seq)
        # While the copy is being rebuilt the client does not know yet that it must go back; it will be told.
        return
    if connection.wants_leave:
        return  # nothing can follow a leave; it stays in the journal
    node = connection.node
    now_ms = node.now_ms()
    queue = connection.queue
    queued = False
    for update in updates:
        seq = update.seq
        expected = connection.expected
        if seq > expected:
            if not connection.is_held:
                connection.is_held = True
                connection.send_error(ErrorCode.SEQUENCE_GAP, f"expected {expected}", seq=seq, expected=expected)
            continue
        if not connection.take_allowance():
            if seq < expected:
                continue  # a repeat: the next ack covers it
            connection.is_held = True
            connection.send_error(
                ErrorCode.RATE_LIMITED, "too many updates", seq=seq, retry_after_ms=connection.allowance_wait_ms()
            )
            continue
        if seq == expected:
            connection.expected = seq + 1
            connection.is_held = False
        hot_update = make_hot_update(connection, update, now_ms)
        queue.append(hot_update)
        connection.queue_bytes += len(hot_update.body)
        if update.durable:
            connection.is_durable = True
        queued = True
    if queued:
        if connection.is_paused or len(queue) + connection.in_flight > 1:
            # A single one is within any window and any number of bytes.
            connection.check_window()
        if not connection.is_ready:
            node.committer.enqueue(connection)


def make_hot_update(connection: Connection, update: Update, now_ms: int) -> HotUpdate:
    """What goes to the store: the entry to keep and the operations to do, or a void entry."""
    node = connection.node
    seq = update.seq
    try:
        if update.skip:
            raise VoidUpdate(ErrorCode.BAD_FRAME, "skipped by the client")
        event, effects_json, ops = compile_update(update.event, update.effects)
        if node.content_rules and event is not None:
            rules = node.content_rules.get(connection.key.experience)
            if rules is not None:
                rules.take(event)
    except VoidUpdate as void:
        body = _encode_plain_body(connection, seq, now_ms, b"{}")
        return HotUpdate(seq, node.entry_ids.next(now_ms), body, (), (int(void.code), void.message))
    if event is None:
        # The effects are what such a row shows as its data.
        body = _encode_plain_body(connection, seq, now_ms, effects_json)
    else:
        body = pack_update_body(
            (
                UPDATE_LAYOUT,
                connection.device,
                seq,
                now_ms if event.at_ms is None else when_it_happened(event.at_ms, connection.clock_offset_ms, now_ms),
                now_ms,
                connection.session_id,
                event.type,
                event.content_id,
                event.data_json,
                effects_json,
                event.lat,
                event.lng,
            )
        )
        if event.lat is not None:
            connection.place = (event.lat, event.lng)
    return _new_update(HotUpdate, (seq, node.entry_ids.next(now_ms), body, ops, None))


def _encode_plain_body(connection: Connection, seq: int, now_ms: int, data_json: bytes) -> bytes:
    """Of an update that carries no event."""
    return encode_update_body(
        connection.device,
        seq,
        now_ms,
        now_ms,
        connection.session_id,
        EVENT_TYPE_OF_UPDATE,
        None,
        data_json,
        b"",
        None,
        None,
    )


def when_it_happened(at_ms: int, clock_offset_ms: int, now_ms: int) -> int:
    """The device's claim by our clock, within what can be believed."""
    return max(now_ms - EVENT_AGE_MAX_MS, min(at_ms + clock_offset_ms, now_ms + EVENT_AHEAD_MAX_MS))
