"""
Replaying and dropping one dead letter as an action: what is done and its row are marked in one transaction, so that
neither can be without the other.
"""

from __future__ import annotations

from typing import Any

from persistence.cold.queries import queries
from persistence.dead_letters import GONE, DeadLetters


async def replay_letter(database_url: str, action_id: str, letter_id: str) -> None:
    """Write it as the row that it should have been; refused again, it stays, and the action says why."""
    async with DeadLetters(database_url) as letters, letters.transaction() as connection:
        if not await connection.fetchval(queries("profiles")["lock_requested"], action_id):
            return
        report = await letters.replay([letter_id])
        if report.replayed:
            await _mark(connection, action_id, "done", None)
        else:
            why = report.refused[0][1][:500] if report.refused else GONE
            await _mark(connection, action_id, "refused", why)


async def drop_letter(database_url: str, action_id: str, letter_id: str) -> None:
    async with DeadLetters(database_url) as letters, letters.transaction() as connection:
        if not await connection.fetchval(queries("profiles")["lock_requested"], action_id):
            return
        dropped = await letters.drop([letter_id])
        await _mark(connection, action_id, *(("done", None) if dropped else ("refused", GONE)))


async def _mark(connection: Any, action_id: str, state: str, message: str | None) -> None:
    await connection.execute(queries("actions")["mark_actions"], [action_id], [state], [message], [None])
