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

import enum
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from protocol.client.backoff import Backoff
from protocol.closes import CloseAction, CloseCode, close_action
from protocol.errors import ErrorCode
from protocol.limits import BATCH_UPDATES_MAX, FRAME_BYTES_MAX, HEARTBEAT_S, SEQ_MAX, UPDATE_BYTES_MAX, WINDOW

# A gateway answers a hello from Postgres at worst; one that is silent for longer will not answer at all.
WELCOME_WAIT_MS: Final = 15_000
# From here on a connection is proof that the server is well, and the next failure is a first one again.
HEALTHY_AFTER_MS: Final = 10_000
# After `bye`, `left` or our own close: how long the other side may take to close the socket.
CLOSE_WAIT_MS: Final = 2_000
# Back from the background, nobody wants to wait two heartbeats to learn that the socket is dead.
PROBE_WAIT_MS: Final = 2_000
# A server may ask for patience, not for ever.
RETRY_AFTER_MAX_MS: Final = 300_000
RETRY_AFTER_DEFAULT_MS: Final = 1_000
# Two SEQUENCE_GAPs in a row without progress: sending the window again at once would only make a storm.
GAP_WAIT_FIRST_MS: Final = 50
GAP_WAIT_MAX_MS: Final = 5_000
# What a batch costs besides its updates, and an update besides its payload: `t`, `seq`, `updates` and the headers.
BATCH_OVERHEAD_BYTES: Final = 64
UPDATE_OVERHEAD_BYTES: Final = 22
WINDOW_MAX: Final = 65_536
# What may be handed to the socket before it has shown that it takes it: a window of largest updates would be 8 MiB.
WRITE_AHEAD_BYTES_MAX: Final = 128 * 1024
# A refreshed token was refused: how long before another is tried, so that the two sides do not argue all day.
REFRESH_AGAIN_MS: Final = 30_000

assert UPDATE_BYTES_MAX + BATCH_OVERHEAD_BYTES <= FRAME_BYTES_MAX


class MachineState(enum.Enum):
    OFFLINE = "offline"  # no socket, or none that has said hello
    HELLO = "hello"  # said hello (or about to), not welcomed yet
    PLAYING = "playing"
    SUSPENDED = "suspended"  # in the background: no heartbeats are sent, none are missed
    CLOSED = "closed"  # will not come back by itself


# --- actions, in the order in which the driver must carry them out ------------------------------------------------


class Send(NamedTuple):
    """Write this frame to the socket."""

    frame: dict[str, Any]


class Abort(NamedTuple):
    """Cut the socket now, without a closing handshake; then say `disconnected`."""

    reason: str


class Hangup(NamedTuple):
    """Close the socket politely; `disconnected` follows, at the latest after an Abort."""

    code: int


class Connect(NamedTuple):
    """
    Open a socket after this wait, with a fresh token if one is asked for; then say `connected` or `disconnected`.
    """

    after_ms: int
    fresh_token: bool


class More(NamedTuple):
    """There is more to send than one go may write: say `writable` when the socket has room."""


class NeedToken(NamedTuple):
    """Get a new token and hand it in with `refresh`."""


class SyncJournal(NamedTuple):
    """Sync the journal; then say `journal_synced`."""


class Forget(NamedTuple):
    """Tell the journal that everything up to `seq` is saved."""

    seq: int


class ResetStream(NamedTuple):
    """Reset the journal to a new device, keeping what lies above `keep_after`; sync it; then say `journal_synced`."""

    keep_after: int
    reason: str


class DropJournal(NamedTuple):
    """The player was erased: drop every update and the device id."""


class Accepted(NamedTuple):
    seq: int


class Voided(NamedTuple):
    seq: int
    code: int
    message: str


class Welcomed(NamedTuple):
    """A session goes on (`resumed`) or a new one began for this `reason`; the state was replaced."""

    resumed: bool
    reason: str | None


class Resynced(NamedTuple):
    reason: str


class Pushed(NamedTuple):
    n: int
    kind: str
    data: Any
    after: int | None


class Answered(NamedTuple):
    """The answer to a query."""

    id: str
    data: Any


class Refused(NamedTuple):
    """An error frame; `id` when it answers a query."""

    code: int
    name: str
    message: str
    id: str | None
    retry_after_ms: int | None


class Left(NamedTuple):
    is_saved: bool


class Suspended(NamedTuple):
    expires_s: float


class Stopped(NamedTuple):
    """The machine is CLOSED: with the close code that told it not to come back, or None when it left by itself."""

    code: int | None


Action = (
    Send
    | Abort
    | Hangup
    | Connect
    | More
    | NeedToken
    | SyncJournal
    | Forget
    | ResetStream
    | DropJournal
    | Accepted
    | Voided
    | Welcomed
    | Resynced
    | Pushed
    | Answered
    | Refused
    | Left
    | Suspended
    | Stopped
)


class JournalView(Protocol):
    """The part of a journal that the machine reads. It changes the journal only through actions."""

    @property
    def device(self) -> str: ...
    @property
    def made(self) -> int: ...
    @property
    def synced(self) -> int: ...
    @property
    def saved(self) -> int: ...
    @property
    def exposed(self) -> int: ...
    @property
    def moved_at(self) -> int | None: ...
    def list_after(self, seq: int, limit: int) -> list[tuple[int, bytes]]: ...


# The two codes after which a frame may hold an update that the server could not even number.
_UNREADABLE: Final = frozenset({ErrorCode.BAD_FRAME, ErrorCode.TOO_LARGE})


class Impossible(Exception):
    """The server sent what a sound server cannot have sent."""


class SessionMachine:
    """One player's session as the client sees it. See the module's head; the inputs are below `# --- inputs`."""

    __slots__ = (
        "_backoff",
        "_bye_code",
        "_bye_retry_ms",
        "_careful_upto",
        "_close_by_ms",
        "_drain_by_ms",
        "_drain_from_ms",
        "_experience",
        "_frames",
        "_gap_strikes",
        "_heard_ms",
        "_heartbeat_ms",
        "_hello_due",
        "_is_choked",
        "_is_fresh_token_due",
        "_is_refreshing",
        "_journal",
        "_leave_seq",
        "_measure",
        "_moved_ms",
        "_next",
        "_ping_ms",
        "_playing_since_ms",
        "_probe_by_ms",
        "_push_gap",
        "_queries",
        "_random",
        "_refresh_ms",
        "_resumable",
        "_saved_ahead",
        "_seen_told",
        "_sent_max",
        "_sent_ms",
        "_skips",
        "_state_since_ms",
        "_token",
        "_wait_until_ms",
        "_welcomes",
        "_window",
        "accepted",
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
        "voids",
    )

    def __init__(
        self,
        journal: JournalView,
        experience: str,
        *,
        random: Random,
        measure: Callable[[bytes, dict[str, Any]], int] | None = None,
        client: str | None = None,
    ) -> None:
        """`measure` tells from a payload and its body how long the update is on the wire; by default as msgpack."""
        self._journal = journal
        self._experience = experience
        self._random = random
        self._measure = measure or measure_msgpack
        self._backoff = Backoff(random)
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
        self.accepted = journal.saved
        self.voids: dict[int, tuple[int, str]] = {}
        self.rtt_ms: float | None = None
        self.is_leaving = False
        self._token = ""
        self._refresh_ms: int | None = None
        self._is_fresh_token_due = False
        self._push_gap = 0

        # This connection.
        self._window = WINDOW
        self._heartbeat_ms = HEARTBEAT_S * 1000
        self._forget_connection()

    def _forget_connection(self) -> None:
        self._next = self.accepted + 1
        self._sent_max = self.accepted
        self._saved_ahead = 0
        self._frames: deque[tuple[int, int]] = deque()  # (first, last) of each unacknowledged frame, oldest first
        self._is_choked = False
        self._skips: set[int] | None = None  # seqs that the server cannot read: sent as `skip`
        self._careful_upto = 0  # up to here one update at a time, so that an error names its update
        self._gap_strikes = 0
        self._wait_until_ms = 0
        self._heard_ms = 0
        self._sent_ms = 0
        self._moved_ms = 0  # when `accepted` last moved, or something was sent into an empty window
        self._ping_ms: int | None = None
        self._probe_by_ms: int | None = None
        self._state_since_ms = 0
        self._playing_since_ms: int | None = None
        self._hello_due = False
        self._is_refreshing = False
        self._close_by_ms: int | None = None
        self._bye_code: int | None = None
        self._bye_retry_ms = 0
        self._drain_from_ms: int | None = None
        self._drain_by_ms = 0
        self._leave_seq: int | None = None
        self._seen_told = 0
        self._queries: set[str] | None = None

    # --- facts -----------------------------------------------------------------------------------------------------

    @property
    def saved(self) -> int:
        return self._journal.saved

    @property
    def in_flight(self) -> int:
        """How many updates this connection has sent that are not accepted."""
        return self._next - 1 - self.accepted

    @property
    def is_closing(self) -> bool:
        """This socket is on its way out: nothing more is said on it."""
        return self._close_by_ms is not None

    @property
    def is_quiet(self) -> bool:
        """Nothing is waiting for an answer: a good moment to change the socket."""
        return self._next - 1 == self.accepted and not self._queries and self._leave_seq is None

    def find_next_tick_ms(self) -> int | None:
        """When `tick` has something to do at the latest; None if never."""
        if self._close_by_ms is not None:
            return self._close_by_ms
        if self.state is MachineState.HELLO:
            return self._state_since_ms + WELCOME_WAIT_MS
        if self.state is not MachineState.PLAYING:
            return None
        at = min(self._heard_ms + 2 * self._heartbeat_ms, self._sent_ms + self._heartbeat_ms)
        if self._next - 1 > self.accepted:
            at = min(at, self._moved_ms + 2 * self._heartbeat_ms)
        if self._wait_until_ms:
            at = min(at, self._wait_until_ms)
        if self._probe_by_ms is not None:
            at = min(at, self._probe_by_ms)
        if self._drain_from_ms is not None:
            at = min(at, self._drain_from_ms if self.is_quiet else self._drain_by_ms)
        if self._refresh_ms is not None:
            at = min(at, self._refresh_ms)
        return at

    # --- inputs ----------------------------------------------------------------------------------------------------

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
        retry_ms = self._bye_retry_ms
        if self._playing_since_ms is not None and now_ms - self._playing_since_ms >= HEALTHY_AFTER_MS:
            self._backoff.reset()
        has_left = self._leave_seq is not None and code == 1000
        was_hangup = self._drain_from_ms is not None and self._close_by_ms is not None and self._bye_code is None
        fresh = self._is_fresh_token_due
        self._forget_connection()
        if has_left:
            return self._stop(None)
        action = close_action(code) if code is not None else CloseAction.RESUME
        if action is CloseAction.STAY_AWAY:
            out: list[Action] = []
            if code == CloseCode.PLAYER_DELETED:
                self._end_session()
                self.voids = {}
                self.accepted = 0
                out.append(DropJournal())
            return out + self._stop(code)
        if code == CloseCode.SESSION_ENDED:
            self._end_session()
        if action is CloseAction.FRESH:
            fresh = True
        self.state = MachineState.OFFLINE
        self._is_fresh_token_due = fresh
        if was_hangup:
            self._backoff.reset()  # it was our choice to go
        return [Connect(self._backoff.next_wait_ms(retry_ms), fresh)]

    def journal_synced(self, now_ms: int) -> list[Action]:
        """The journal moved: an update was made, or a sync came to an end."""
        out: list[Action] = []
        if self._hello_due:
            if self._journal.synced >= 0:
                self._say_hello(now_ms, out)
            return out
        self._fill(now_ms, out)
        return out

    def writable(self, now_ms: int) -> list[Action]:
        """The socket has taken what it was given (after `More`)."""
        out: list[Action] = []
        self._is_choked = False
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
        if self._next - 1 > self.accepted and now_ms >= self._moved_ms + silent_ms:
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

    def received(self, frame: object, now_ms: int) -> list[Action]:
        """A frame came. Whatever it is, this does not raise."""
        out: list[Action] = []
        if self.state in (MachineState.OFFLINE, MachineState.CLOSED):
            return out
        self._heard_ms = now_ms
        self._probe_by_ms = None
        try:
            if not isinstance(frame, dict):
                raise Impossible("a frame is a map")
            kind = frame.get("t")
            if not isinstance(kind, str):
                raise Impossible("a frame has a type")
            handler = self._HANDLERS.get(kind)
            if handler is not None:  # a type from a later protocol is none of our business
                if self.state is MachineState.HELLO and kind not in self._BEFORE_WELCOME:
                    raise Impossible(f"{kind} before welcome")
                handler(self, frame, now_ms, out)
        except Impossible as impossible:
            out.extend(self._abort(f"impossible frame: {impossible}", now_ms))
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

    def forget_query(self, id: str) -> None:
        """Nobody waits for this answer any more."""
        if self._queries is not None:
            self._queries.discard(id)

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
        """The app goes to the background; heartbeats end when the server has answered."""
        out: list[Action] = []
        if self.state is MachineState.PLAYING and self._close_by_ms is None:
            self._send({"t": "suspend", "expected_s": expected_s}, now_ms, out)
        return out

    def wake(self, now_ms: int) -> list[Action]:
        """The app is back: find out soon whether the socket still lives."""
        out: list[Action] = []
        if self.state in (MachineState.PLAYING, MachineState.SUSPENDED) and self._close_by_ms is None:
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

    # --- hello -----------------------------------------------------------------------------------------------------

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

    def _on_welcome(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        if self.state is not MachineState.HELLO or self._hello_due:
            raise Impossible("welcome without hello")
        accepted, saved = _get_marks(frame)
        self._check_marks(accepted, saved)
        session = _get_map(frame, "session")
        session_id, session_token = _get_str(session, "id"), _get_str(session, "token")
        resumed = frame.get("resumed") is True
        version = _get_count(frame, "version")
        voids = _get_voids(frame, upto=accepted)
        document = _get_map(frame, "state")
        self._heartbeat_ms = _find_within(frame, "heartbeat_s", 0.01, 600.0, HEARTBEAT_S, 1000)
        self._window = _find_within(frame, "window", 1, WINDOW_MAX, WINDOW, 1)

        if self._journal.moved_at is not None or accepted > self._journal.exposed:
            # This device forgot numbers that it had used, or another installation went on under its id after the copy
            # was taken. Now it is known how far; what lies above goes on under a new id, on a socket of its own.
            self._end_session()
            self._reset_stream(accepted, "device_behind", out)
            self._hang_up(1000, now_ms, out)
            return
        if not resumed or session_id != self.session_id:
            self.seen = 0
            self._push_gap = 0
        self._seen_told = self.seen
        self.session_id, self.session_token, self._resumable = session_id, session_token, True
        self.state = MachineState.PLAYING
        self._playing_since_ms = now_ms
        self._welcomes += 1
        reason = frame.get("reason")
        out.append(Welcomed(resumed, reason if isinstance(reason, str) else None))
        self._go_on_from(accepted, saved, voids, document, version, now_ms, out)

    def _go_on_from(
        self,
        accepted: int,
        saved: int,
        voids: list[Voided],
        document: dict[str, Any],
        version: int,
        now_ms: int,
        out: list[Action],
    ) -> None:
        """The server has said where this stream stands: believe it, replace the state, send what follows."""
        has_moved = accepted > self.accepted
        self.accepted = accepted
        self.document = document
        self.version = version
        self._next = accepted + 1
        self._sent_max = max(self._sent_max, accepted)
        self._moved_ms = now_ms
        self._frames.clear()
        self._wait_until_ms = 0
        self._gap_strikes = 0
        self._note_voids(voids, out)
        if has_moved:
            out.append(Accepted(accepted))
        self._note_saved(saved, out)
        self._fill(now_ms, out)

    def _check_marks(self, accepted: int, saved: int) -> None:
        """
        Where the server says the stream stands. What it lies about here would cost updates; a reset is another frame.
        """
        if saved > accepted:
            raise Impossible(f"saved {saved} above accepted {accepted}")
        if accepted < self._journal.saved:
            raise Impossible(f"accepted {accepted} below what was saved ({self._journal.saved})")
        if accepted > self._journal.made and self._journal.moved_at is None:
            raise Impossible(f"accepted {accepted} above what was made ({self._journal.made})")

    def _on_stream_reset(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        if self._hello_due:
            raise Impossible("stream_reset without hello")
        accepted = _get_count(frame, "accepted")
        journal = self._journal
        if journal.saved <= accepted <= journal.made and journal.moved_at is None:
            raise Impossible(f"stream_reset at {accepted} although {journal.saved} is saved and {journal.made} made")
        reason = frame.get("reason")
        self._end_session()
        self._reset_stream(accepted, reason if isinstance(reason, str) else "", out)
        out.extend(self._begin_hello(now_ms))

    def _reset_stream(self, accepted: int, reason: str, out: list[Action]) -> None:
        # An update that never left this device cannot be among what the server accepted, whatever number it carries:
        # that number was used before the disk forgot it.
        out.append(ResetStream(min(accepted, self._journal.exposed), reason))
        self.voids = {}
        self.accepted = 0
        self._sent_max = 0
        self._next = 1
        self._frames.clear()
        self._skips = None
        self._careful_upto = 0
        self._saved_ahead = 0
        # The driver resets the journal after this; until it is synced nothing more is said.
        self._hello_due = True

    # --- what the server says about updates ------------------------------------------------------------------------

    def _on_ack(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        seq = _get_count(frame, "seq")
        saved = _get_count(frame, "saved")
        version = _get_count(frame, "version")
        if seq > self._sent_max:
            raise Impossible(f"ack of {seq}, sent were {self._sent_max}")
        if saved > self._sent_max:
            raise Impossible(f"saved {saved}, sent were {self._sent_max}")
        if "void" in frame:
            self._note_voids(_get_voids(frame, upto=seq), out)
        if version > self.version:
            self.version = version
        self._note_accepted(seq, now_ms, out)
        self._note_saved(saved, out)
        self._fill(now_ms, out)

    def _on_saved(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        seq = _get_count(frame, "seq")
        if seq > self._sent_max:
            raise Impossible(f"saved {seq}, sent were {self._sent_max}")
        self._note_saved(seq, out)

    def _on_resync(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        accepted, saved = _get_marks(frame)
        self._check_marks(accepted, saved)
        if accepted > self._journal.exposed:
            raise Impossible(f"accepted {accepted}, {self._journal.exposed} can have been sent")
        voids = _get_voids(frame, upto=accepted)
        document = _get_map(frame, "state")
        version = _get_count(frame, "version")
        reason = frame.get("reason")
        self.seen = self._seen_told = 0
        self._push_gap = 0
        out.append(Resynced(reason if isinstance(reason, str) else ""))
        self._go_on_from(accepted, saved, voids, document, version, now_ms, out)

    def _note_accepted(self, seq: int, now_ms: int, out: list[Action]) -> None:
        if seq <= self.accepted:
            return
        self.accepted = seq
        self._moved_ms = now_ms
        self._gap_strikes = 0
        if self._next <= seq:
            self._next = seq + 1
        frames = self._frames
        while frames and frames[0][1] <= seq:
            frames.popleft()
        if self._skips:
            self._skips = {skip for skip in self._skips if skip > seq} or None
        out.append(Accepted(seq))
        if self._saved_ahead:
            ahead, self._saved_ahead = self._saved_ahead, 0
            self._note_saved(ahead, out)

    def _note_saved(self, seq: int, out: list[Action]) -> None:
        if seq > self.accepted:
            # The flusher's notice can overtake the ack. It counts when the ack has come, which names the voids, too.
            self._saved_ahead = max(self._saved_ahead, seq)
            return
        if seq > self._journal.saved:
            out.append(Forget(seq))
            if self.voids:
                self.voids = {at: void for at, void in self.voids.items() if at > seq}

    def _note_voids(self, voids: list[Voided], out: list[Action]) -> None:
        for void in voids:
            if void.seq > self._journal.saved and void.seq not in self.voids:
                self.voids[void.seq] = (void.code, void.message)
                out.append(void)

    # --- errors ----------------------------------------------------------------------------------------------------

    def _on_error(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        code = _get_count(frame, "code")
        name, message = frame.get("name"), frame.get("message")
        id = frame.get("id")
        retry_ms = _find_retry_ms(frame)
        refused = Refused(
            code,
            name if isinstance(name, str) else "",
            message if isinstance(message, str) else "",
            id if isinstance(id, str) else None,
            retry_ms,
        )
        out.append(refused)
        if refused.id is not None:
            self.forget_query(refused.id)
            return
        if self.state is MachineState.HELLO:
            if 300 <= code < 400:
                self._is_fresh_token_due = True
            self._bye_retry_ms = retry_ms or 0
            out.extend(self._abort(f"hello refused: {code}", now_ms))
        elif code == ErrorCode.SEQUENCE_GAP:
            self._on_gap(frame, now_ms, out)
        elif code == ErrorCode.NOT_IN_SESSION:
            out.extend(self._abort("the server knows no session here", now_ms))
        elif 200 <= code < 300:
            self._on_cannot_now(frame, retry_ms, now_ms, out)
        elif 300 <= code < 400:
            if isinstance(frame.get("seq"), int):
                # Nothing may be lost over a token that is too weak: keep it, come back with another.
                self._is_fresh_token_due = True
                out.extend(self._abort(f"update refused: {code}", now_ms))
            elif self._is_refreshing:
                self._is_refreshing = False
                self._refresh_ms = now_ms + REFRESH_AGAIN_MS
            else:
                out.append(NeedToken())
        else:
            self._on_sent_wrong(frame, code, now_ms, out)

    def _on_gap(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        expected = frame.get("expected")
        if expected is None:
            expected = self.accepted + 1
        if type(expected) is not int or not self._journal.saved < expected <= self._sent_max + 1:
            raise Impossible(f"expected {expected!r}")
        if expected <= self.accepted:
            self.accepted = expected - 1  # the hot copy forgot; the journal did not
        elif expected - 1 > self.accepted:
            self._note_accepted(expected - 1, now_ms, out)
        self._go_back_to(expected, now_ms)
        if self._gap_strikes:
            self._wait_until_ms = now_ms + min(GAP_WAIT_MAX_MS, GAP_WAIT_FIRST_MS << min(self._gap_strikes, 10))
        self._gap_strikes += 1
        self._fill(now_ms, out)

    def _on_cannot_now(self, frame: dict[str, Any], retry_ms: int | None, now_ms: int, out: list[Action]) -> None:
        seq = frame.get("seq")
        if seq is None:
            seq = self.accepted + 1
        elif type(seq) is not int or not 0 < seq <= self._sent_max:
            raise Impossible(f"error for {seq!r}, sent were {self._sent_max}")
        if seq <= self.accepted:
            return
        self._go_back_to(self.accepted + 1, now_ms)
        wait_ms = RETRY_AFTER_DEFAULT_MS if retry_ms is None else retry_ms
        self._wait_until_ms = max(1, now_ms + wait_ms + int(self._random.random() * wait_ms / 10))

    def _on_sent_wrong(self, frame: dict[str, Any], code: int, now_ms: int, out: list[Action]) -> None:
        """
        1xx for an update (or for something that cannot be told): use the seq up without effect, rather than never go
        on.
        """
        seq = frame.get("seq")
        if seq is not None and (type(seq) is not int or not 0 < seq <= self._sent_max):
            raise Impossible(f"error for {seq!r}, sent were {self._sent_max}")
        if seq is not None and seq <= self.accepted:
            return
        if not self._frames or (seq is None and code == ErrorCode.UNKNOWN_TYPE):
            return  # not about an update
        first, last = self._frames[0]
        if seq is not None:
            first, last = next(((a, b) for a, b in self._frames if a <= seq <= b), (first, last))
        if seq is None and len(self._frames) == 1 and first == last and code not in _UNREADABLE:
            return  # a single update that can be read is never refused without its number
        if first == last and (seq is not None or len(self._frames) == 1):
            if self._skips is not None and first in self._skips:
                out.extend(self._abort(f"even a skip is refused: {code}", now_ms))
                return
            if self._skips is None:
                self._skips = set()
            self._skips.add(first)
        else:
            # One of several updates, nobody can say which: an innocent one must not be voided for it.
            self._careful_upto = self._sent_max
        self._go_back_to(self.accepted + 1, now_ms)
        self._fill(now_ms, out)

    def _go_back_to(self, seq: int, now_ms: int) -> None:
        self._next = seq
        self._moved_ms = now_ms
        self._frames.clear()

    # --- sending ---------------------------------------------------------------------------------------------------

    def _fill(self, now_ms: int, out: list[Action]) -> None:
        """Send what the window has room for; change the socket or leave if that is due and the moment is right."""
        if self.state not in (MachineState.PLAYING, MachineState.SUSPENDED) or self._close_by_ms is not None:
            return
        if self._drain_from_ms is not None and (
            now_ms >= self._drain_by_ms or (now_ms >= self._drain_from_ms and self.is_quiet)
        ):
            self._hang_up(1001, now_ms, out)
            return
        if self._wait_until_ms:
            if now_ms < self._wait_until_ms:
                return
            self._wait_until_ms = 0
        journal = self._journal
        ahead_bytes = 0
        while self._leave_seq is None and not self._is_choked:
            # The guard of the whole design: nothing leaves the device before its record is synced.
            last = min(journal.synced, self.accepted + self._window)
            if self._next > last:
                break
            if self._next <= self._careful_upto:
                if self._next - 1 > self.accepted:
                    break
                last = self._next
            ahead_bytes += self._send_updates(last, now_ms, out)
            if ahead_bytes >= WRITE_AHEAD_BYTES_MAX:
                self._is_choked = True
                out.append(More())
        if self.is_leaving and self._leave_seq is None and self.accepted == journal.made and not self._queries:
            self._leave_seq = self.accepted
            self._send({"t": "leave"}, now_ms, out)

    def _send_updates(self, last: int, now_ms: int, out: list[Action]) -> int:
        """Send one frame with as much of `_next` … `last` as fits; answers about how many bytes it has."""
        if self.state is MachineState.SUSPENDED:
            self._unsuspend(now_ms)
        if self._next - 1 == self.accepted:
            self._moved_ms = now_ms
        first = self._next
        updates: list[dict[str, Any]] = []
        size_bytes = BATCH_OVERHEAD_BYTES
        for seq, payload in self._journal.list_after(first - 1, min(BATCH_UPDATES_MAX, last - first + 1)):
            update, update_bytes = self._make_update(seq, payload)
            if updates and size_bytes + update_bytes > FRAME_BYTES_MAX:
                break
            updates.append(update)
            size_bytes += update_bytes
        assert updates, "a journal holds every update between saved and made"
        if len(updates) == 1:
            self._send({"t": "update", **updates[0]}, now_ms, out)
        else:
            self._send({"t": "batch", "updates": updates}, now_ms, out)
        self._next = first + len(updates)
        self._frames.append((first, self._next - 1))
        self._sent_max = max(self._sent_max, self._next - 1)
        return size_bytes

    def _make_update(self, seq: int, payload: bytes) -> tuple[dict[str, Any], int]:
        skip = {"seq": seq, "skip": True}
        if self._skips is not None and seq in self._skips:
            return skip, 2 * UPDATE_OVERHEAD_BYTES
        try:
            body = msgpack.unpackb(payload)
            size_bytes = self._measure(payload, body)
            update = {"seq": seq, **body}
        except Exception:
            # The disk damaged it, or this codec cannot say it. Its seq must be used up all the same.
            return skip, 2 * UPDATE_OVERHEAD_BYTES
        if size_bytes > UPDATE_BYTES_MAX:
            return skip, 2 * UPDATE_OVERHEAD_BYTES
        return update, size_bytes

    def _send(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        self._sent_ms = now_ms
        out.append(Send(frame))

    def _make_ping(self, now_ms: int) -> dict[str, Any]:
        frame: dict[str, Any] = {"t": "ping", "at": now_ms + self.clock_offset_ms}
        if self.seen > self._seen_told:
            frame["seen"] = self._seen_told = self.seen
        self._ping_ms = now_ms
        return frame

    def _unsuspend(self, now_ms: int) -> None:
        if self.state is MachineState.SUSPENDED:
            self.state = MachineState.PLAYING
            self._heard_ms = now_ms

    # --- everything else the server says ---------------------------------------------------------------------------

    def _on_push(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        n = _get_count(frame, "n")
        kind = _get_str(frame, "kind")
        if n <= self.seen:
            return  # replayed
        if n > self.seen + 1 and self._push_gap != self.seen + 1:
            # Resume once, so that what is missing is replayed; if it is missing then, too, it is gone for good.
            self._push_gap = self.seen + 1
            raise Impossible(f"push {n} after {self.seen}")
        self.seen = n
        after = frame.get("after")
        data = frame.get("data")
        if kind == "state" and isinstance(data, dict) and type(data.get("version")) is int:
            self.version = max(self.version, data["version"])
        out.append(Pushed(n, kind, data, after if type(after) is int else None))

    def _on_result(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        id = _get_str(frame, "id")
        self.forget_query(id)
        out.append(Answered(id, frame.get("data")))
        self._fill(now_ms, out)

    def _on_pong(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        if self._ping_ms is not None:
            self.rtt_ms = float(now_ms - self._ping_ms)
            self._ping_ms = None
        if self.state is MachineState.HELLO:
            return
        if frame.get("saved") is not None:
            saved = _get_count(frame, "saved")
            if saved > self._sent_max:
                raise Impossible(f"saved {saved}, sent were {self._sent_max}")
            self._note_saved(saved, out)

    def _on_drain(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        if self._drain_from_ms is not None:
            return
        within_ms = _find_within(frame, "within_ms", 0, 3_600_000, 5_000, 1)
        # Everybody on this node hears this at once; the players spread over the first half, the second is for the
        # busy ones.
        self._drain_from_ms = now_ms + int(self._random.random() * within_ms / 2)
        self._drain_by_ms = now_ms + within_ms * 9 // 10
        self._fill(now_ms, out)

    def _on_bye(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        code = frame.get("code")
        self._bye_code = code if type(code) is int else None
        self._bye_retry_ms = _find_retry_ms(frame) or 0
        self._close_by_ms = now_ms + CLOSE_WAIT_MS

    def _on_left(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        if self._leave_seq is None:
            raise Impossible("left without leave")
        is_saved = frame.get("saved") is True
        if is_saved:
            self._note_saved(self._leave_seq, out)
        self._end_session()
        out.append(Left(is_saved))
        out.append(Hangup(1000))
        out.extend(self._stop(None))

    def _on_refreshed(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        expires_s = _find_within(frame, "expires_s", 0, 10 * 365 * 86_400, 3_600, 1)
        self._is_refreshing = False
        self._refresh_ms = now_ms + max(1_000, expires_s * 800)

    def _on_suspended(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        if self.state is MachineState.PLAYING and self.is_quiet:
            self.state = MachineState.SUSPENDED
        out.append(Suspended(_find_within(frame, "expires_s", 0, 10 * 365 * 86_400, 3_600, 1)))

    # --- endings ---------------------------------------------------------------------------------------------------

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

    def _stop(self, code: int | None) -> list[Action]:
        self.state = MachineState.CLOSED
        return [Stopped(code)]

    _BEFORE_WELCOME: Final = frozenset({"welcome", "stream_reset", "error", "bye", "drain", "pong"})
    _HANDLERS: Final[dict[str, Callable[[SessionMachine, dict[str, Any], int, list[Action]], None]]] = {
        "welcome": _on_welcome,
        "stream_reset": _on_stream_reset,
        "ack": _on_ack,
        "saved": _on_saved,
        "resync": _on_resync,
        "push": _on_push,
        "result": _on_result,
        "error": _on_error,
        "drain": _on_drain,
        "bye": _on_bye,
        "pong": _on_pong,
        "left": _on_left,
        "refreshed": _on_refreshed,
        "suspended": _on_suspended,
    }


def measure_msgpack(payload: bytes, body: dict[str, Any]) -> int:
    """How long an update with this payload is at most, as a msgpack frame of its own."""
    return len(payload) + UPDATE_OVERHEAD_BYTES


# --- reading frames -----------------------------------------------------------------------------------------------


def _get_count(frame: dict[str, Any], name: str) -> int:
    value = frame.get(name)
    if type(value) is not int or not 0 <= value <= SEQ_MAX:
        raise Impossible(f"{name} is {value!r}")
    return value


def _get_str(frame: dict[str, Any], name: str) -> str:
    value = frame.get(name)
    if not isinstance(value, str) or not value:
        raise Impossible(f"{name} is {value!r}")
    return value


def _get_map(frame: dict[str, Any], name: str) -> dict[str, Any]:
    value = frame.get(name)
    if not isinstance(value, dict):
        raise Impossible(f"{name} is no map")
    return value


def _get_marks(frame: dict[str, Any]) -> tuple[int, int]:
    marks = _get_map(frame, "seq")
    return _get_count(marks, "accepted"), _get_count(marks, "saved")


def _get_voids(frame: dict[str, Any], upto: int) -> list[Voided]:
    raw = frame.get("void")
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise Impossible("void is no list")
    voids = []
    for item in raw:
        if not isinstance(item, dict):
            raise Impossible("a void is a map")
        seq = _get_count(item, "seq")
        if not 0 < seq <= upto:
            raise Impossible(f"void of {seq}, accepted are {upto}")
        message = item.get("message")
        voids.append(Voided(seq, _get_count(item, "code"), message if isinstance(message, str) else ""))
    return voids


def _find_retry_ms(frame: dict[str, Any]) -> int | None:
    value = frame.get("retry_after_ms")
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        return None
    return int(min(value, RETRY_AFTER_MAX_MS))


def _find_within(frame: dict[str, Any], name: str, least: float, most: float, default: float, scale: int) -> int:
    """A number the client can do without: clamped, and the default where it makes no sense."""
    value = frame.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        value = default
    return int(value * scale)
