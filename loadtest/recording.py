"""
What a phone is told, written down: into the history for the audit, and into the tally for the samples.

Each goes into the history first. Latency counts from when an update was due. Not here: what the phone does (phone.py).
"""

from __future__ import annotations

from typing import Any

from loadtest.history import HistoryWriter, now_ms
from loadtest.tally import Tally
from protocol.client.player_client import PlayerListener
from protocol.codec import MSGPACK

# A connection that ended without a close frame; the number WebSocket libraries use for it.
NO_CLOSE_FRAME = 1006


class Recording(PlayerListener):
    """Of one phone of player number `index`."""

    __slots__ = (
        "_accepted",
        "_due",
        "_index",
        "_saved",
        "_tally",
        "_writer",
        "clock_skew_ms",
        "is_away",
        "making",
        "on_stop",
    )

    def __init__(self, index: int, writer: HistoryWriter, tally: Tally) -> None:
        self._index = index
        self._writer = writer
        self._tally = tally
        self._accepted = 0
        self._saved = 0
        self._due: list[float] = []  # when each update after `_saved` was due; 0 for one that was made away
        self.making: tuple[float, int | None] = (0.0, None)  # when the update in the making was due, its expected code
        self.is_away = False
        self.clock_skew_ms = 0
        self.on_stop: Any = None

    def on_journaled(self, device: str, seq: int, payload: bytes, body: dict[str, Any]) -> None:
        due_ms, expected_code = self.making
        if self.clock_skew_ms:
            event = body.get("event")
            if event is not None and "at" in event:
                # The history has the time that it really was: the one that must be stored.
                payload = MSGPACK.encode({**body, "event": {**event, "at": event["at"] - self.clock_skew_ms}})
        is_away = self.is_away
        self._writer.note_payload(self._index, device, seq, payload, now_ms(), due_ms, expected_code, is_away)
        self._tally.made += 1
        self._due.append(0.0 if is_away else due_ms)

    def on_unmade(self, device: str, seq: int) -> None:
        self.note_unmade(device, seq)

    def note_unmade(self, device: str, seq: int) -> None:
        """What this phone made from `seq` on never left it, and is gone."""
        gone = max(0, self._saved + len(self._due) - seq + 1)
        if gone:
            self._writer.add_unmade(self._index, device, seq)
            del self._due[-gone:]
            self._tally.unmade += gone

    @property
    def made(self) -> int:
        return self._saved + len(self._due)

    def note_connect_failed(self) -> None:
        self._tally.connects_failed += 1

    def on_accepted(self, device: str, seq: int, at_ms: float) -> None:
        now = now_ms()
        self._writer.add_accepted(self._index, device, seq, now)
        before, saved = self._accepted, self._saved
        if seq > before:
            tally = self._tally
            tally.accepted += seq - before
            for due_ms in self._due[(before if before > saved else saved) - saved : seq - saved]:
                if due_ms:
                    tally.note_ack_ms(now - due_ms)
            self._accepted = seq

    def on_saved(self, device: str, seq: int) -> None:
        now = now_ms()
        self._writer.add_saved(self._index, device, seq, now)
        count = seq - self._saved
        if count > 0:
            tally, due = self._tally, self._due
            tally.saved += count
            for due_ms in due[:count]:
                if due_ms:
                    tally.note_save_ms(now - due_ms)
            del due[:count]
            self._saved = seq

    def on_void(self, device: str, seq: int, code: int, message: str) -> None:
        self._writer.add_void(self._index, device, seq, code)
        self._tally.voids += 1

    def on_resume(self, reason: str) -> None:
        self._writer.add_welcome(self._index, reason)
        self._tally.resumes += reason == "resumed"

    def on_state(self, state: dict[str, Any], version: int, accepted: int) -> None:
        self.is_away = False
        self._tally.welcomes += 1

    def on_stream_reset(self, old_device: str, new_device: str, renumbered: dict[int, int]) -> None:
        self._writer.add_stream_reset(self._index, old_device, new_device, renumbered)
        self._accepted = self._saved = 0
        self._due = self._due[-len(renumbered) :] if renumbered else []

    def on_error(self, code: int, name: str, message: str) -> None:
        self._writer.add_error(self._index, code)
        self._tally.note_error(code)

    def on_close(self, code: int | None) -> None:
        self._writer.add_close(self._index, NO_CLOSE_FRAME if code is None else code)
        self._tally.note_close(NO_CLOSE_FRAME if code is None else code)

    def on_stopped(self, code: int | None) -> None:
        if self.on_stop is not None and code is not None:
            self.on_stop(code)
