"""
What a player did and was told: every update it made, when it was accepted, when it was saved.

Owns the histories that the audit compares with Postgres, and the file a player process writes them to. Times are
milliseconds of the wall clock as floats; `scheduled_ms` is when the update was due, not when it was sent, so that a
slow gateway cannot hide behind a player that waits for it.

Promise: with `is_crash_safe` each record is handed to the operating system before anything depends on it, so that a
SIGKILL of this process loses none; reading cuts a torn last record. An ack that a killed process had not noted yet is
missing from its history: the audit then demands less, never too much.

A file is one msgpack array after the other; an update is in it as the bytes that its client put into the journal.
`python -m loadtest.history FILE` prints one as lines of JSON.

Not here: who plays (simulation.py), what is wrong (audit.py).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
from pydantic_core import to_json


def now_ms() -> float:
    return time.time() * 1000


# Of one record: an update, or the numbers of all updates that a journal can hold.
_RECORD_BYTES_MAX = 16 * 1024 * 1024


@dataclass(slots=True)
class Step:
    """One update of a player and what became of it."""

    device: str
    seq: int
    event: dict[str, Any] | None
    effects: list[dict[str, Any]] | None
    made_ms: float
    scheduled_ms: float | None = None
    accepted_ms: float | None = None  # answered, be it as void: its number is used up
    saved_ms: float | None = None
    void_code: int | None = None
    expected_code: int | None = None  # a deliberately wrong update
    is_away: bool = False  # made while the player itself had cut its connection
    is_resent: bool = False  # its connection was lost before the answer came: it may have been sent again

    @property
    def due_ms(self) -> float:
        return self.scheduled_ms if self.scheduled_ms is not None else self.made_ms

    @property
    def is_effective(self) -> bool:
        return self.accepted_ms is not None and self.void_code is None


@dataclass(slots=True)
class StreamHistory:
    """The numbered updates of one device. `first_seq` is above 1 for a device that played before this history."""

    device: str
    first_seq: int = 1
    steps: list[Step] = field(default_factory=list)
    accepted: int = 0
    saved: int = 0

    @property
    def made(self) -> int:
        return self.first_seq + len(self.steps) - 1

    def find(self, seq: int) -> Step | None:
        index = seq - self.first_seq
        return self.steps[index] if 0 <= index < len(self.steps) else None


@dataclass(slots=True)
class PlayerHistory:
    """
    Everything one player did in one experience, by device.

    `offered` counts the updates that were due, also those that could not be made. `is_whole` says that nobody else
    ever played this progress, so that rows and state that are not explained here are wrong. `process` numbers the file
    it was read from: what one process noted happened on one clock, and stalls of that process are its own.
    """

    user_id: str
    experience: str
    streams: dict[str, StreamHistory] = field(default_factory=dict)
    offered: int = 0
    is_whole: bool = True
    welcomes: dict[str, int] = field(default_factory=dict)  # after a lost connection, by reason
    errors: dict[int, int] = field(default_factory=dict)
    closes: dict[int, int] = field(default_factory=dict)
    process: int = 0

    @property
    def resumes(self) -> int:
        return self.welcomes.get("resumed", 0)

    @property
    def steps(self) -> Iterator[Step]:
        for stream in self.streams.values():
            yield from stream.steps

    def add_made(self, step: Step) -> None:
        """
        The player made an update.

        Raises:
            ValueError: its number is not the next of its stream; that is the client's mistake, and a grave one.
        """
        stream = self.streams.setdefault(step.device, StreamHistory(step.device, first_seq=step.seq))
        if step.seq != stream.made + 1:
            raise ValueError(f"device {step.device} made seq {step.seq} after {stream.made}")
        stream.steps.append(step)

    def note_accepted(self, device: str, seq: int, at_ms: float) -> None:
        """Everything of this device up to `seq` has been answered."""
        stream = self.streams.get(device)
        if stream is None:
            return
        for number in range(max(stream.accepted + 1, stream.first_seq), min(seq, stream.made) + 1):
            step = stream.steps[number - stream.first_seq]
            step.accepted_ms = at_ms if step.accepted_ms is None else step.accepted_ms
        stream.accepted = max(stream.accepted, seq)

    def note_saved(self, device: str, seq: int, at_ms: float) -> None:
        """Everything of this device up to `seq` is said to be in Postgres."""
        stream = self.streams.get(device)
        if stream is None:
            return
        for number in range(max(stream.saved + 1, stream.first_seq), min(seq, stream.made) + 1):
            step = stream.steps[number - stream.first_seq]
            step.saved_ms = at_ms if step.saved_ms is None else step.saved_ms
        stream.saved = max(stream.saved, seq)

    def note_void(self, device: str, seq: int, code: int) -> None:
        stream = self.streams.get(device)
        step = stream.find(seq) if stream is not None else None
        if step is not None:
            step.void_code = code

    def note_interruption(self) -> None:
        """The connection is gone or new: what had no answer yet is sent again."""
        for stream in self.streams.values():
            for step in stream.steps[max(0, stream.accepted - stream.first_seq + 1) :]:
                step.is_resent = True

    def note_unmade(self, device: str, first_seq: int) -> None:
        """A phone's power went before its journal was synced: what it made from here on never left it, and is gone."""
        stream = self.streams.get(device)
        if stream is None:
            return
        keep = max(0, first_seq - stream.first_seq)
        self.offered -= max(0, len(stream.steps) - keep)
        del stream.steps[keep:]

    def note_stream_reset(self, old_device: str, new_device: str, renumbered: dict[int, int]) -> None:
        """What the server does not have goes on under a new device, numbered anew, in the same order."""
        old = self.streams.setdefault(old_device, StreamHistory(old_device))
        new = self.streams.setdefault(new_device, StreamHistory(new_device))
        for old_seq, new_seq in sorted(renumbered.items(), key=lambda pair: pair[1]):
            step = old.find(old_seq)
            if step is None:
                continue
            step.device, step.seq, step.void_code = new_device, new_seq, None
            new.steps.append(step)
        if renumbered:
            del old.steps[max(0, min(renumbered) - old.first_seq) :]
            new.first_seq = min(renumbered.values())
            old.accepted = min(old.accepted, old.made)


class HistoryWriter:
    """Appends what players of one process do to a file."""

    # A second's worth at most is kept back anyway; a made update has some hundred bytes.
    RECORDS_MAX = 1024

    def __init__(self, path: Path, *, is_crash_safe: bool) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size_bytes = 0
        self._records_max = 1 if is_crash_safe else self.RECORDS_MAX
        self._records = 0
        # It keeps what it packed until `flush`: no object for each record. What could not be packed would take the
        # others with it, so only numbers, texts and bytes get here.
        self._packer = msgpack.Packer(autoreset=False)
        self._pack = self._packer.pack

    def add_player(self, player: int, user_id: str, experience: str, *, is_whole: bool = True) -> None:
        self._write(("player", player, user_id, experience, is_whole))

    def add_refused(self, player: int) -> None:
        """An update that was due could not be made."""
        self._write(("refused", player))

    def add_made(self, player: int, step: Step) -> None:
        due_ms, code = step.scheduled_ms, step.expected_code
        self.note_made(
            player, step.device, step.seq, step.event, step.effects, step.made_ms, due_ms, code, step.is_away
        )

    def note_made(
        self,
        player: int,
        device: str,
        seq: int,
        event: dict[str, Any] | None,
        effects: list[dict[str, Any]] | None,
        made_ms: float,
        scheduled_ms: float | None,
        expected_code: int | None,
        is_away: bool,
    ) -> None:
        """`add_made` for those who have no step."""
        payload = msgpack.packb({"event": event, "effects": effects})
        self.note_payload(player, device, seq, payload, made_ms, scheduled_ms, expected_code, is_away)

    def note_payload(
        self,
        player: int,
        device: str,
        seq: int,
        payload: bytes,
        made_ms: float,
        scheduled_ms: float | None,
        expected_code: int | None,
        is_away: bool,
    ) -> None:
        """`add_made` for those who have the update as msgpack: a map of `event` and `effects`, other keys ignored."""
        # This and the next two are written for each update, so they do by themselves what `_write` does.
        self._pack(("made", player, device, seq, payload, made_ms, scheduled_ms, expected_code, is_away))
        self._records += 1
        if self._records >= self._records_max:
            self.flush()

    def add_unmade(self, player: int, device: str, first_seq: int) -> None:
        """What was made from this number on never left the phone, and is gone; the numbers are used again."""
        self._write(("unmade", player, device, first_seq))

    def add_accepted(self, player: int, device: str, seq: int, at_ms: float) -> None:
        self._pack(("accepted", player, device, seq, at_ms))
        self._records += 1
        if self._records >= self._records_max:
            self.flush()

    def add_saved(self, player: int, device: str, seq: int, at_ms: float) -> None:
        self._pack(("saved", player, device, seq, at_ms))
        self._records += 1
        if self._records >= self._records_max:
            self.flush()

    def add_void(self, player: int, device: str, seq: int, code: int) -> None:
        self._write(("void", player, device, seq, code))

    def add_stream_reset(self, player: int, old_device: str, new_device: str, renumbered: dict[int, int]) -> None:
        self._write(("reset", player, old_device, new_device, sorted(renumbered.items())))

    def add_welcome(self, player: int, reason: str) -> None:
        """Back after a lost connection: "resumed", or why a new session began."""
        self._write(("welcome", player, reason))

    def add_error(self, player: int, code: int) -> None:
        self._write(("error", player, code))

    def add_close(self, player: int, code: int) -> None:
        self._write(("close", player, code))

    def flush(self) -> None:
        """
        Hand what is kept back to the operating system. Raises OSError when the disk does not take it: nothing of it is
        in the file then, or half a record would be read together with the next one.
        """
        view = memoryview(self._packer.bytes())
        self._packer.reset()
        self._records = 0
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            os.ftruncate(self._file, self._size_bytes)
            raise
        self._size_bytes = os.lseek(self._file, 0, os.SEEK_CUR)

    def close(self) -> None:
        self.flush()
        os.close(self._file)

    def _write(self, record: tuple[Any, ...]) -> None:
        self._pack(record)
        self._records += 1
        if self._records >= self._records_max:
            self.flush()


def read_histories(paths: Iterable[Path]) -> list[PlayerHistory]:
    """
    The histories of all players in these files.

    Raises:
        ValueError: a record in the middle of a file is unreadable, or contradicts an earlier one.
    """
    histories: list[PlayerHistory] = []
    for number, path in enumerate(paths):
        for history in _read_file(path).values():
            history.process = number
            histories.append(history)
    return histories


def _read_file(path: Path) -> dict[int, PlayerHistory]:
    players: dict[int, PlayerHistory] = {}
    for record in _list_records(path):
        _read_record(players, record)
    return players


def _list_records(path: Path) -> Iterator[list[Any]]:
    """Every whole record; raises ValueError for what is none."""
    with path.open("rb") as file:
        records = msgpack.Unpacker(file, max_buffer_size=_RECORD_BYTES_MAX)
        while True:
            try:
                record = records.unpack()
            except msgpack.OutOfData:
                return  # the end, or torn: the process was killed while writing it
            except (ValueError, msgpack.UnpackException) as fault:
                raise ValueError(f"{path} is no history: {fault}") from fault
            if not isinstance(record, list):
                raise ValueError(f"{path} is no history: {record!r}")
            yield record


def _read_record(players: dict[int, PlayerHistory], record: list[Any]) -> None:
    kind, player, *rest = record
    if kind == "player":
        players[player] = PlayerHistory(user_id=rest[0], experience=rest[1], is_whole=rest[2])
        return
    history = players[player]
    match kind:
        case "refused":
            history.offered += 1
        case "made":
            device, seq, payload, made_ms, scheduled_ms, expected_code, is_away = rest
            body = msgpack.unpackb(payload)
            step = Step(device, seq, body.get("event"), body.get("effects"), made_ms, scheduled_ms)
            step.expected_code, step.is_away = expected_code, is_away
            history.add_made(step)
            history.offered += 1
        case "accepted":
            history.note_accepted(*rest)
        case "saved":
            history.note_saved(*rest)
        case "void":
            history.note_void(*rest)
        case "unmade":
            history.note_unmade(*rest)
        case "reset":
            old_device, new_device, renumbered = rest
            history.note_stream_reset(old_device, new_device, dict(renumbered))
        case "welcome":
            history.note_interruption()
            history.welcomes[rest[0]] = history.welcomes.get(rest[0], 0) + 1
        case "error":
            history.errors[rest[0]] = history.errors.get(rest[0], 0) + 1
        case "close":
            history.note_interruption()
            history.closes[rest[0]] = history.closes.get(rest[0], 0) + 1
        case _:
            raise ValueError(f"unknown record {kind!r}")


def note_untold_voids(histories: Sequence[PlayerHistory]) -> int:
    """
    Fill in what a player could not hear. The note that an update was void is kept until it is saved; when its ack was
    lost and the player came back only after that, it is told a plain number (the protocol says so). An update that was
    made to be void is void then. Should it have a row after all, the audit finds that row.
    """
    untold = 0
    for history in histories:
        for step in history.steps:
            if step.expected_code is not None and step.void_code is None and step.accepted_ms is not None:
                step.void_code = step.expected_code
                untold += 1
    return untold


def main(paths: Sequence[str]) -> int:
    """Print files as lines of JSON, for people and their tools."""
    for path in paths:
        for record in _list_records(Path(path)):
            shown = [msgpack.unpackb(part) if isinstance(part, bytes) else part for part in record]
            sys.stdout.buffer.write(to_json(shown, inf_nan_mode="constants") + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
