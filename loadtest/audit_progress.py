"""
One player's history against one stored progress: the comparison itself.

Promise: pure; what is found goes into the report that was given. What follows from a missing or repeated row is told
once, as that row.

Not here: reading what is stored (stored.py, stored_by_queries.py), counting findings (findings.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from loadtest.experience import find_privacy
from loadtest.findings import AuditReport, Finding
from loadtest.history import PlayerHistory, Step, StreamHistory, now_ms
from loadtest.state_model import StateModel, list_differences
from loadtest.stored import StoredProgress, StoredRow
from protocol.experience import Privacy, round_location

# A stored time is the player's own, moved by the offset of its clock, which was measured over a network: on one
# machine the offset is the time a hello took, and that can be seconds when a gateway was just killed.
TIMESTAMP_TOLERANCE_S = 30.0
DISTANCE_TOLERANCE_M = 0.01


def count_history(report: AuditReport, history: PlayerHistory) -> None:
    report.players += 1
    report.offered += history.offered
    for step in history.steps:
        if step.accepted_ms is None:
            report.unanswered += 1
        elif step.void_code is None:
            report.accepted += 1
        else:
            report.void += 1


class ProgressAudit:
    """One player's history against one stored progress."""

    def __init__(
        self, report: AuditReport, history: PlayerHistory, stored: StoredProgress, timestamp_tolerance_s: float
    ) -> None:
        self._report = report
        self._history = history
        self._stored = stored
        self._timestamp_tolerance_s = timestamp_tolerance_s
        self._model = StateModel()
        # A row is missing or there twice: then the state may be that of the updates or that of the rows.
        self._is_odd = False
        # The first row of each update that somebody made, by (device, seq).
        self._row_of: dict[tuple[str, int], StoredRow] = {}
        # How far the replay of each stream got.
        self._replayed = {device: stream.first_seq - 1 for device, stream in history.streams.items()}

    def run(self) -> None:
        count_history(self._report, self._history)
        self._match_rows()
        self._check_order()
        self._check_streams()
        self._replay()
        if self._history.is_whole:
            self._check_state()

    def _find(self, kind: str, device: str, seq: int, what: str) -> None:
        self._is_odd = self._is_odd or kind in ("lost", "duplicated")
        self._report.add(Finding.of(kind, self._history.user_id, device, seq, what, self._find_step(device, seq)))

    def _find_step(self, device: str, seq: int) -> Step | None:
        stream = self._history.streams.get(device)
        return stream.find(seq) if stream is not None else None

    def _match_rows(self) -> None:
        """Give each row its update; what has none, or has one already, is a row too many."""
        for row in self._stored.rows:
            step = self._find_step(row.device, row.seq)
            if step is None:
                stream = self._history.streams.get(row.device)
                if self._history.is_whole or (stream is not None and row.seq > stream.made):
                    self._find("duplicated", row.device, row.seq, f"a row at version {row.version} that nobody made")
            elif (row.device, row.seq) in self._row_of:
                first = self._row_of[row.device, row.seq].version
                what = f"a second row at version {row.version}, the first is at {first}"
                self._find("duplicated", row.device, row.seq, what)
            else:
                self._row_of[row.device, row.seq] = row
                self._check_row(step, row)

    def _check_row(self, step: Step, row: StoredRow) -> None:
        if step.void_code is not None:
            what = f"a row at version {row.version} of an update that was answered as void ({step.void_code})"
            self._find("duplicated", step.device, step.seq, what)
            return
        if step.accepted_ms is None:
            self._report.unanswered_saved += 1
        else:
            self._report.saved += 1
        privacy = find_privacy(self._history.experience)
        for what in _list_row_differences(step, row, privacy, self._timestamp_tolerance_s):
            self._find("state_mismatches", step.device, step.seq, what)

    def _check_order(self) -> None:
        """Within a stream the order of numbers is the order of versions, and a version is one update."""
        last: dict[str, StoredRow] = {}
        versions: Counter[int] = Counter()
        for row in self._row_of.values():  # in the order of versions, as they were read
            versions[row.version] += 1
            before = last.get(row.device)
            if before is not None and row.seq < before.seq:
                what = f"stored at version {row.version}, after seq {before.seq} at version {before.version}"
                self._find("reordered", row.device, row.seq, what)
            last[row.device] = row
            if versions[row.version] > 1:
                self._find("reordered", row.device, row.seq, f"shares version {row.version} with another update")
            if row.version > self._stored.version:
                what = f"stored at version {row.version}, but the progress is at {self._stored.version}"
                self._find("state_mismatches", row.device, row.seq, what)

    def _check_streams(self) -> None:
        """Stream numbers: not behind what was accepted, not beyond what was made, no row missing below."""
        for device, stream in self._history.streams.items():
            if not stream.steps:
                continue
            last_seq = self._stored.streams.get(device)
            has_rows = any(key[0] == device for key in self._row_of)
            if last_seq is None:
                if stream.accepted or has_rows:
                    self._find("state_mismatches", device, 0, "its stream number is missing from device_streams")
                last_seq = 0
            elif last_seq > stream.made:
                what = f"device_streams says {last_seq}, but only {stream.made} were ever made"
                self._find("state_mismatches", device, 0, what)
            self._list_lost(stream, last_seq)
            stored_seqs = [seq for row_device, seq in self._row_of if row_device == device]
            highest = max([stream.accepted, stream.saved, *stored_seqs])
            if 0 < last_seq < min(highest, stream.made):
                what = f"device_streams says {last_seq}, but {min(highest, stream.made)} were accepted or stored"
                self._find("state_mismatches", device, 0, what)
        if self._history.is_whole:
            for device in self._stored.streams.keys() - self._history.streams.keys():
                self._find("duplicated", device, 0, "a stream number of a device that nobody has")

    def _list_lost(self, stream: StreamHistory, last_seq: int) -> None:
        for step in stream.steps:
            key = (step.device, step.seq)
            if key in self._row_of or step.void_code is not None:
                continue
            if key in self._stored.dead_letters:
                self._report.dead_lettered += step.accepted_ms is not None
            elif step.saved_ms is not None:
                self._find("lost", step.device, step.seq, "was called saved, but has no row")
            elif step.accepted_ms is not None:
                self._find("lost", step.device, step.seq, "was accepted, but has no row")
            # Whether an unanswered one below the stream number should have a row shows in the replay.

    def _replay(self) -> None:
        """Put every update through the model: those with a row in version order, the others just before their next."""
        for row in self._row_of.values():
            self._replay_rowless(self._history.streams[row.device], row.seq - 1)
            step = self._find_step(row.device, row.seq)
            assert step is not None
            code = self._model.apply(step.event, step.effects)
            if code is not None and step.void_code is None and self._history.is_whole:
                what = f"has a row, but should be void ({code})"
                self._find("state_mismatches", step.device, step.seq, what)
            self._replayed[row.device] = max(self._replayed[row.device], row.seq)
        for device, stream in self._history.streams.items():
            self._replay_rowless(stream, max(stream.accepted, self._stored.streams.get(device, 0)))
        for step in self._history.steps:
            if step.accepted_ms is not None and step.expected_code != step.void_code and step.expected_code is not None:
                got = f"void ({step.void_code})" if step.void_code is not None else "accepted"
                what = f"was made to be void ({step.expected_code}), but was {got}"
                self._find("state_mismatches", step.device, step.seq, what)

    def _replay_rowless(self, stream: StreamHistory, up_to: int) -> None:
        for seq in range(self._replayed[stream.device] + 1, up_to + 1):
            step = stream.find(seq)
            if step is None or (stream.device, seq) in self._row_of:
                continue
            code = self._model.apply(step.event, step.effects)
            if not self._history.is_whole:
                continue
            is_dead_lettered = (stream.device, seq) in self._stored.dead_letters
            # With several devices a void's place between the versions is not known: then it proves nothing.
            if step.void_code is not None and code is None and len(self._history.streams) == 1:
                what = f"was answered as void ({step.void_code}), but nothing is wrong with it"
                self._find("state_mismatches", step.device, seq, what)
            elif step.accepted_ms is None and code is None and not is_dead_lettered:
                self._find("lost", step.device, seq, "its stream number says saved, but it has no row")
        self._replayed[stream.device] = max(self._replayed[stream.device], up_to)

    def _check_state(self) -> None:
        """
        State, completion and profile against what the updates make of them. Where rows are missing or there twice, what
        just these rows make is no further mistake, but the same one seen again.
        """
        complaints = self._list_complaints(self._model)
        if complaints and self._is_odd:
            for is_repeating in (False, True):
                if not self._list_complaints(self._replay_rows(is_repeating)):
                    return
        for what in complaints:
            self._find("state_mismatches", "", 0, what)

    def _replay_rows(self, is_repeating: bool) -> StateModel:
        """What the rows alone make, each once or as often as it is there."""
        model = StateModel()
        seen: set[tuple[str, int]] = set()
        for row in self._stored.rows:
            step = self._find_step(row.device, row.seq)
            if step is not None and (is_repeating or (row.device, row.seq) not in seen):
                model.apply(step.event, step.effects)
            seen.add((row.device, row.seq))
        return model

    def _list_complaints(self, model: StateModel) -> list[str]:
        """Where what is stored beside the rows differs from the model."""
        stored, expected = self._stored, model.document()
        found = [f"state: {difference}" for difference in list_differences(expected, stored.state)]
        location = expected.get("current_location")
        if stored.current_location != (location if isinstance(location, str) else None):
            found.append(f"column current_location is {stored.current_location!r}, the state's is {location!r}")
        missing = model.achievements - set(stored.achievements)
        if missing:
            found.append(f"the profile lacks the achievements {sorted(missing)}")
        if len(stored.achievements) != len(set(stored.achievements)):
            found.append("the profile names an achievement twice")
        if stored.is_partly_seen:
            return found
        did = "did" if model.is_completed else "did not"
        if (stored.completed_at is not None) != model.is_completed:
            found.append(f"completed_at is {stored.completed_at}, but the player {did} complete it")
        if (stored.completion_percentage >= 100) != model.is_completed:
            found.append(f"completion is {stored.completion_percentage} %, but the player {did} complete it")
        drift = stored.total_distance_meters - stored.distance_of_all_experiences
        if abs(drift) > DISTANCE_TOLERANCE_M:
            found.append(
                f"the profile's total distance is {stored.total_distance_meters}, "
                f"its experiences sum up to {stored.distance_of_all_experiences}"
            )
        return found


def _list_row_differences(step: Step, row: StoredRow, privacy: Privacy, tolerance_s: float) -> Iterable[str]:
    """Where a row differs from what may be kept of the update it was made of."""
    event = step.event
    lat, lng = (event.get("lat"), event.get("lng")) if event is not None else (None, None)
    lat, lng = round_location(privacy, lat, lng)
    expected: dict[str, Any] = {
        "event_type": event["type"] if event is not None else "update",
        "content_id": event.get("content_id") if event is not None else None,
        "data": (event.get("data") or {}) if event is not None else step.effects,
        "location_lat": lat,
        "location_lng": lng,
    }
    actual = {
        "event_type": row.event_type,
        "content_id": row.content_id,
        "data": row.data,
        "location_lat": row.lat,
        "location_lng": row.lng,
    }
    yield from list_differences(expected, actual)
    at_ms = event.get("at") if event is not None else None
    earliest_ms = at_ms if at_ms is not None else step.made_ms
    latest_ms = at_ms if at_ms is not None else (step.saved_ms or now_ms())  # it may have been sent again
    stored_ms = row.timestamp.timestamp() * 1000
    if not earliest_ms - tolerance_s * 1000 <= stored_ms <= latest_ms + tolerance_s * 1000:
        happened_at = datetime.fromtimestamp(earliest_ms / 1000, UTC)
        yield f"its timestamp is {row.timestamp.isoformat()}, it happened at {happened_at.isoformat()}"
