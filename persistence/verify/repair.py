"""
Mending what a verification found: totals of profiles and progress, levels, completion, rollups.

Promise: everything is computed anew under the locks that a flush takes, in its order, so that repairing beside flushers
is exact and never waits in a circle. What was found is only where to look; what is right by now stays as it is.

Not here, because nothing says how: states, numbers of streams, histories. Those need a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from persistence.cold.connect import CONNECT_TIMEOUT_S, POSTGRES_ERRORS
from persistence.cold.queries import queries
from persistence.errors import StoreUnavailable
from persistence.flusher.levels import LevelRule
from persistence.verify.findings import Findings
from persistence.verify.verification import VerifyProgress
from protocol.experience import ExperienceDefinition, completion_percentage
from protocol.state import split_state


@dataclass(slots=True)
class RepairReport:
    """How many profiles and progress were computed anew, and the experiences whose rollups were."""

    profiles: int = 0
    progress: int = 0
    experiences: int = 0


async def repair(
    database_url: str,
    findings: Findings,
    *,
    levels: LevelRule,
    experiences: Mapping[str, ExperienceDefinition],
    on_progress: Callable[[VerifyProgress], None] = lambda _progress: None,
) -> RepairReport:
    """
    Mend what can be. The login must own the tables: only an owner may compute rollups anew.

    Raises:
        StoreUnavailable: Postgres did not answer, or refused; what was mended stays.
    """
    try:
        connection = await asyncpg.connect(
            database_url,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={"application_name": "wayhold-repair", "timezone": "UTC", "statement_timeout": "0"},
        )
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "repair", error or type(error).__name__) from error
    try:
        return await mend(connection, findings, levels=levels, experiences=experiences, on_progress=on_progress)
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "repair", error or type(error).__name__) from error
    finally:
        connection.terminate()


async def mend(
    connection: Any,
    findings: Findings,
    *,
    levels: LevelRule,
    experiences: Mapping[str, ExperienceDefinition],
    on_progress: Callable[[VerifyProgress], None] = lambda _progress: None,
) -> RepairReport:
    """`repair` over a connection of the caller's; a transaction for each player and each experience."""
    report = RepairReport()
    sql = queries("verify")
    total = len(findings.players_to_repair)
    for number, (profile_id, progress_ids) in enumerate(sorted(findings.players_to_repair.items())):
        await _repair_player(connection, sql, profile_id, progress_ids, levels, experiences)
        report.profiles += 1
        report.progress += len(progress_ids)
        on_progress(VerifyProgress("repair of players", number + 1, total))
    for experience in sorted(findings.experiences_to_repair):
        on_progress(VerifyProgress(f"repair of the rollups of {experience}", 0, 1))
        await connection.execute(sql["repair_rollups"], experience)
        report.experiences += 1
    return report


async def _repair_player(
    connection: Any,
    sql: dict[str, str],
    profile_id: UUID,
    progress_ids: set[UUID],
    levels: LevelRule,
    experiences: Mapping[str, ExperienceDefinition],
) -> None:
    async with connection.transaction():
        locked = await connection.fetch(sql["lock_progress_of_player"], profile_id)
        if not await connection.fetch(sql["lock_profile"], profile_id):
            return  # erased meanwhile
        here = [row for row in locked if row["id"] in progress_ids and row["is_whole"]]
        if here:
            await connection.execute(sql["repair_playtime"], [row["id"] for row in here])
        for row in here:
            await _repair_completion(connection, sql, row["id"], experiences.get(row["experience_id"]))
        await connection.execute(sql["repair_profile"], profile_id, *levels.as_arguments())


async def _repair_completion(
    connection: Any, sql: dict[str, str], progress_id: UUID, definition: ExperienceDefinition | None
) -> None:
    """
    By the definition of now. When it was completed: when an event said so first, else, if the state is complete, at its
    last update.
    """
    row = await connection.fetchrow(sql["find_state_for_repair"], progress_id)
    rule = None if definition is None else definition.completion
    percentage = 0.0
    if definition is not None:
        percentage = completion_percentage(definition, split_state(row["state"], row["kinds"]))
    completed_at = row["completed_at"]
    if completed_at is None and (rule is None or rule.by_event):
        completed_at = row["said_completed_at"]
    if completed_at is None and percentage >= 100.0:
        completed_at = row["last_update_at"]
    await connection.execute(sql["repair_completion"], progress_id, completed_at, percentage)
