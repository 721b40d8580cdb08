"""
The audit: is every update that a player was told is accepted in Postgres, once, in order, and is the state right?

Owns reading what is stored (stored.py) for everybody who played, and the report. It has its own SQL and its own model
of the state (state_model.py), so that it can disagree with the code that wrote the rows.

Promise: each difference is named (player, device, seq, what, when) up to `findings_max`, and all are counted:

    lost              an accepted update, or one that its stream number calls saved, without its row
    duplicated        a row too many: a second one for an update, one of a void update, one that nobody made
    reordered         rows of a stream whose seq and version disagree, two rows with one version
    state_mismatches  anything else that is stored wrongly: state, data, place, time, stream number, profile, verdict

An update that a player made but was not told about may be there or not; if it is, it must be right.

A difference that follows from another one (the state lacks what a lost update would have done) is not told again.

Not here: one player's history against one stored progress (audit_progress.py), what a finding is (findings.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from loadtest.audit_progress import TIMESTAMP_TOLERANCE_S, ProgressAudit, count_history
from loadtest.findings import ACCEPTED_MIN, FINDINGS_MAX, KINDS, AuditReport, Finding
from loadtest.history import PlayerHistory
from loadtest.stored import StoredProgress, connect, list_progress

__all__ = ["ACCEPTED_MIN", "KINDS", "AuditReport", "Finding", "audit", "audit_progress", "audit_with"]


async def audit(
    histories: Sequence[PlayerHistory],
    database_url: str,
    *,
    accepted_min: float = ACCEPTED_MIN,
    findings_max: int = FINDINGS_MAX,
    timestamp_tolerance_s: float = TIMESTAMP_TOLERANCE_S,
) -> AuditReport:
    """
    Compare what players did with what Postgres holds.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: the database cannot be read; there is no verdict then.
    """
    connection = await connect(database_url)
    try:
        return await audit_with(
            connection,
            histories,
            accepted_min=accepted_min,
            findings_max=findings_max,
            timestamp_tolerance_s=timestamp_tolerance_s,
        )
    finally:
        await connection.close(timeout=5)


async def audit_with(
    connection: asyncpg.Connection,
    histories: Sequence[PlayerHistory],
    *,
    accepted_min: float = ACCEPTED_MIN,
    findings_max: int = FINDINGS_MAX,
    timestamp_tolerance_s: float = TIMESTAMP_TOLERANCE_S,
) -> AuditReport:
    """The same on a connection that is there already."""
    report = AuditReport(accepted_min=accepted_min, findings_max=findings_max)
    for experience in sorted({history.experience for history in histories}):
        waiting = {history.user_id: history for history in histories if history.experience == experience}
        async for batch in list_progress(connection, list(waiting), experience):
            for stored in batch:
                history = waiting.pop(stored.user_id)
                ProgressAudit(report, history, stored, timestamp_tolerance_s).run()
        for history in waiting.values():
            audit_absent(report, history)
    return report


def audit_progress(
    report: AuditReport,
    history: PlayerHistory,
    stored: StoredProgress,
    timestamp_tolerance_s: float = TIMESTAMP_TOLERANCE_S,
) -> None:
    """Compare one player with one stored progress: the pure part."""
    ProgressAudit(report, history, stored, timestamp_tolerance_s).run()


def audit_absent(report: AuditReport, history: PlayerHistory) -> None:
    """Nothing is stored of this player's progress."""
    count_history(report, history)
    for step in history.steps:
        if step.is_effective:
            what = "Postgres has no such progress"
            report.add(Finding.of("lost", history.user_id, step.device, step.seq, what, step))
