"""
Answers that were held back: an ack that came late although later updates had theirs.

Owns what counts as late. The plain latency of an update says how slow everything was; it cannot tell one answer that
somebody sat on from a machine that stood still. Here an answer is late when it came at least `late_ack_ms` after the
answer of an update that was made *later*, by whichever player of the same process: what was made later cannot have been
answered earlier unless this one was overtaken.

Left out, because the network (or the player) explains it: updates made without a connection, updates whose connection
was lost before the answer came, and what a player made before its first answer, while it was still connecting.

Where the tool itself holds frames back (players in the mud) nothing of this can be told: it is not looked for then,
unless somebody says what is late.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loadtest.findings import LATE_ACK, AuditReport, Finding
from loadtest.history import PlayerHistory, Step

LATE_ACK_MS = 1000.0


def add_late_acks(report: AuditReport, histories: Sequence[PlayerHistory], late_ack_ms: float = LATE_ACK_MS) -> None:
    """Put every late answer into the report, ordered by when the updates were made."""
    report.late_acks = report.late_acks or 0
    late: list[Finding] = []
    for process in sorted({history.process for history in histories}):
        late += _find_late([history for history in histories if history.process == process], late_ack_ms)
    late.sort(key=lambda finding: finding.made_ms or 0.0)
    for finding in late:
        report.add(finding)


def _find_late(histories: Sequence[PlayerHistory], late_ack_ms: float) -> Iterator[Finding]:
    """Among the players of one process: they share a clock and its pauses."""
    asked = sorted(_list_asked(histories), key=lambda pair: pair[1].made_ms)
    # The earliest answer to anything that was made later.
    earliest_ms = float("inf")
    for history, step in reversed(asked):
        assert step.accepted_ms is not None
        overtaken_ms = step.accepted_ms - earliest_ms
        if overtaken_ms >= late_ack_ms:
            waited_ms = step.accepted_ms - step.made_ms
            what = f"answered after {waited_ms:.0f} ms, {overtaken_ms:.0f} ms after an update that was made later"
            yield Finding.of(LATE_ACK, history.user_id, step.device, step.seq, what, step)
        earliest_ms = min(earliest_ms, step.accepted_ms)


def _list_asked(histories: Sequence[PlayerHistory]) -> Iterator[tuple[PlayerHistory, Step]]:
    for history in histories:
        for stream in history.streams.values():
            answered = [step.accepted_ms for step in stream.steps if step.accepted_ms is not None]
            first_ms = min(answered, default=float("inf"))
            for step in stream.steps:
                is_plain = not step.is_away and not step.is_resent
                if is_plain and step.accepted_ms is not None and step.made_ms >= first_ms:
                    yield history, step
