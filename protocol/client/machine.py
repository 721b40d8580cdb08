"""
The session machine: what a client says next, decided from what it heard and what time it is.

Pure: no socket, no file, no clock, no randomness but the one that was passed in. Inputs are methods; each answers the
actions that the driver carries out in their order (`player_client.py` is such a driver). Times are milliseconds of a
clock that only goes forward; `clock_offset_ms` is what the driver adds to it to say what the wall clock shows.

Promise: an update is sent in order, never before its journal record is synced, again until the server has accepted
it, and the journal is told to forget it only once the server says that it is saved. A frame that a sound server
cannot have sent (an ack of what was never sent, a missing number) ends the connection and nothing else: the next
welcome tells the truth.

Not here: what an update means, the codec, and how long a connect may take.

    OFFLINE ──connected──▶ HELLO ──welcome──▶ PLAYING ◀──wake, update── SUSPENDED
       ▲                     │ ▲                 │ └─────suspended────────▲
       │                     │ └─stream_reset────┘
       └──── any close that lets the client come back ────┘      42xx, left, stop ──▶ CLOSED
"""

from __future__ import annotations

from typing import Any, Final

from protocol.client.actions import (
    Abort,
    Accepted,
    Action,
    Answered,
    Connect,
    DropJournal,
    Forget,
    Hangup,
    Left,
    More,
    NeedToken,
    Pushed,
    Refused,
    ResetStream,
    Resynced,
    Send,
    Stopped,
    Suspended,
    SyncJournal,
    Voided,
    Welcomed,
)
from protocol.client.hearing import Hearing
from protocol.client.outbox import WRITE_AHEAD_BYTES_MAX, JournalView, measure_msgpack
from protocol.client.session_memory import CLOSE_WAIT_MS, MachineState
from protocol.closes import CloseAction, CloseCode, close_action

__all__ = [
    "CLOSE_WAIT_MS",
    "WRITE_AHEAD_BYTES_MAX",
    "Abort",
    "Accepted",
    "Action",
    "Answered",
    "Connect",
    "DropJournal",
    "Forget",
    "Hangup",
    "JournalView",
    "Left",
    "MachineState",
    "More",
    "NeedToken",
    "Pushed",
    "Refused",
    "ResetStream",
    "Resynced",
    "Send",
    "SessionMachine",
    "Stopped",
    "Suspended",
    "SyncJournal",
    "Voided",
    "Welcomed",
    "measure_msgpack",
]

# A gateway answers a hello from Postgres at worst; one that is silent for longer will not answer at all.
WELCOME_WAIT_MS: Final = 15_000
# From here on a connection is proof that the server is well, and the next failure is a first one again.
HEALTHY_AFTER_MS: Final = 10_000
# Back from the background, nobody wants to wait two heartbeats to learn that the socket is dead.
PROBE_WAIT_MS: Final = 2_000


class SessionMachine(Hearing):
    """One player's session as the client sees it: what the driver may call. See the module's head."""

    __slots__ = ()

    def find_next_tick_ms(self) -> int | None:
        """When `tick` has something to do at the latest; None if never."""
        if self._close_by_ms is not None:
            return self._close_by_ms
        if self.state is MachineState.HELLO:
            return self._state_since_ms + WELCOME_WAIT_MS
        if self.state is not MachineState.PLAYING:
            return None
        # Asked for with every frame: `min` would be a third of it.
        heartbeat_ms, outbox = self._heartbeat_ms, self._outbox
        at = self._sent_ms + heartbeat_ms
        silent_ms = self._heard_ms + 2 * heartbeat_ms
        if silent_ms < at:
            at = silent_ms
        if outbox.moved_ms + 2 * heartbeat_ms < at and outbox.in_flight:
            at = outbox.moved_ms + 2 * heartbeat_ms
        if outbox.wait_until_ms:
            at = min(at, outbox.wait_until_ms)
        if self._probe_by_ms is not None:
            at = min(at, self._probe_by_ms)
        if self._drain_from_ms is not None:
            at = min(at, self._drain_from_ms if self.is_quiet else self._drain_by_ms)
        if self._refresh_ms is not None:
            at = min(at, self._refresh_ms)
        return at

    def start(self) -> list[Action]:
        """The player wants to play."""
        if self.state is MachineState.CLOSED:
            self.state = MachineState.OFFLINE
        self.is_leaving = False
        return [Connect(0, False)]

    def connected(self, token: str, now_ms: int, token_expires_ms: int | None = None) -> list[Action]:
        """
        A socket is open; `token` is what the driver holds, `token_expires_ms` when it should be replaced at the
        latest.
        """
        if self.state is MachineState.CLOSED:
            return [Abort("closed")]
        self._forget_connection()
        self._token = token
        self._is_fresh_token_due = False
        self._refresh_ms = token_expires_ms
        self._heard_ms = now_ms
        out = self._begin_hello(now_ms)
        return out if self._journal.synced < 0 else self.journal_synced(now_ms)

    def disconnected(self, code: int | None, now_ms: int) -> list[Action]:
        """The socket is gone, or could not be opened; `code` is what its close frame said, None without one."""
        if self.state is MachineState.CLOSED:
            return []
        if self._bye_code is not None and (code is None or code < 4000):
            code = self._bye_code  # WebSocket stacks lose close codes; the frame before it says the same
        retry_ms, message = self._bye_retry_ms, self._bye_message
        if self._playing_since_ms is not None and now_ms - self._playing_since_ms >= HEALTHY_AFTER_MS:
            self._backoff.reset()
        has_left = self._leave_seq is not None and code == 1000
        was_hangup = self._drain_from_ms is not None and self._close_by_ms is not None and self._bye_code is None
        fresh = self._is_fresh_token_due
        was_welcomed = self._playing_since_ms is not None
        self._forget_connection()
        if has_left:
            return self._stop(None)
        action = close_action(code) if code is not None else CloseAction.RESUME
        if action is CloseAction.STAY_AWAY:
            out: list[Action] = []
            if code == CloseCode.PLAYER_DELETED:
                self._end_session()
                self._outbox.forget_stream()
                out.append(DropJournal())
            # What an operator has said to the player, if one did.
            return out + self._stop(code, message)
        if code == CloseCode.SESSION_ENDED:
            self._end_session()
        if action is CloseAction.FRESH:
            if self._is_token_constant and not was_welcomed and code != CloseCode.HELLO_TIMEOUT:
                # The same token again would get the same answer, for ever and without a word.
                reason = "it refused the token, and there is no other: give the client a function that makes them"
                return self._stop(code, reason)
            fresh = True
        self.state = MachineState.OFFLINE
        self._is_fresh_token_due = fresh
        if was_hangup:
            self._backoff.reset()  # it was our choice to go
        return [Connect(self._backoff.next_wait_ms(retry_ms), fresh)]

    def send_made(self, seq: int, now_ms: int) -> bytes | None:
        """
        The short way of `journal_synced` for update `seq`, which was just made: what to write now, its payload as the
        journal holds it. None: nothing was done, because something else may follow from it; ask `journal_synced`.
        """
        if (
            self.state is not MachineState.PLAYING
            or self._close_by_ms is not None
            or self._drain_from_ms is not None
            or self._suspend_s is not None
            or self.is_leaving
            or self._leave_seq is not None
        ):
            return None
        payload = self._outbox.send_made(seq, now_ms)
        if payload is not None:
            self._sent_ms = now_ms
            self._suspend_is_last = False
        return payload

    def journal_synced(self, now_ms: int) -> list[Action]:
        """The journal moved: an update was made, or a sync came to an end."""
        out: list[Action] = []
        if self._hello_due:
            if self._journal.synced >= 0:
                self._say_hello(now_ms, out)
            return out
        self._fill(now_ms, out)
        return out

    def note_choked(self) -> None:
        """The socket takes no more for now: updates stay in the journal until `writable`."""
        self._outbox.is_choked = True

    def writable(self, now_ms: int) -> list[Action]:
        """The socket has taken what it was given (after `More` or `note_choked`)."""
        out: list[Action] = []
        self._outbox.is_choked = False
        self._fill(now_ms, out)
        return out

    def tick(self, now_ms: int) -> list[Action]:
        """Time passed."""
        out: list[Action] = []
        state = self.state
        if self._close_by_ms is not None:
            return self._abort("the other side does not close", now_ms) if now_ms >= self._close_by_ms else out
        if state is MachineState.HELLO:
            if now_ms >= self._state_since_ms + WELCOME_WAIT_MS:
                return self._abort("no welcome", now_ms)
            if self._hello_due:
                out.append(SyncJournal())
            return out
        if state is not MachineState.PLAYING:
            return out
        silent_ms = 2 * self._heartbeat_ms
        if now_ms >= self._heard_ms + silent_ms:
            return self._abort("heard nothing for two heartbeats", now_ms)
        if self._probe_by_ms is not None and now_ms >= self._probe_by_ms:
            return self._abort("no answer after coming back", now_ms)
        if self._outbox.in_flight and now_ms >= self._outbox.moved_ms + silent_ms:
            return self._abort("updates are not answered", now_ms)
        if self._refresh_ms is not None and now_ms >= self._refresh_ms:
            self._refresh_ms = None
            out.append(NeedToken())
        if self._journal.made > self._journal.synced:
            out.append(SyncJournal())
        self._fill(now_ms, out)
        if self._close_by_ms is None and now_ms >= self._sent_ms + self._heartbeat_ms:
            self._send(self._make_ping(now_ms), now_ms, out)
        return out

    def ask(self, id: str, of: str, args: dict[str, Any] | None, now_ms: int) -> list[Action]:
        """Send a query; nothing while there is no session (ask again after `Welcomed`)."""
        out: list[Action] = []
        if self.state is not MachineState.PLAYING or self._close_by_ms is not None:
            return out
        frame: dict[str, Any] = {"t": "query", "id": id, "of": of}
        if args is not None:
            frame["args"] = args
        if self._queries is None:
            self._queries = set()
        self._queries.add(id)
        self._send(frame, now_ms, out)
        return out

    def refresh(self, token: str, now_ms: int) -> list[Action]:
        """A new token came, in time before the old one expires."""
        self._token = token
        self._is_fresh_token_due = False
        out: list[Action] = []
        if self.state in (MachineState.PLAYING, MachineState.SUSPENDED) and self._close_by_ms is None:
            self._is_refreshing = True
            self._send({"t": "refresh", "token": token}, now_ms, out)
        return out

    def suspend(self, expected_s: int, now_ms: int) -> list[Action]:
        """The app goes to the background; heartbeats end when the server has answered this and all that was made."""
        out: list[Action] = []
        if self.state is MachineState.PLAYING and self._close_by_ms is None:
            self._suspend_upto = self._journal.made
            self._ask_to_suspend(expected_s, now_ms, out)
        return out

    def wake(self, now_ms: int) -> list[Action]:
        """The app is back: find out soon whether the socket still lives."""
        out: list[Action] = []
        if self.state in (MachineState.PLAYING, MachineState.SUSPENDED) and self._close_by_ms is None:
            self._suspend_s = None
            self._unsuspend(now_ms)
            self._probe_by_ms = now_ms + PROBE_WAIT_MS
            self._send(self._make_ping(now_ms), now_ms, out)
        return out

    def leave(self, now_ms: int) -> list[Action]:
        """End the session as soon as everything made is accepted; `Left` answers."""
        self.is_leaving = True
        out: list[Action] = []
        self._fill(now_ms, out)
        return out

    def stop(self) -> list[Action]:
        """Close for good without leaving: the session stays on the server until it expires."""
        if self.state is MachineState.CLOSED:
            return []
        was_open = self.state is not MachineState.OFFLINE
        out: list[Action] = [Hangup(1000)] if was_open else []
        return out + self._stop(None)
