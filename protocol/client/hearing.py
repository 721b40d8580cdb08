"""
What the session machine does about each frame of the server. `_HANDLERS` is the table.

Promise: a frame that a sound server cannot have sent (an ack of what was never sent, a missing number) ends the
connection and nothing else: the next welcome tells the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from protocol.client.actions import (
    Action,
    Answered,
    Hangup,
    Left,
    NeedToken,
    Pushed,
    Refused,
    ResetStream,
    Resynced,
    Suspended,
    Voided,
    Welcomed,
)
from protocol.client.server_frames import (
    Impossible,
    find_retry_ms,
    find_within,
    get_count,
    get_map,
    get_marks,
    get_str,
    get_voids,
)
from protocol.client.session_memory import CLOSE_WAIT_MS, MachineState, SessionMemory
from protocol.errors import ErrorCode
from protocol.limits import HEARTBEAT_S, WINDOW

WINDOW_MAX: Final = 65_536
# A refreshed token was refused: how long before another is tried, so that the two sides do not argue all day.
REFRESH_AGAIN_MS: Final = 30_000


class Hearing(SessionMemory):
    """The session machine's ear."""

    __slots__ = ()

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

    def heard_plain_ack(self, seq: int, version: int, saved: int, now_ms: int) -> int | None:
        """
        The short way of `received` for an ack that names no voids: a sum of `PLAIN_ACCEPTED` (say so: everything up to
        `seq` is accepted) and then `PLAIN_SAVED` (let the journal forget up to `saved`). None: nothing was done,
        because something else may follow from it; ask `received`.
        """
        if (
            self.state is not MachineState.PLAYING
            or self._close_by_ms is not None
            or self._drain_from_ms is not None
            or self._suspend_s is not None
            or self.is_leaving
        ):
            return None
        news = self._outbox.take_plain_ack(seq, saved, now_ms)
        if news is not None:
            self._heard_ms = now_ms
            self._probe_by_ms = None
            if version > self.version:
                self.version = version
        return news

    def heard_plain_saved(self, seq: int, now_ms: int) -> bool:
        """
        The short way of `received` for a `saved`: True: let the journal forget up to `seq`. False: nothing was done;
        ask `received`.
        """
        if self.state is not MachineState.PLAYING or not self._outbox.take_plain_saved(seq):
            return False
        self._heard_ms = now_ms
        self._probe_by_ms = None
        return True

    # --- where the stream stands -------------------------------------------------------------------------------------

    def _on_welcome(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        if self.state is not MachineState.HELLO or self._hello_due:
            raise Impossible("welcome without hello")
        accepted, saved = get_marks(frame)
        self._check_marks(accepted, saved)
        session = get_map(frame, "session")
        session_id, session_token = get_str(session, "id"), get_str(session, "token")
        resumed = frame.get("resumed") is True
        version = get_count(frame, "version")
        voids = get_voids(frame, upto=accepted)
        document = get_map(frame, "state")
        self._heartbeat_ms = find_within(frame, "heartbeat_s", 0.01, 600.0, HEARTBEAT_S, 1000)
        self._outbox.window = find_within(frame, "window", 1, WINDOW_MAX, WINDOW, 1)

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

    def _on_stream_reset(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        if self._hello_due:
            raise Impossible("stream_reset without hello")
        accepted = get_count(frame, "accepted")
        journal = self._journal
        if journal.saved <= accepted <= journal.made and journal.moved_at is None:
            raise Impossible(f"stream_reset at {accepted} although {journal.saved} is saved and {journal.made} made")
        reason = frame.get("reason")
        self._end_session()
        self._reset_stream(accepted, reason if isinstance(reason, str) else "", out)
        out.extend(self._begin_hello(now_ms))

    def _on_resync(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        accepted, saved = get_marks(frame)
        self._check_marks(accepted, saved)
        if accepted > self._journal.exposed:
            raise Impossible(f"accepted {accepted}, {self._journal.exposed} can have been sent")
        voids = get_voids(frame, upto=accepted)
        document = get_map(frame, "state")
        version = get_count(frame, "version")
        reason = frame.get("reason")
        self.seen = self._seen_told = 0
        self._push_gap = 0
        out.append(Resynced(reason if isinstance(reason, str) else ""))
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
        self.document = document
        self.version = version
        self._outbox.go_on_from(accepted, saved, voids, now_ms, out)
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

    def _reset_stream(self, accepted: int, reason: str, out: list[Action]) -> None:
        # An update that never left this device cannot be among what the server accepted, whatever number it carries:
        # that number was used before the disk forgot it.
        out.append(ResetStream(min(accepted, self._journal.exposed), reason))
        self._outbox.forget_stream()
        # The driver resets the journal after this; until it is synced nothing more is said.
        self._hello_due = True

    # --- about updates -----------------------------------------------------------------------------------------------

    def _on_ack(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        seq = get_count(frame, "seq")
        saved = get_count(frame, "saved")
        version = get_count(frame, "version")
        self._take_ack(seq, version, saved, frame if "void" in frame else None, now_ms, out)

    def _take_ack(
        self, seq: int, version: int, saved: int, void_frame: dict[str, Any] | None, now_ms: int, out: list[Action]
    ) -> None:
        outbox = self._outbox
        if seq > outbox.sent_max:
            raise Impossible(f"ack of {seq}, sent were {outbox.sent_max}")
        if saved > outbox.sent_max:
            raise Impossible(f"saved {saved}, sent were {outbox.sent_max}")
        if void_frame is not None:
            outbox.note_voids(get_voids(void_frame, upto=seq), out)
        if version > self.version:
            self.version = version
        outbox.note_accepted(seq, now_ms, out)
        outbox.note_saved(saved, out)
        if (
            outbox.has_more
            or self.is_leaving
            or self._drain_from_ms is not None
            or self._suspend_s is not None  # when all is answered
        ):
            self._fill(now_ms, out)

    def _on_saved(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        seq = get_count(frame, "seq")
        if seq > self._outbox.sent_max:
            raise Impossible(f"saved {seq}, sent were {self._outbox.sent_max}")
        self._outbox.note_saved(seq, out)

    def _on_error(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        code = get_count(frame, "code")
        name, message = frame.get("name"), frame.get("message")
        id = frame.get("id")
        retry_ms = find_retry_ms(frame)
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
            self._outbox.take_gap(frame.get("expected"), now_ms, out)
            self._fill(now_ms, out)
        elif code == ErrorCode.NOT_IN_SESSION:
            out.extend(self._abort("the server knows no session here", now_ms))
        elif 200 <= code < 300:
            self._outbox.take_not_now(frame.get("seq"), retry_ms, now_ms)
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
        elif self._outbox.take_sent_wrong(frame.get("seq"), code, now_ms):
            self._fill(now_ms, out)

    # --- everything else ---------------------------------------------------------------------------------------------

    def _on_push(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        n = get_count(frame, "n")
        kind = get_str(frame, "kind")
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
        id = get_str(frame, "id")
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
            saved = get_count(frame, "saved")
            if saved > self._outbox.sent_max:
                raise Impossible(f"saved {saved}, sent were {self._outbox.sent_max}")
            self._outbox.note_saved(saved, out)

    def _on_drain(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        if self._drain_from_ms is not None:
            return
        within_ms = find_within(frame, "within_ms", 0, 3_600_000, 5_000, 1)
        # Everybody on this node hears this at once; the players spread over the first half, the second is for the
        # busy ones.
        self._drain_from_ms = now_ms + int(self._random.random() * within_ms / 2)
        self._drain_by_ms = now_ms + within_ms * 9 // 10
        self._fill(now_ms, out)

    def _on_bye(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        code = frame.get("code")
        self._bye_code = code if type(code) is int else None
        self._bye_retry_ms = find_retry_ms(frame) or 0
        message = frame.get("message")
        self._bye_message = message if isinstance(message, str) and message else None
        self._close_by_ms = now_ms + CLOSE_WAIT_MS

    def _on_left(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        if self._leave_seq is None:
            raise Impossible("left without leave")
        is_saved = frame.get("saved") is True
        if is_saved:
            self._outbox.note_saved(self._leave_seq, out)
        self._end_session()
        out.append(Left(is_saved))
        out.append(Hangup(1000))
        out.extend(self._stop(None))

    def _on_refreshed(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        expires_s = find_within(frame, "expires_s", 0, 10 * 365 * 86_400, 3_600, 1)
        self._is_refreshing = False
        self._refresh_ms = now_ms + max(1_000, expires_s * 800)

    def _on_suspended(self, frame: dict[str, Any], now_ms: int, out: list[Action]) -> None:
        self._suspend_is_heard = self._suspend_is_last
        self._go_to_background(now_ms, out)
        out.append(Suspended(find_within(frame, "expires_s", 0, 10 * 365 * 86_400, 3_600, 1)))

    _BEFORE_WELCOME: Final = frozenset({"welcome", "stream_reset", "error", "bye", "drain", "pong"})
    _HANDLERS: Final[dict[str, Callable[[Hearing, dict[str, Any], int, list[Action]], None]]] = {
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
