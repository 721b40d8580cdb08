"""
What the rollups must say, computed from the events row by row with nothing of the product's code, and what they say.
"""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

OPERATOR_EDIT = ("ops", "operator_edit")
"""Nothing that the player did: it is counted, and is no play."""


async def list_rollup_drift(connection: Any, experience: str | None = None) -> list[str]:
    """Every difference between the rollups and the events, in words; of one experience or of all."""
    events = await connection.fetch(
        "SELECT e.*, e.data::text AS data_text, p.experience_id FROM player_progress_events e"
        " JOIN experience_progress p ON p.id = e.experience_progress_id"
        " WHERE $1::text IS NULL OR p.experience_id = $1",
        experience,
    )
    visits: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0])
    met: dict[Any, list[Any]] = defaultdict(lambda: [0, None])
    hours: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    days: dict[Any, list[Any]] = defaultdict(lambda: [0, 0, None])
    for event in events:
        at: datetime = event["timestamp"]
        hour, day = at.replace(minute=0, second=0, microsecond=0), at.date()
        place = event["experience_id"]
        hours[(place, hour)][0] += 1
        hours[(place, hour)][1] += event["playtime_ms"]
        if (event["device_id"], event["event_type"]) != OPERATOR_EDIT:
            of_day = days[(place, day, event["experience_progress_id"])]
            of_day[0] += 1
            of_day[1] += event["playtime_ms"]
            of_day[2] = at if of_day[2] is None else min(of_day[2], at)
        if event["content_id"] is None or event["event_type"] == "update":
            continue
        content = (place, event["event_type"], event["content_id"])
        visits[(content, hour)][0] += 1
        spent_ms = _time_spent_ms(event["data_text"])
        if spent_ms is not None:
            visits[(content, hour)][1] += 1
            visits[(content, hour)][2] += spent_ms
        of_content = met[(content, day, event["experience_progress_id"])]
        of_content[0] += 1
        of_content[1] = at if of_content[1] is None else min(of_content[1], at)
    return [
        *_compare("content_hours", visits, await _content_hours(connection, experience)),
        *_compare("content_player_days", met, await _content_player_days(connection, experience)),
        *_compare("experience_hours", hours, await _experience_hours(connection, experience)),
        *_compare("player_days", days, await _player_days(connection, experience)),
    ]


async def check_playtime(connection: Any, experience: str | None = None) -> None:
    """The shares of the playtime that events carry are the gaps between them, and add up to what the progress has."""
    rows = await connection.fetch(
        'SELECT p.id, p.playtime_ms AS total, e.playtime_ms, e."timestamp" FROM experience_progress p'
        " JOIN player_progress_events e ON e.experience_progress_id = p.id"
        " WHERE ($1::text IS NULL OR p.experience_id = $1)"
        " AND NOT EXISTS (SELECT FROM dead_letters l WHERE l.experience_progress_id = p.id)"
        " AND NOT (e.device_id = 'ops' AND e.event_type = 'operator_edit')"
        " ORDER BY p.id, e.version",
        experience,
    )
    sums: dict[Any, int] = defaultdict(int)
    totals: dict[Any, int] = {}
    last: dict[Any, datetime] = {}
    for row in rows:
        gap = timedelta(0)
        if row["id"] in last:
            gap = min(max(row["timestamp"] - last[row["id"]], timedelta(0)), timedelta(seconds=60))
        assert row["playtime_ms"] == gap // timedelta(milliseconds=1), "an event carries another gap"
        last[row["id"]] = row["timestamp"]
        sums[row["id"]] += row["playtime_ms"]
        totals[row["id"]] = row["total"]
    assert sums == totals, "the shares of events do not add up to the playtime of their progress"


def _time_spent_ms(text: str) -> int | None:
    data = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    spent = data.get("time_spent") if isinstance(data, dict) else None
    if not isinstance(spent, Decimal) or not 0 <= spent <= 86_400:
        return None
    return int((spent * 1000).to_integral_value(ROUND_HALF_UP))


async def _content_hours(connection: Any, experience: str | None) -> dict[Any, list[Any]]:
    rows = await connection.fetch(
        "SELECT c.experience_id, c.event_type, c.content_id, h.hour, sum(h.events)::bigint AS n,"
        " sum(h.timed_events)::bigint AS timed, sum(h.time_spent_ms)::bigint AS spent"
        " FROM content_hours h JOIN contents c ON c.id = h.content"
        " WHERE $1::text IS NULL OR c.experience_id = $1 GROUP BY 1, 2, 3, 4",
        experience,
    )
    return {((r[0], r[1], r[2]), r[3]): [r["n"], r["timed"], r["spent"]] for r in rows}


async def _content_player_days(connection: Any, experience: str | None) -> dict[Any, list[Any]]:
    rows = await connection.fetch(
        "SELECT c.experience_id, c.event_type, c.content_id, d.day, d.experience_progress_id, d.events, d.first_at"
        " FROM content_player_days d JOIN contents c ON c.id = d.content"
        " WHERE $1::text IS NULL OR c.experience_id = $1",
        experience,
    )
    return {((r[0], r[1], r[2]), r[3], r[4]): [r["events"], r["first_at"]] for r in rows}


async def _experience_hours(connection: Any, experience: str | None) -> dict[Any, list[Any]]:
    rows = await connection.fetch(
        "SELECT experience_id, hour, sum(updates)::bigint AS n, sum(playtime_ms)::bigint AS played"
        " FROM experience_hours WHERE $1::text IS NULL OR experience_id = $1 GROUP BY 1, 2",
        experience,
    )
    return {(r[0], r[1]): [r["n"], r["played"]] for r in rows}


async def _player_days(connection: Any, experience: str | None) -> dict[Any, list[Any]]:
    rows = await connection.fetch(
        "SELECT experience_id, day, experience_progress_id, updates, playtime_ms, first_at FROM player_days"
        " WHERE $1::text IS NULL OR experience_id = $1",
        experience,
    )
    return {(r[0], r[1], r[2]): [r["updates"], r["playtime_ms"], r["first_at"]] for r in rows}


def _compare(table: str, wanted: dict[Any, list[Any]], found: dict[Any, list[Any]]) -> list[str]:
    # An hour whose every event was taken out again may stay, with nothing in it.
    found = {key: row for key, row in found.items() if row[0] or any(isinstance(n, int) and n for n in row)}
    return [
        f"{table} {key}: {found.get(key)}, the events say {wanted.get(key)}"
        for key in sorted({*wanted, *found}, key=str)
        if found.get(key) != wanted.get(key)
    ]
