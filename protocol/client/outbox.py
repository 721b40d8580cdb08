"""
The outbox: which updates of the journal are on their way over this connection, what the server has accepted of them,
and what goes next.

Promise: updates leave in order, none before its journal record is synced, at most a window unanswered, and again until
they are accepted. One that the server cannot read uses its number up as a skip, so that no error blocks the stream.

Not here: whether anything may be said at all (machine.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final, Protocol

import msgpack

from protocol.client.actions import Accepted, Action, Forget, More, Send, Voided
from protocol.client.server_frames import Impossible
from protocol.errors import ErrorCode
from protocol.limits import BATCH_UPDATES_MAX, FRAME_BYTES_MAX, UPDATE_BYTES_MAX, WINDOW

RETRY_AFTER_DEFAULT_MS: Final = 1_000
# Two SEQUENCE_GAPs in a row without progress: sending the window again at once would only make a storm.
GAP_WAIT_FIRST_MS: Final = 50
GAP_WAIT_MAX_MS: Final = 5_000
# What a batch costs besides its updates, and an update besides its payload: `t`, `seq`, `updates` and the headers.
BATCH_OVERHEAD_BYTES: Final = 64
UPDATE_OVERHEAD_BYTES: Final = 22
# What may be handed to the socket before it has shown that it takes it: a window of largest updates would be 8 MiB.
WRITE_AHEAD_BYTES_MAX: Final = 128 * 1024
# What `take_plain_ack` answers.
PLAIN_ACCEPTED: Final = 1
PLAIN_SAVED: Final = 2

assert UPDATE_BYTES_MAX + BATCH_OVERHEAD_BYTES <= FRAME_BYTES_MAX

# The two codes after which a frame may hold an update that the server could not even number.
_UNREADABLE: Final = frozenset({ErrorCode.BAD_FRAME, ErrorCode.TOO_LARGE})


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


class Outbox:
    """One stream's. Actions are appended to `out`, in the order in which the driver carries them out."""

    __slots__ = (
        "_careful_upto",
        "_frames",
        "_gap_strikes",
        "_journal",
        "_measure",
        "_next",
        "_random",
        "_saved_ahead",
        "_skips",
        "accepted",
        "is_choked",
        "moved_ms",
        "sent_max",
        "voids",
        "wait_until_ms",
        "window",
    )

    def __init__(
        self, journal: JournalView, random: Random, measure: Callable[[bytes, dict[str, Any]], int] | None
    ) -> None:
        self._journal = journal
        self._random = random
        self._measure = measure or measure_msgpack
        self.accepted = journal.saved
        self.voids: dict[int, tuple[int, str]] = {}
        self.window = WINDOW
        self.forget_connection()

    def forget_connection(self) -> None:
        """Nothing is on its way any more; what was accepted stays so until the next welcome."""
        self._next = self.accepted + 1
        self.sent_max = self.accepted
        self._saved_ahead = 0
        self._frames: deque[tuple[int, int]] = deque()  # (first, last) of each unacknowledged frame, oldest first
        self.is_choked = False
        self._skips: set[int] | None = None  # seqs that the server cannot read: sent as `skip`
        self._careful_upto = 0  # up to here one update at a time, so that an error names its update
        self._gap_strikes = 0
        self.wait_until_ms = 0
        self.moved_ms = 0  # when `accepted` last moved, or something was sent into an empty window

    def forget_stream(self) -> None:
        """The device goes on under a new id, from 1."""
        self.voids = {}
        self.accepted = 0
        self.sent_max = 0
        self._next = 1
        self._frames.clear()
        self._skips = None
        self._careful_upto = 0
        self._saved_ahead = 0

    @property
    def has_more(self) -> bool:
        """There are updates that this connection has not sent, or a time to wait for."""
        return self._next <= self._journal.made or self.wait_until_ms != 0

    @property
    def in_flight(self) -> int:
        """How many updates this connection has sent that are not accepted."""
        return self._next - 1 - self.accepted

    # --- what the server says about updates ------------------------------------------------------------------------

    def go_on_from(self, accepted: int, saved: int, voids: list[Voided], now_ms: int, out: list[Action]) -> None:
        """The server has said where this stream stands: believe it."""
        has_moved = accepted > self.accepted
        self.accepted = accepted
        self._next = accepted + 1
        self.sent_max = max(self.sent_max, accepted)
        self.moved_ms = now_ms
        self._frames.clear()
        self.wait_until_ms = 0
        self._gap_strikes = 0
        if self.voids:
            # What lies above is accepted anew, behind what others did meanwhile: it may come out otherwise.
            self.voids = {at: void for at, void in self.voids.items() if at <= accepted}
        self.note_voids(voids, out)
        if has_moved:
            out.append(Accepted(accepted))
        self.note_saved(saved, out)

    def note_accepted(self, seq: int, now_ms: int, out: list[Action]) -> None:
        if seq <= self.accepted:
            return
        self.accepted = seq
        self.moved_ms = now_ms
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
            self.note_saved(ahead, out)

    def note_saved(self, seq: int, out: list[Action]) -> None:
        if seq > self.accepted:
            # The flusher's notice can overtake the ack. It counts when the ack has come, which names the voids, too.
            self._saved_ahead = max(self._saved_ahead, seq)
            return
        if seq > self._journal.saved:
            out.append(Forget(seq))
            self._forget_voids(seq)

    def note_voids(self, voids: list[Voided], out: list[Action]) -> None:
        for void in voids:
            if void.seq > self._journal.saved and void.seq not in self.voids:
                self.voids[void.seq] = (void.code, void.message)
                out.append(void)

    # --- the short way ------------------------------------------------------------------------------------------------
    #
    # Most updates are sent as soon as they are made, alone, and answered in order: nothing follows from that but two
    # numbers. These do what the long way does then, or nothing at all: a test compares them.

    def send_made(self, seq: int, now_ms: int) -> bytes | None:
        """`fill` for the update that was just made: its payload, which counts as sent now; None: `fill` decides."""
        accepted, journal = self.accepted, self._journal
        if (
            seq != self._next
            or seq > accepted + self.window
            or seq <= self._careful_upto
            or self.is_choked
            or self.wait_until_ms
            or self._skips is not None
            or seq > journal.synced
        ):
            return None
        if seq == accepted + 1:
            self.moved_ms = now_ms
        ((_, payload),) = journal.list_after(seq - 1, 1)
        self._next = seq + 1
        self._frames.append((seq, seq))
        if seq > self.sent_max:
            self.sent_max = seq
        return payload

    def take_plain_ack(self, seq: int, saved: int, now_ms: int) -> int | None:
        """
        `note_accepted` and `note_saved`: which of the two has moved, as a sum of `PLAIN_ACCEPTED` and `PLAIN_SAVED`.
        None: nothing was done.
        """
        if (
            seq >= self._next
            or saved > seq
            or self._saved_ahead
            or self._skips is not None
            or self.wait_until_ms
            or self._next <= self._journal.made
        ):
            return None
        news = 0
        if seq > self.accepted:
            self.accepted = seq
            self.moved_ms = now_ms
            self._gap_strikes = 0
            frames = self._frames
            while frames and frames[0][1] <= seq:
                frames.popleft()
            news = PLAIN_ACCEPTED
        if saved > self._journal.saved:
            self._forget_voids(saved)
            news += PLAIN_SAVED
        return news

    def take_plain_saved(self, seq: int) -> bool:
        """`note_saved`: True if it has moved; False: nothing was done."""
        if seq > self.accepted or seq <= self._journal.saved:
            return False
        self._forget_voids(seq)
        return True

    def _forget_voids(self, saved: int) -> None:
        if self.voids:
            self.voids = {at: void for at, void in self.voids.items() if at > saved}

    # --- errors about updates: go back ------------------------------------------------------------------------------

    def take_gap(self, expected: object, now_ms: int, out: list[Action]) -> None:
        """The server wants `expected` next (None: what follows the accepted)."""
        if expected is None:
            expected = self.accepted + 1
        if type(expected) is not int or not self._journal.saved < expected <= self.sent_max + 1:
            raise Impossible(f"expected {expected!r}")
        if expected <= self.accepted:
            self.accepted = expected - 1  # the hot copy forgot; the journal did not
        elif expected - 1 > self.accepted:
            self.note_accepted(expected - 1, now_ms, out)
        self._go_back_to(expected, now_ms)
        if self._gap_strikes:
            self.wait_until_ms = now_ms + min(GAP_WAIT_MAX_MS, GAP_WAIT_FIRST_MS << min(self._gap_strikes, 10))
        self._gap_strikes += 1

    def take_not_now(self, seq: object, retry_ms: int | None, now_ms: int) -> None:
        """The server cannot take `seq` now (None: what follows the accepted)."""
        if seq is None:
            seq = self.accepted + 1
        elif type(seq) is not int or not 0 < seq <= self.sent_max:
            raise Impossible(f"error for {seq!r}, sent were {self.sent_max}")
        if seq <= self.accepted:
            return
        self._go_back_to(self.accepted + 1, now_ms)
        wait_ms = RETRY_AFTER_DEFAULT_MS if retry_ms is None else retry_ms
        self.wait_until_ms = max(1, now_ms + wait_ms + int(self._random.random() * wait_ms / 10))

    def take_sent_wrong(self, seq: object, code: int, now_ms: int) -> bool:
        """
        1xx for an update (or for something that cannot be told): use the seq up without effect, rather than never go
        on. True: there is something to send again.
        """
        if seq is not None and (type(seq) is not int or not 0 < seq <= self.sent_max):
            raise Impossible(f"error for {seq!r}, sent were {self.sent_max}")
        if type(seq) is int and seq <= self.accepted:
            return False
        if not self._frames or (seq is None and code == ErrorCode.UNKNOWN_TYPE):
            return False  # not about an update
        first, last = self._frames[0]
        if type(seq) is int:
            first, last = next(((a, b) for a, b in self._frames if a <= seq <= b), (first, last))
        if seq is None and len(self._frames) == 1 and first == last and code not in _UNREADABLE:
            return False  # a single update that can be read is never refused without its number
        if first == last and (seq is not None or len(self._frames) == 1):
            if self._skips is not None and first in self._skips:
                raise Impossible(f"even a skip is refused: {code}")
            if self._skips is None:
                self._skips = set()
            self._skips.add(first)
        else:
            # One of several updates, nobody can say which: an innocent one must not be voided for it.
            self._careful_upto = self.sent_max
        self._go_back_to(self.accepted + 1, now_ms)
        return True

    def _go_back_to(self, seq: int, now_ms: int) -> None:
        self._next = seq
        self.moved_ms = now_ms
        self._frames.clear()

    # --- sending ---------------------------------------------------------------------------------------------------

    def is_waiting(self, now_ms: int) -> bool:
        """Whether the server has asked for patience."""
        if self.wait_until_ms:
            if now_ms < self.wait_until_ms:
                return True
            self.wait_until_ms = 0
        return False

    def fill(self, now_ms: int, out: list[Action]) -> bool:
        """Send what the window has room for; True if that was anything."""
        journal = self._journal
        has_sent = False
        ahead_bytes = 0
        while not self.is_choked:
            # The guard of the whole design: nothing leaves the device before its record is synced.
            last = min(journal.synced, self.accepted + self.window)
            if self._next > last:
                break
            if self._next <= self._careful_upto:
                if self._next - 1 > self.accepted:
                    break
                last = self._next
            ahead_bytes += self._send_updates(last, now_ms, out)
            has_sent = True
            if ahead_bytes >= WRITE_AHEAD_BYTES_MAX:
                self.is_choked = True
                out.append(More())
        return has_sent

    def _send_updates(self, last: int, now_ms: int, out: list[Action]) -> int:
        """Send one frame with as much of `_next` … `last` as fits; answers about how many bytes it has."""
        if self._next - 1 == self.accepted:
            self.moved_ms = now_ms
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
            out.append(Send({"t": "update", **updates[0]}))
        else:
            out.append(Send({"t": "batch", "updates": updates}))
        self._next = first + len(updates)
        self._frames.append((first, self._next - 1))
        self.sent_max = max(self.sent_max, self._next - 1)
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


def measure_msgpack(payload: bytes, body: dict[str, Any]) -> int:
    """How long an update with this payload is at most, as a msgpack frame of its own."""
    return len(payload) + UPDATE_OVERHEAD_BYTES
