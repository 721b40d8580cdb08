"""
Auditing one run by what can be reached: Postgres where its address is known, else the players' own queries; and the
late answers, which need neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loadtest.audit import ACCEPTED_MIN, AuditReport, audit
from loadtest.audit_by_queries import audit_by_queries
from loadtest.history import PlayerHistory
from loadtest.late_acks import LATE_ACK_MS, add_late_acks
from loadtest.target import Target, TargetMissing, check_answers

NOTE_EVERY_PLAYERS = 100


def check_auditable(target: Target, how: str | None, *, is_no_return: bool) -> None:
    """
    Before anybody plays: something must be there to ask for what is stored.

    Raises:
        TargetMissing: neither the database nor the gateway can be asked, or what was asked for needs the other one.
    """
    if target.database_url is not None and how != "queries":
        return
    if target.database_url is None and (how == "postgres" or is_no_return):
        raise TargetMissing("the audit needs the database: say --database-url (or set DATABASE_URL)")
    check_answers(target)


async def audit_run(
    histories: Sequence[PlayerHistory],
    target: Target,
    how: str | None = None,
    *,
    accepted_min: float = ACCEPTED_MIN,
    late_ack_ms: float | None = LATE_ACK_MS,
    note: Callable[[str], object] = lambda text: None,
) -> AuditReport:
    """
    `how`: "postgres", "queries", or None for Postgres where its address is known. `late_ack_ms` None: late answers are
    not looked for.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: the database cannot be read.
        TargetMissing: a player cannot be asked.
    """

    def show(done: int, of: int) -> None:
        if done % NOTE_EVERY_PLAYERS == 0 or done == of:
            note(f"asked {done} of {of} players for their histories")

    if target.database_url is not None and how != "queries":
        report = await audit(histories, target.database_url, accepted_min=accepted_min)
    else:
        report = await audit_by_queries(histories, target, accepted_min=accepted_min, on_progress=show)
    if late_ack_ms is not None:
        add_late_acks(report, histories, late_ack_ms)
    return report
