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
from protocol.entry import encode_update_body
from protocol.errors import ErrorCode, VoidUpdate
from protocol.frames import Update

EVENT_TYPE_OF_UPDATE = "update"
"""The event type of an update that carries no event."""


def take_updates(connection: Connection, updates: Sequence[Update]) -> None:
    """Queue what is next in line; one error for the first that cannot be taken."""
    if connection.phase is not Phase.PLAYING:
        if connection.phase is Phase.WAITING or connection.phase is Phase.OPENING:
            connection.send_error(ErrorCode.NOT_IN_SESSION, "say hello first", seq=updates[0].seq)
        # While the copy is being rebuilt the client does not know yet that it must go back; it will be told.
        return
    if connection.wants_leave:
        return  # nothing can follow a leave; it stays in the journal
    node = connection.node
    now = connection.heard_at
    queued = False
    for update in updates:
        seq = update.seq
        if seq > connection.expected:
            if not connection.is_held:
                connection.is_held = True
                connection.send_error(
                    ErrorCode.SEQUENCE_GAP,
                    f"expected {connection.expected}",
                    seq=seq,
                    expected=connection.expected,
                )
            continue
        if not connection.bucket.take(1, now):
            if seq < connection.expected:
                continue  # a repeat: the next ack covers it
            connection.is_held = True
            connection.send_error(
                ErrorCode.RATE_LIMITED,
                "too many updates",
                seq=seq,
                retry_after_ms=max(1, round(connection.bucket.wait_s() * 1000)),
            )
            continue
        if seq == connection.expected:
            connection.expected = seq + 1
            connection.is_held = False
        hot_update = make_hot_update(connection, update)
        connection.queue.append(hot_update)
        connection.queue_bytes += len(hot_update.body)
        if update.durable:
            connection.is_durable = True
        queued = True
    if queued:
        connection.check_window()
        node.committer.enqueue(connection)


def make_hot_update(connection: Connection, update: Update) -> HotUpdate:
    """What goes to the store: the entry to keep and the operations to do, or a void entry."""
    node = connection.node
    now_ms = node.now_ms()
    try:
        if update.skip:
            raise VoidUpdate(ErrorCode.BAD_FRAME, "skipped by the client")
        compiled = compile_update(update.event, update.effects)
        if node.content_rules and compiled.event is not None:
            rules = node.content_rules.get(connection.key.experience)
            if rules is not None:
                rules.take(compiled.event)
    except VoidUpdate as void:
        body = encode_update_body(
            connection.device,
            update.seq,
            now_ms,
            now_ms,
            connection.session_id,
            EVENT_TYPE_OF_UPDATE,
            None,
            b"{}",
            b"",
            None,
            None,
        )
        return HotUpdate(update.seq, node.entry_ids.next(now_ms), body, [], (int(void.code), void.message))
    event = compiled.event
    if event is None:
        body = encode_update_body(
            connection.device,
            update.seq,
            now_ms,
            now_ms,
            connection.session_id,
            EVENT_TYPE_OF_UPDATE,
            None,
            compiled.effects_json,  # what such a row shows as its data
            b"",
            None,
            None,
        )
    else:
        happened_ms = (
            now_ms if event.at_ms is None else when_it_happened(event.at_ms, connection.clock_offset_ms, now_ms)
        )
        body = encode_update_body(
            connection.device,
            update.seq,
            happened_ms,
            now_ms,
            connection.session_id,
            event.type,
            event.content_id,
            event.data_json,
            compiled.effects_json,
            event.lat,
            event.lng,
        )
    return HotUpdate(update.seq, node.entry_ids.next(now_ms), body, compiled.ops)


def when_it_happened(at_ms: int, clock_offset_ms: int, now_ms: int) -> int:
    """The device's claim by our clock, within what can be believed."""
    return max(now_ms - EVENT_AGE_MAX_MS, min(at_ms + clock_offset_ms, now_ms + EVENT_AHEAD_MAX_MS))
