"""
What a session machine remembers: the session, which outlives sockets, and this connection; what it says by itself, and
how it ends.

Not here: what is heard (hearing.py), what the driver asks for and when time is up (machine.py), which updates are on
their way (outbox.py).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from random import Random
from typing import Any, Final

from protocol.client.actions import Abort, Action, Hangup, Send, Stopped, SyncJournal
from protocol.client.backoff import Backoff
from protocol.client.outbox import JournalView, Outbox
from protocol.limits import HEARTBEAT_S

# After `bye`, `left` or our own close: how long the other side may take to close the socket.
CLOSE_WAIT_MS: Final = 2_000


class MachineState(enum.Enum):
    OFFLINE = "offline"  # no socket, or none that has said hello
    HELLO = "hello"  # said hello (or about to), not welcomed yet
    PLAYING = "playing"
    SUSPENDED = "suspended"  # in the background: no heartbeats are sent, none are missed
    CLOSED = "closed"  # will not come back by itself


class SessionMemory:
    """The innermost part of the session machine."""

    __slots__ = (
        "_backoff",
        "_bye_code",
        "_bye_message",
        "_bye_retry_ms",
        "_close_by_ms",
        "_drain_by_ms",
        "_drain_from_ms",
        "_experience",
        "_heard_ms",
        "_heartbeat_ms",
        "_hello_due",
        "_is_fresh_token_due",
        "_is_refreshing",
        "_is_token_constant",
        "_journal",
        "_leave_seq",
        "_outbox",
        "_ping_ms",
        "_playing_since_ms",
        "_probe_by_ms",
        "_push_gap",
        "_queries",
        "_random",
        "_refresh_ms",
        "_resumable",
        "_seen_told",
        "_sent_ms",
        "_state_since_ms",
        "_suspend_is_heard",
        "_suspend_is_last",
        "_suspend_s",
        "_suspend_upto",
        "_token",
        "_welcomes",
        "client",
        "clock_offset_ms",
        "document",
        "is_leaving",
        "rtt_ms",
        "seen",
        "session_id",
        "session_token",
        "state",
        "version",
    )

    def __init__(
        self,
        journal: JournalView,
        experience: str,
        *,
        random: Random,
        measure: Callable[[bytes, dict[str, Any]], int] | None = None,
        client: str | None = None,
        is_token_constant: bool = False,
    ) -> None:
        """
        `measure` tells from a payload and its body how long the update is on the wire; by default as msgpack. With
        `is_token_constant` there is no other token to try when one is refused.
        """
        self._journal = journal
        self._experience = experience
        self._random = random
        self._backoff = Backoff(random)
        self._outbox = Outbox(journal, random, measure)
        self._is_token_constant = is_token_constant
        self.client = client
        self.clock_offset_ms = 0
        self.state = MachineState.OFFLINE

        # The session, which outlives sockets.
        self.session_id: str | None = None
        self.session_token: str | None = None
        self.seen = 0
        self._resumable = False
        self._welcomes = 0
        self.document: dict[str, Any] = {}
        self.version = 0
        self.rtt_ms: float | None = None
        self.is_leaving = False
        self._token = ""
        self._refresh_ms: int | None = None
        self._is_fresh_token_due = False
        self._push_gap = 0

        # This connection.
        self._heartbeat_ms = HEARTBEAT_S * 1000
        self._forget_connection()

    def _forget_connection(self) -> None:
        self._outbox.forget_connection()
        self._heard_ms = 0
        self._sent_ms = 0
        self._ping_ms: int | None = None
        self._probe_by_ms: int | None = None
        self._state_since_ms = 0
        self._playing_since_ms: int | None = None
        self._hello_due = False
        self._is_refreshing = False
        self._close_by_ms: int | None = None
        self._bye_code: int | None = None
        self._bye_message: str | None = None
        self._bye_retry_ms = 0
        self._drain_from_ms: int | None = None
        self._drain_by_ms = 0
        self._leave_seq: int | None = None
        self._seen_told = 0
        self._queries: set[str] | None = None
        # For how long the player wants to be in the background; None: does not, or is. An update above `upto` ends it.
        self._suspend_s: int | None = None
        self._suspend_upto = 0
        self._suspend_is_last = False  # nothing was said since it was asked for: whatever else is said ends it
        self._suspend_is_heard = False

    # --- facts -------------------------------------------------------------------------------------------------------

    @property
    def accepted(self) -> int:
        return self._outbox.accepted

    @property
    def voids(self) -> dict[int, tuple[int, str]]:
        """The rejected updates that are not saved yet: seq → (code, message)."""
        return self._outbox.voids

    @property
    def saved(self) -> int:
        return self._journal.saved

    @property
    def in_flight(self) -> int:
        """How many updates this connection has sent that are not accepted."""
        return self._outbox.in_flight

    @property
    def is_closing(self) -> bool:
        """This socket is on its way out: nothing more is said on it."""
        return self._close_by_ms is not None

    @property
    def is_quiet(self) -> bool:
        """Nothing is waiting for an answer: a good moment to change the socket."""
        return not self._outbox.in_flight and not self._queries and self._leave_seq is None

    # --- saying something --------------------------------------------------------------------------------------------

    def _begin_hello(self, now_ms: int) -> list[Action]:
        self.state = MachineState.HELLO
        self._state_since_ms = now_ms
        # A new device id must be on disk before the server hears of it.
        self._hello_due = True
        return [SyncJournal()]

    def _say_hello(self, now_ms: int, out: list[Action]) -> None:
        self._hello_due = False
        journal = self._journal
        frame: dict[str, Any] = {
            "t": "hello",
            "token": self._token,
            "experience": self._experience,
            "device": journal.device,
            "at": now_ms + self.clock_offset_ms,
            "made": journal.synced,  # no more can ever have been sent, and a power cut leaves no less
            "saved": journal.saved,
        }
        if self._resumable and journal.moved_at is None:
            frame["resume"] = {"session": self.session_id, "token": self.session_token}
            frame["seen"] = self.seen
        if self.client is not None:
            frame["client"] = self.client
        self._send(frame, now_ms, out)

    def _fill(self, now_ms: int, out: list[Action]) -> None:
        """Send what the window has room for; change the socket or leave if that is due and the moment is right."""
        if self.state not in (MachineState.PLAYING, MachineState.SUSPENDED) or self._close_by_ms is not None:
            return
        if self._drain_from_ms is not None and (
            now_ms >= self._drain_by_ms or (now_ms >= self._drain_from_ms and self.is_quiet)
        ):
            self._hang_up(1001, now_ms, out)
            return
        if self._outbox.is_waiting(now_ms):
            return
        if self._leave_seq is None and self._outbox.fill(now_ms, out):
            self._sent_ms = now_ms
            self._suspend_is_last = False
            self._unsuspend(now_ms)
        if self.is_leaving and self._leave_seq is None and self.accepted == self._journal.made and not self._queries:
            self._leave_seq = self.accepted
            self._send({"t": "leave"}, now_ms, out)
        if self._suspend_s is not None:
            self._go_to_background(now_ms, out)

    def _send(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        self._sent_ms = now_ms
        self._suspend_is_last = False
        out.append(Send(frame))

    def _make_ping(self, now_ms: int) -> dict[str, Any]:
        frame: dict[str, Any] = {"t": "ping", "at": now_ms + self.clock_offset_ms}
        if self.seen > self._seen_told:
            frame["seen"] = self._seen_told = self.seen
        self._ping_ms = now_ms
        return frame

    def _ask_to_suspend(self, expected_s: int, now_ms: int, out: list[Action]) -> None:
        self._suspend_s = expected_s
        self._send({"t": "suspend", "expected_s": expected_s}, now_ms, out)
        self._suspend_is_last = True
        self._suspend_is_heard = False

    def _go_to_background(self, now_ms: int, out: list[Action]) -> None:
        """
        End the heartbeats as soon as the server has answered everything. It was asked at once, since the app may be
        frozen any moment, and is asked again if something had to be said after that.
        """
        journal = self._journal
        if self._suspend_s is None or self.state is not MachineState.PLAYING or self._close_by_ms is not None:
            return
        if journal.made > self._suspend_upto or self.is_leaving:
            self._suspend_s = None
        elif not self.is_quiet or self.accepted < journal.made:
            return
        elif not self._suspend_is_last:
            self._ask_to_suspend(self._suspend_s, now_ms, out)
        elif self._suspend_is_heard:
            self.state = MachineState.SUSPENDED
            self._suspend_s = None

    def _unsuspend(self, now_ms: int) -> None:
        if self.state is MachineState.SUSPENDED:
            self.state = MachineState.PLAYING
            self._heard_ms = now_ms

    # --- endings -----------------------------------------------------------------------------------------------------

    def _abort(self, reason: str, now_ms: int) -> list[Action]:
        # Should the driver miss it, it is told again: nothing else is said on this socket.
        self._close_by_ms = now_ms + CLOSE_WAIT_MS
        return [Abort(reason)]

    def _hang_up(self, code: int, now_ms: int, out: list[Action]) -> None:
        self._close_by_ms = now_ms + CLOSE_WAIT_MS
        out.append(Hangup(code))

    def _end_session(self) -> None:
        self.session_id = self.session_token = None
        self._resumable = False
        self.seen = 0
        self._push_gap = 0

    def _stop(self, code: int | None, reason: str | None = None) -> list[Action]:
        self.state = MachineState.CLOSED
        return [Stopped(code, reason)]

    def forget_query(self, id: str) -> None:
        """Nobody waits for this answer any more."""
        if self._queries is not None:
            self._queries.discard(id)
