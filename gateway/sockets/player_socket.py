"""
One player's socket: TCP in, whole messages out to the session, frames back; no task, no coroutine, no timer of its own.

Promise: what arrives in whole, unfragmented, masked data frames (all that well-behaved clients send) goes the short
way:
header, unmask, session. Everything else (handshake, control frames, fragments, protocol errors, closing) is judged by
the `websockets` library's Sans-I/O protocol, which exists only while it is needed: an idle socket holds none.
We hand the library whole frames only, found by our own reading of headers, so that it is always at a frame boundary
when we take over again; what it refuses, it sees at once.

Everything is bounded: a frame by FRAME_BYTES_MAX, a message by the same and by its number of fragments, what waits to
be written by the out-queue, and how long it may wait by a grace period. A peer that does not read can make
`close()` wait for ever, so every close has a deadline after which the transport is aborted.

Not here: what messages mean, heartbeats and the hello timeout (gateway.sessions); who may connect (admission.py,
handshake.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from typing import TYPE_CHECKING, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN, State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.utils import apply_mask as apply_mask_in_python

from gateway.sessions.connection import Connection
from gateway.sockets.admission import address_of
from gateway.sockets.handshake import find_refusal, refuse_flood, select_subprotocol
from protocol.closes import CLOSE_REASON_BYTES_MAX, CloseCode, close_name
from protocol.codec import MSGPACK, SUBPROTOCOLS, Codec, codec_for
from protocol.limits import FRAME_BYTES_MAX

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the C extension
    apply_mask = apply_mask_in_python

# `tcpi_rtt` of Linux's tcp_info: microseconds.
_RTT_AT, _RTT = 68, struct.Struct("@I")

if TYPE_CHECKING:
    from gateway.sockets.play_server import PlayServer

FRAGMENTS_MAX = 1024
"""
Of one message. A real client sends none; without a bound, one-byte fragments cost us 50 times what they cost the
sender.
"""

CLOSE_TIMEOUT_S = 2.0
"""How long a peer may take to answer a close before the socket is aborted."""

SLOW_GRACE_S = 10.0
"""How long a client may stay behind with reading before it is cut off (4002, it resumes)."""

# A stalled reader must be found before the same client's second heartbeat is due, or two rules race for one socket.
assert CLOSE_TIMEOUT_S < SLOW_GRACE_S

# Why reading stands still; any of them is enough.
_PAUSED_BY_SESSION = 1
_PAUSED_BY_WRITES = 2

# Phases.
_HANDSHAKE, _OPEN, _CLOSING, _CLOSED = range(4)

_BINARY_WHOLE = 0x82
_TEXT_WHOLE = 0x81
_SHORT_HEADERS = {
    False: [bytes((_BINARY_WHOLE, length)) for length in range(126)],
    True: [bytes((_TEXT_WHOLE, length)) for length in range(126)],
}
_SUBPROTOCOLS = [Subprotocol(name) for name in SUBPROTOCOLS]
_NEVER = float("inf")
_KNOWN_OPCODES = frozenset(int(opcode) for opcode in Opcode)

# The library logs each connection and each parser failure; we count and log these ourselves.
_library_log = logging.getLogger("wayhold.websockets")
_library_log.disabled = True


class PlayerSocket(asyncio.Protocol):
    """Made by `PlayServer` for every accepted TCP connection. Implements `Wire` for its `Connection`."""

    __slots__ = (
        "_close_due",
        "_codec",
        "_congested_since",
        "_connection",
        "_is_going_on",
        "_opened_at",
        "_parts",
        "_paused",
        "_phase",
        "_protocol",
        "_server",
        "_short_headers",
        "_tail",
        "_timer_due",
        "_transport",
        "_whole",
        "address",
    )

    def __init__(self, server: PlayServer) -> None:
        self._server = server
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._connection: Connection | None = None
        self._protocol: ServerProtocol | None = None
        self._codec: Codec = MSGPACK
        self._whole = _BINARY_WHOLE
        self._short_headers = _SHORT_HEADERS[False]
        self._phase = _HANDSHAKE
        self._tail: bytearray | None = None  # the beginning of a frame, or whole frames that came while paused
        self._parts: list[bytes] | None = None  # fragments of the message that is being received
        self._paused = 0
        self._is_going_on = False
        self._congested_since = 0.0
        self._close_due = 0.0
        self._opened_at = 0.0
        self._timer_due = _NEVER
        self.address = ""

    # ── from the event loop ──────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.address = address_of(transport.get_extra_info("peername"))
        self._opened_at = self._server.clock()
        if not self._server.enter(self):
            self._abort()
            return
        self.schedule(self._opened_at + self._server.hello_timeout_s)

    def data_received(self, data: bytes) -> None:
        if self._phase != _OPEN:
            if self._phase != _HANDSHAKE:
                self._receive_outside(data)
            elif self._server.may_shake_hands(self, data):
                self._receive_handshake(data)
            else:
                self._transport.pause_reading()
            return
        if self._tail is not None:
            self._tail += data
            if not self._paused:
                self._read_frames(self._tail)
        elif self._paused:
            self._tail = bytearray(data)
        else:
            self._read_frames(data)

    def take_handshake(self, data: bytes) -> None:
        """It is the turn of what had to wait."""
        if self._phase == _HANDSHAKE and not self._transport.is_closing():
            self._transport.resume_reading()
            self._receive_handshake(data)

    def eof_received(self) -> None:
        # Returning None closes the transport: a peer that will send nothing more has left.
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = _CLOSED
        self._tail = self._parts = self._protocol = None
        connection, self._connection = self._connection, None
        self._server.leave(self)
        if connection is not None:
            self._server.lose(connection)

    def pause_writing(self) -> None:
        # More waits than the transport likes. Whoever does not read what we say is not heard either, so that answers
        # to new frames cannot pile up; the grace period starts.
        if self._congested_since == 0.0:
            self._congested_since = self._server.clock()
            self.schedule(self._congested_since + SLOW_GRACE_S)
            self._pause(_PAUSED_BY_WRITES)

    def resume_writing(self) -> None:
        self._congested_since = 0.0
        self._resume(_PAUSED_BY_WRITES)

    # ── for the session (`gateway.sessions.connection.Wire`) ────────────────────────────────────────────────────────

    def send(self, payload: bytes) -> None:
        """Queue one message. Never blocks; a reader who lets too much pile up is cut off."""
        if self._phase != _OPEN:
            return
        size = len(payload)
        if size < 126:
            self._transport.write(self._short_headers[size] + payload)
        elif size < 65_536:
            self._transport.write(bytes((self._whole, 126)) + size.to_bytes(2, "big") + payload)
        else:
            self._transport.write(bytes((self._whole, 127)) + size.to_bytes(8, "big") + payload)
        if self._congested_since and self._transport.get_write_buffer_size() > self._server.out_queue_bytes_max:
            self._cut_off()

    def close(self, code: int, reason: str = "") -> None:
        """Say goodbye and end within CLOSE_TIMEOUT_S, whatever the peer does."""
        if self._phase != _OPEN:
            return
        protocol = self._library()
        protocol.send_close(code, (reason or close_name(code))[:CLOSE_REASON_BYTES_MAX])
        self._phase = _CLOSING
        self._flush(protocol)
        self._await_close()
        # What the peer had sent before it learned of the close is of no use, except for the answer to it.
        tail, self._tail = self._tail, None
        self._parts = None
        self._resume(_PAUSED_BY_SESSION | _PAUSED_BY_WRITES)
        if tail:
            self._receive_outside(bytes(tail))

    def abort(self) -> None:
        self._abort()

    def pause_reading(self) -> None:
        self._pause(_PAUSED_BY_SESSION)

    def resume_reading(self) -> None:
        self._resume(_PAUSED_BY_SESSION)

    def find_rtt_ms(self) -> float:
        """What the kernel has measured of the way to the peer and back; -1 where it does not say."""
        if sys.platform != "linux" or self._phase != _OPEN:
            return -1.0
        try:
            info = self._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT_AT + 4)
            microseconds: int = _RTT.unpack_from(info, _RTT_AT)[0]
        except (OSError, AttributeError, struct.error):
            return -1.0  # not TCP: a Unix socket in a test
        return round(microseconds / 1000, 1)

    def schedule(self, due: float) -> None:
        """Have `on_timer` called at `due` or a little later, unless it will be before."""
        if due < self._timer_due:
            self._timer_due = due
            self._server.wheel.schedule(self, due)

    # ── timers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_timer(self, now: float) -> float | None:
        if now < self._timer_due:
            return None  # an entry in the wheel that an earlier one has overtaken: only one goes on
        due = self._do_what_is_due(now)
        if self._phase == _CLOSING:
            # Perhaps just now and just here, where `schedule` had an earlier instant to keep: this one.
            due = self._close_due
        self._timer_due = _NEVER if due is None else due
        return due

    def _do_what_is_due(self, now: float) -> float | None:
        if self._phase == _CLOSED:
            return None
        if self._phase == _CLOSING:
            if now >= self._close_due:
                self._abort()
                return None
            return self._close_due
        if self._phase == _HANDSHAKE:
            due = self._opened_at + self._server.hello_timeout_s
            if now >= due:
                self._abort()
                return None
            return due
        congested_due = self._congested_since + SLOW_GRACE_S if self._congested_since else None
        if congested_due is not None and now >= congested_due:
            self._cut_off()
            return None
        assert self._connection is not None
        due_or_never = self._connection.on_timer(now)
        if congested_due is None:
            return due_or_never
        return congested_due if due_or_never is None else min(due_or_never, congested_due)

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_frames(self, data: bytes | bytearray) -> None:
        """
        Take every whole frame that `data` begins with; what is left waits in `_tail` (which may be `data` itself).
        """
        size = len(data)
        at = 0
        connection = self._connection
        assert connection is not None
        while at + 2 <= size:
            first = data[at]
            length = data[at + 1]
            if length < 128 or first & 15 not in _KNOWN_OPCODES:
                self._hand_over(data, at)  # unmasked, or no such frame: the library refuses it by the header alone
                return
            length -= 128
            start = at + 6
            if length > 125:
                if length == 126:
                    start = at + 8
                    if at + 4 > size:
                        break
                    length = data[at + 2] << 8 | data[at + 3]
                else:
                    start = at + 14
                    if at + 10 > size:
                        break
                    length = int.from_bytes(data[at + 2 : at + 10], "big")
                    if length > FRAME_BYTES_MAX:
                        self._hand_over(data, at)
                        return
            end = start + length
            if end > size:
                break
            if first == self._whole and self._parts is None:
                payload = apply_mask(data[start:end], data[start - 4 : start])
                at = end
                if first == _TEXT_WHOLE and not _is_utf8(payload):
                    self._fail(1007, "invalid UTF-8")
                    return
                connection.receive(payload)
            else:
                frame = bytes(data[at:end])
                at = end
                self._receive_frame(frame)
            if self._phase != _OPEN:
                return
            if self._paused:
                break
        if at == size:
            self._tail = None
        elif data is self._tail:
            del data[:at]
        else:
            self._tail = bytearray(data[at:])

    def _receive_frame(self, frame: bytes) -> None:
        """A whole frame that does not go the short way: control, fragment, or something that must not be."""
        connection = self._connection
        assert connection is not None
        if not connection.count_frame(self._server.clock()):
            return
        protocol = self._library()
        protocol.receive_data(frame)
        events = protocol.events_received()
        self._flush(protocol)
        for event in events:
            received = cast(Frame, event)
            if received.opcode is Opcode.TEXT or received.opcode is Opcode.BINARY:
                if (received.opcode is Opcode.TEXT) is not self._codec.is_text:
                    self._fail(1003, "this subprotocol speaks " + ("text" if self._codec.is_text else "binary"))
                    return
                self._parts = [bytes(received.data)]
            elif received.opcode is Opcode.CONT:
                assert self._parts is not None
                self._parts.append(bytes(received.data))
                if len(self._parts) > FRAGMENTS_MAX:
                    self._fail(1009, "too many fragments")
                    return
            else:
                continue
            if received.fin:
                payload = b"".join(self._parts)
                self._parts = None
                if self._codec.is_text and not _is_utf8(payload):
                    self._fail(1007, "invalid UTF-8")
                    return
                connection.receive(payload)
        if self._phase == _OPEN:
            if protocol.state is not OPEN:
                self._refused(protocol, connection)
            elif self._parts is None:
                self._protocol = None

    def _receive_handshake(self, data: bytes) -> None:
        if self._protocol is None:
            self._protocol = ServerProtocol(
                subprotocols=_SUBPROTOCOLS,
                select_subprotocol=select_subprotocol,
                max_size=FRAME_BYTES_MAX,
                logger=_library_log,
            )
        self._receive_outside(data)

    def _receive_outside(self, data: bytes) -> None:
        """Before the handshake is done, or after a close was sent or received."""
        protocol = self._protocol
        if protocol is None or protocol.state is State.CLOSED or self._phase == _CLOSED:
            return
        if self._phase == _CLOSING and protocol.eof_sent:
            return  # nothing that comes now can matter
        protocol.receive_data(data)
        events = protocol.events_received()
        if self._phase == _HANDSHAKE:
            self._flush(protocol)
            if len(events) > 1 or (events and protocol.reader.buffer):
                # A client must wait for our answer before it sends more; whatever this is, it is no WebSocket client.
                self._abort()
                return
            if events:
                self._answer_handshake(protocol, cast(Request, events[0]))
            elif protocol.eof_sent:
                self._phase = _CLOSING
                self._await_close()
        else:
            self._flush(protocol)

    def _answer_handshake(self, protocol: ServerProtocol, request: Request) -> None:
        reason = self._server.find_refusal(self.address)
        if reason is not None:
            response = refuse_flood(protocol, reason, self._server.admission.retry_after_s())
        else:
            response = find_refusal(request, protocol, self._server.origins) or protocol.accept(request)
        protocol.send_response(response)
        self._flush(protocol)
        if response.status_code != 101:
            self._phase = _CLOSING
            self._await_close()
            return
        self._codec = codec_for(protocol.subprotocol)
        self._whole = _TEXT_WHOLE if self._codec.is_text else _BINARY_WHOLE
        self._short_headers = _SHORT_HEADERS[self._codec.is_text]
        self._protocol = None
        self._phase = _OPEN
        self._connection = self._server.connect(self, self._codec)

    def _hand_over(self, data: bytes | bytearray, at: int) -> None:
        """Give everything from `at` on to the library, which will refuse it."""
        connection = self._connection
        assert connection is not None
        rest = bytes(data[at:])
        self._tail = None
        protocol = self._library()
        protocol.receive_data(rest)
        protocol.events_received()
        self._flush(protocol)
        assert protocol.state is not OPEN, "the library took a frame that we do not"
        self._refused(protocol, connection)

    def _refused(self, protocol: ServerProtocol, connection: Connection) -> None:
        """The library has ended the connection: for a fault of the peer, or because the peer said close."""
        self._phase = _CLOSING
        self._tail = self._parts = None
        self._await_close()
        if protocol.parser_exc is not None and protocol.close_sent is not None:
            connection.count_close(protocol.close_sent.code)

    def _library(self) -> ServerProtocol:
        """The Sans-I/O protocol at a frame boundary: a new one, unless fragments or a close are under way."""
        protocol = self._protocol
        if protocol is None:
            protocol = self._protocol = ServerProtocol(state=OPEN, max_size=FRAME_BYTES_MAX, logger=_library_log)
        return protocol

    # ── closing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fail(self, code: int, reason: str) -> None:
        """End the socket for something that breaks the WebSocket rules; the peer's further frames are not read."""
        if self._phase != _OPEN:
            return
        connection = self._connection
        protocol = self._library()
        protocol.fail(code, reason)
        self._phase = _CLOSING
        self._tail = self._parts = None
        self._flush(protocol)
        self._await_close()
        if connection is not None:
            connection.count_close(code)

    def _flush(self, protocol: ServerProtocol) -> None:
        for chunk in protocol.data_to_send():
            if chunk:
                self._transport.write(chunk)
            elif self._transport.can_write_eof():
                # Half-close and wait for the peer: closing outright with unread input makes the kernel send a reset,
                # which can overtake the close frame.
                self._transport.write_eof()
            else:
                self._transport.close()

    def _await_close(self) -> None:
        self._close_due = self._server.clock() + CLOSE_TIMEOUT_S
        self.schedule(self._close_due)

    def _cut_off(self) -> None:
        """A reader too slow: a close frame would only join the queue that it does not read, so there is none."""
        if self._connection is not None:
            self._connection.count_close(CloseCode.TOO_SLOW)
        self._abort()

    def _abort(self) -> None:
        self._phase = _CLOSED
        self._transport.abort()

    # ── pausing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _pause(self, why: int) -> None:
        if not self._paused and not self._transport.is_closing():
            self._transport.pause_reading()
        self._paused |= why

    def _resume(self, why: int) -> None:
        if not self._paused:
            return
        self._paused &= ~why
        if self._paused or self._transport.is_closing():
            return
        self._transport.resume_reading()
        if self._tail and self._phase == _OPEN and not self._is_going_on:
            # Not here and now: resuming happens inside the answers to earlier frames, and reading on would nest.
            self._is_going_on = True
            self._server.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_going_on = False
        if self._tail is not None and self._phase == _OPEN and not self._paused:
            self._read_frames(self._tail)


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
