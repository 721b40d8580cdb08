"""
What a node knows about one connection, and the few things that any part of it may do with one.

Promise: a connection ends once, with one code; whatever happens to it afterwards changes nothing. Its memory is
bounded:
updates by the window, frames by a rate, everything else is a fixed set of fields.

Not here: bytes and sockets (`Wire` is all we see of them) and what frames mean (dispatch.py and the flows it starts).
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from gateway.sessions.faults import retry_after_ms
from gateway.sessions.rules import BAD_FRAMES_MAX, BAD_FRAMES_PERIOD_S, FRAMES_PER_S_MAX, QUEUE_BYTES_MAX
from persistence.hot.known_fields import KnownFields
from persistence.hot.shapes import GroupHeader, HotUpdate
from persistence.progress_key import ProgressKey
from protocol import frames
from protocol.closes import CloseCode
from protocol.codec import Codec
from protocol.errors import ErrorCode

if TYPE_CHECKING:
    from gateway.sessions.node import Node
    from gateway.sessions.pushes import PushFeed

CLOSE_NORMAL = 1000

QUIET_S = 5.0
"""What is known of a connection's fields is let go when it was silent for so long: most are, most of the time."""


class Wire(Protocol):
    """What a connection needs of the socket underneath. Nothing here blocks; after a close all of it does nothing."""

    def send(self, payload: bytes) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...

    def abort(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def schedule(self, due: float) -> None: ...

    def find_rtt_ms(self) -> float: ...


class Phase(IntEnum):
    """
    Where a connection stands. A frame that does not fit the phase is answered with 104 and changes nothing.

        WAITING ─hello─▶ OPENING ─welcome─▶ PLAYING ◀─▶ RECOVERING
           ▲                │                  │
           └─ stream_reset ─┘                  └─leave─▶ LEAVING        any ─▶ ENDED
    """

    WAITING = 0  # for a hello
    OPENING = 1  # the hello is being worked on
    PLAYING = 2
    RECOVERING = 3  # the hot copy went away or changed; updates wait in the client's journal
    LEAVING = 4  # the session has ended; `left` comes when Postgres has everything
    ENDED = 5


NO_KEY = ProgressKey("", "")
NO_HEADER = GroupHeader(b"")
_NO_PINGS: list[int] = []


class Connection:
    """
    Made by `Node.connect` for a finished handshake. Called by its socket, its node and the flows, never by two at
    once.
    """

    __slots__ = (
        "allowance",
        "allowance_at",
        "bad_frames",
        "bad_since",
        "claims",
        "clock_offset_ms",
        "close_code",
        "codec",
        "copy",
        "device",
        "expected",
        "feed",
        "frames",
        "frames_since",
        "header",
        "heard_at",
        "hello_due",
        "in_flight",
        "is_durable",
        "is_held",
        "is_paused",
        "is_ready",
        "key",
        "known",
        "leave_saved",
        "leave_seq",
        "leave_version",
        "looked_at",
        "node",
        "number",
        "phase",
        "pings",
        "place",
        "queries",
        "queue",
        "queue_bytes",
        "saved_told",
        "session_id",
        "started_ms",
        "suspended_until",
        "task",
        "token_due",
        "told",
        "version",
        "wants_leave",
        "welcome_as",
        "welcomed",
        "wire",
    )

    def __init__(self, node: Node, wire: Wire, codec: Codec) -> None:
        now = node.clock()
        self.node = node
        self.wire = wire
        self.codec = codec
        self.phase = Phase.WAITING
        self.task: asyncio.Task[None] | None = None  # the flow that is under way: hello, recovery or leave

        # Who it is; set by a hello.
        self.key = NO_KEY
        self.device = ""
        self.session_id = ""
        self.started_ms = 0
        self.number = 0  # the connection number: a higher one takes the session over
        self.welcome_as: tuple[bool, frames.WelcomeReason | None] = (False, "new")
        self.welcomed = (0, 0)  # when it last was, ms, and what was accepted of its stream then
        self.close_code = 0  # what ended it; 0: nothing of ours
        self.claims = ""  # what its token allowed, as the session in Redis keeps it
        self.clock_offset_ms = 0  # our clock − the device's
        self.token_due: float | None = None

        # The stream, as far as this connection knows it.
        self.copy = ""
        self.header = NO_HEADER  # what the store knows it by: copy and connection number, packed
        self.known: KnownFields | None = None  # what its updates left in the fields they touch; None after a silence
        self.version = 0  # the newest entry of the progress that this connection can account for
        self.feed: PushFeed | None = None  # messages for its player, once there was one
        self.told = 0  # the highest seq it was told is accepted
        self.saved_told = 0
        self.expected = 1  # the next seq that may enter the queue
        self.is_held = False  # an error named `expected`: higher numbers are ignored until it comes
        self.queue: list[HotUpdate] = []  # waiting for the committer
        self.queue_bytes = 0
        self.in_flight = 0  # updates in the call that is under way
        self.is_durable = False
        self.is_ready = False  # the committer has it in line
        self.is_paused = False  # past the window: not read
        self.pings: list[int] = _NO_PINGS  # `at` of those not yet answered
        self.wants_leave = False
        self.leave_version = 0
        self.leave_seq = 0  # the highest seq that a `left` with saved true speaks of
        self.leave_saved: asyncio.Future[None] | None = None
        self.queries = 0

        # Manners.
        self.allowance: float = node.rules.updates_burst
        self.allowance_at = now
        self.frames = 0
        self.frames_since = now
        self.bad_frames = 0
        self.bad_since = now
        self.heard_at = now
        self.looked_at = 0.0  # when it had last been heard as the store was last asked about it
        self.hello_due = now + node.rules.hello_timeout_s
        self.suspended_until = 0.0
        self.place: tuple[float, float | None] | None = None  # lat, lng of the last event that had them
        wire.schedule(self.hello_due)

    def __repr__(self) -> str:
        return f"<Connection {self.key.member} {self.phase.name} number={self.number}>"

    # ── from the socket ─────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, payload: bytes) -> None:
        """One whole message."""
        self.node.receive(self, payload)

    def on_lost(self) -> None:
        """The socket is gone, whoever ended it. The session lives on. `on_disconnected` follows."""
        self.phase = Phase.ENDED

    def on_disconnected(self) -> None:
        """Nothing needs to be known of it any more."""
        self.node.forget(self)

    def on_timer(self, now: float) -> float | None:
        """Do what is due; returns when to look again."""
        if self.phase is Phase.ENDED:
            return None
        if self.phase is Phase.WAITING:
            if now >= self.hello_due:
                self.end(CloseCode.HELLO_TIMEOUT)
                return None
            return self.hello_due
        silence_s = self.node.rules.silence_s
        if self.phase is Phase.OPENING:
            if self.task is not None:
                return now + silence_s  # the flow has a deadline of its own
            if now >= self.hello_due:
                self.node.fail(self, TimeoutError())
                return None
            return self.hello_due
        if self.is_paused:
            # We do not read, so we cannot tell whether it speaks.
            self.heard_at = now
        due = max(self.heard_at, self.suspended_until) + silence_s
        if now >= due:
            self.end(CloseCode.HEARTBEAT_LOST)
            return None
        if self.token_due is not None:
            if now >= self.token_due:
                self.end(CloseCode.TOKEN_EXPIRED)
                return None
            due = min(due, self.token_due)
        if self.phase is Phase.PLAYING and self.heard_at > self.looked_at:
            # It speaks, but of nothing that the store was asked: its session must live on all the same.
            self.node.committer.enqueue(self)
        if now - self.heard_at > QUIET_S:
            self.known = None
        # Looked at often enough that what is remembered of a dead socket goes soon.
        return min(due, now + silence_s)

    def wait_in_line(self, due: float) -> None:
        """Its hello goes on later, in another flow; `due` (clock of the event loop) is when it must be answered."""
        self.hello_due = self.node.clock() + due - asyncio.get_running_loop().time()
        self.wire.schedule(self.hello_due)

    def schedule_look(self, now: float) -> None:
        """Have the timer look at a connection that was welcomed, or whose token has changed."""
        look = now + self.node.rules.silence_s
        self.wire.schedule(look if self.token_due is None else min(look, self.token_due))

    def take_allowance(self) -> bool:
        """
        Whether one update more is within the rate: a bucket of tokens (token_bucket.py), here without an object of its
        own for each connection.
        """
        rules = self.node.rules
        now = self.heard_at
        allowance = self.allowance + (now - self.allowance_at) * rules.updates_per_s
        self.allowance_at = now
        if allowance > rules.updates_burst:
            allowance = rules.updates_burst
        if allowance < 1:
            self.allowance = allowance
            return False
        self.allowance = allowance - 1
        return True

    def allowance_wait_ms(self) -> int:
        """How long until `take_allowance` says yes, as of the last time."""
        return max(1, round((1 - self.allowance) / self.node.rules.updates_per_s * 1000))

    def count_frame(self, now: float) -> bool:
        """Count a frame of any kind; False when it was one too many and the connection is over."""
        if now - self.frames_since >= 1.0:
            self.frames_since = now
            self.frames = 0
        self.frames += 1
        if self.frames <= FRAMES_PER_S_MAX:
            return True
        self.end(CloseCode.RATE_LIMITED, retry_after_ms())
        return False

    def count_close(self, code: int) -> None:
        """The socket layer ended it for a reason of its own."""
        self.phase = Phase.ENDED
        self.close_code = int(code)
        self.node.tally.closes[code] += 1

    def hold(self, copy: str) -> None:
        """From here on its updates are for this copy, under the number that it has."""
        self.copy = copy
        self.known = None
        self.header = self.node.hot.make_header(self.key, self.session_id, self.number, copy, self.device)

    # ── for everybody ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_open(self) -> bool:
        return self.phase is not Phase.ENDED

    def send(self, frame: dict[str, Any]) -> None:
        self.wire.send(self.codec.encode(frame))

    def send_error(
        self,
        code: ErrorCode,
        message: str,
        *,
        seq: int | None = None,
        id: str | None = None,
        expected: int | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        self.node.tally.errors[int(code)] += 1
        self.send(frames.error(code, message, seq=seq, id=id, expected=expected, retry_after_ms=retry_after_ms))

    def end(self, code: int, retry_after_ms: int | None = None, message: str = "") -> None:
        """Say goodbye with a code and close; the first code counts."""
        if self.phase is Phase.ENDED:
            return
        self.phase = Phase.ENDED
        self.close_code = int(code)
        self.node.tally.closes[int(code)] += 1
        if code != CLOSE_NORMAL:
            self.send(frames.bye(code, retry_after_ms, message))
            self.wire.close(code)
        else:
            self.wire.close(code, "left")
        self.node.forget(self)

    def note_bad_frame(self) -> None:
        """Once is a mistake, again and again is a fault that reconnecting will not mend."""
        now = self.node.clock()
        if now - self.bad_since > BAD_FRAMES_PERIOD_S:
            self.bad_since = now
            self.bad_frames = 0
        self.bad_frames += 1
        if self.bad_frames >= BAD_FRAMES_MAX:
            self.end(CloseCode.PROTOCOL_ERROR)

    # ── the window ──────────────────────────────────────────────────────────────────────────────────────────────────

    def check_window(self) -> None:
        """Stop reading past the window, go on when it is kept again."""
        too_much = len(self.queue) + self.in_flight > self.node.rules.window or self.queue_bytes > QUEUE_BYTES_MAX
        if too_much is not self.is_paused:
            self.is_paused = too_much
            if too_much:
                self.wire.pause_reading()
            else:
                self.wire.resume_reading()

    def go_back_to(self, seq: int) -> None:
        """
        Expect `seq` next and, having said so, ignore what is above it. What was queued and is above it is dropped.
        """
        self.expected = seq
        self.is_held = True
        self.queue = [update for update in self.queue if update.seq < seq]
        self.queue_bytes = sum(len(update.body) for update in self.queue)

    def drop_queue(self) -> None:
        """Forget what was queued: it is in the client's journal."""
        self.queue = []
        self.queue_bytes = 0
        self.is_durable = False

    # ── heartbeats ──────────────────────────────────────────────────────────────────────────────────────────────────

    def answer_pings(self, saved: int | None) -> None:
        """Answer all open pings; `saved` only after a look at the hot copy."""
        pings, self.pings = self.pings, _NO_PINGS
        now_ms = self.node.now_ms()
        for at in pings:
            self.send(frames.pong(at, now_ms, saved))

    def tell_saved(self, seq: int) -> None:
        if seq > self.saved_told:
            self.saved_told = seq
            self.send(frames.saved(seq))
