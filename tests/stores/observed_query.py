"""
What Postgres does for a statement: the statement runs in a transaction that is rolled back, and the counters of that
transaction say which indexes were searched and how many rows were read by going through a whole table.

Counters see what EXPLAIN does not: plans inside functions, foreign keys, triggers. A plan is printed with a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

SEQUENTIAL = "SELECT relname AS name, seq_tup_read AS count FROM pg_stat_xact_user_tables WHERE seq_tup_read > 0"

# A partition's index goes by the name of the index that it is a part of.
SEARCHED = """
    SELECT COALESCE(parent.relname, i.relname) AS name, sum(pg_stat_get_xact_numscans(i.oid))::bigint AS count
    FROM pg_class i
    LEFT JOIN pg_inherits h ON h.inhrelid = i.oid
    LEFT JOIN pg_class parent ON parent.oid = h.inhparent
    WHERE i.relkind = 'i' AND i.relnamespace = 'public'::regnamespace AND pg_stat_get_xact_numscans(i.oid) > 0
    GROUP BY 1"""


@dataclass(frozen=True, slots=True)
class Observed:
    """`read_rows`: by table, rows that were read by sequential scans; `searched`: indexes."""

    read_rows: dict[str, int]
    searched: set[str]
    answered: int
    plan: str


async def observe(
    connection: Any, sql: str, arguments: Sequence[Any], *, is_generic: bool, before: str = ""
) -> Observed:
    """`is_generic`: with the plan that a prepared statement gets when it was used often. `before`: SQL to run first."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL plan_cache_mode = force_{'generic' if is_generic else 'custom'}_plan")
        if before:
            await connection.execute(before)
        # What earlier transactions did counts as well, until the backend has reported it.
        earlier = await _count(connection, SEQUENTIAL), await _count(connection, SEARCHED)
        rows = await connection.fetch(sql, *arguments)
        after = await _count(connection, SEQUENTIAL), await _count(connection, SEARCHED)
    finally:
        await transaction.rollback()
    read_rows: Counter[str] = Counter()
    for name, count in (after[0] - earlier[0]).items():
        read_rows["player_progress_events" if name.startswith("player_progress_events_") else name] += count
    plan = await explain(connection, sql, arguments)
    return Observed(dict(read_rows), set(after[1] - earlier[1]), len(rows), plan)


async def _count(connection: Any, sql: str) -> Counter[str]:
    return Counter({record["name"]: record["count"] for record in await connection.fetch(sql)})


async def explain(connection: Any, sql: str, arguments: Sequence[Any]) -> str:
    """The plan for these arguments, for people. A generic one cannot be asked for with arguments."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        return "\n".join(record[0] for record in await connection.fetch("EXPLAIN " + sql, *arguments))
    except asyncpg.PostgresSyntaxError:
        return "(a statement that has no plan)"
    finally:
        await transaction.rollback()
