"""
What each question of `wayhold analytics` shows: the typed answer of persistence.analytics as columns and rows, with the
shares that follow from its counts.

Not here: arguments and names (analytics.py), how rows are shown (report.py).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from gateway.app import report
from gateway.app.report import Report, share, show_duration, show_share
from persistence.analytics import Analytics, Content, Distribution, Window

RETENTION_DAYS = (1, 7, 30)


@dataclass(slots=True)
class Asked:
    """One question with everything that it needs; `window` and `days` are open where nothing was said."""

    analytics: Analytics
    args: argparse.Namespace
    experience: str
    window: Window
    days: tuple[date | None, date | None]
    contents: list[Content]


async def answer_engagement(asked: Asked) -> Report:
    (content,) = asked.contents
    found = await asked.analytics.find_engagement(asked.experience, content, asked.window)
    return Report(
        f"{content.event_type} of {content.content_id}",
        {"total_visits": "count", "unique_players": "count", "average_time_spent_s": "seconds"},
        [(found.total_visits, found.unique_players, found.average_time_spent_s)],
        {"content_id": content.content_id, "event_type": content.event_type},
    )


async def answer_ranking(asked: Asked) -> Report:
    args = asked.args
    found = await asked.analytics.list_ranking(
        asked.experience, args.type, asked.window, contents_max=args.top, with_players=args.players
    )
    columns: dict[str, report.Kind] = {"content_id": "text", "total_visits": "count", "average_time_spent_s": "seconds"}
    rows: list[tuple[Any, ...]] = [(one.content_id, one.total_visits, one.average_time_spent_s) for one in found]
    if args.players:
        columns |= {"unique_players": "count"}
        rows = [(*row, one.unique_players) for row, one in zip(rows, found, strict=True)]
    return Report(f"most frequent {args.type}", columns, rows, {"event_type": args.type})


async def answer_funnel(asked: Asked) -> Report:
    steps = await asked.analytics.list_funnel(asked.experience, asked.contents, asked.window)
    rows = []
    for number, step in enumerate(steps, 1):
        before = steps[max(0, number - 2)].players
        rows.append(
            (
                *(number, step.content.event_type, step.content.content_id, step.players),
                *(share(step.players, steps[0].players), share(step.players, before)),
            )
        )
    return Report(
        f"funnel of {len(steps)} steps",
        {
            "step": "count",
            "event_type": "text",
            "content_id": "text",
            "players": "count",
            "share_of_first": "share",
            "share_of_previous": "share",
        },
        rows,
    )


async def answer_retention(asked: Asked) -> Report:
    found = await asked.analytics.find_retention(asked.experience, *asked.days)
    columns: dict[str, report.Kind] = {"cohort": "day", "new_players": "count"}
    for n in RETENTION_DAYS:
        columns |= {f"day_{n}_players": "count", f"day_{n}_share": "share"}
    rows = [
        (
            *(cohort.day, cohort.players),
            *(cell for n in RETENTION_DAYS for cell in (cohort.retained[n], share(cohort.retained[n], cohort.players))),
        )
        for cohort in found.cohorts
    ]
    totals = {
        f"day_{n}": {"new_players": players, "retained": retained, "share": share(retained, players)}
        for n, (players, retained) in found.totals.items()
    }
    notes = [
        f"day {n}: {show_share(share(retained, players))} ({retained:,} of {players:,} players whose day {n} is over)"
        for n, (players, retained) in found.totals.items()
    ]
    return Report("retention of new players", columns, rows, {"totals": totals}, notes)


async def answer_completion(asked: Asked) -> Report:
    found = await asked.analytics.find_completion(asked.experience, asked.window)
    facts = {
        "players": found.players,
        "completed": found.completed,
        "share": share(found.completed, found.players),
        "average_percentage": found.average_percentage,
    }
    average = "" if found.average_percentage is None else f"; on average they are at {found.average_percentage:.1f} %"
    note = (
        f"{found.completed:,} of {found.players:,} players who started then have completed the experience "
        f"({show_share(share(found.completed, found.players))}){average}"
    )
    rows: list[tuple[Any, ...]] = [
        (q.quest, q.players, q.completed, share(q.completed, q.players)) for q in found.quests
    ]
    columns: dict[str, report.Kind] = {"quest": "text", "players": "count", "completed": "count", "share": "share"}
    return Report("quests", columns, rows, facts, [note])


async def answer_playtime(asked: Asked) -> Report:
    found = await asked.analytics.find_playtime(asked.experience, *asked.days, bounds_s=asked.args.bounds)
    return _distribution("playtime of players", "players", found)


async def answer_sessions(asked: Asked) -> Report:
    found = await asked.analytics.find_session_lengths(asked.experience, asked.window, bounds_s=asked.args.bounds)
    return _distribution("length of sessions", "sessions", found)


def _distribution(title: str, unit: str, found: Distribution) -> Report:
    rows: list[tuple[Any, ...]] = [
        (bucket.from_s, bucket.to_s, bucket.count, share(bucket.count, found.count)) for bucket in found.buckets
    ]
    average = "" if found.average_s is None else f", {show_duration(found.average_s)} on average"
    return Report(
        title,
        {"from_s": "seconds", "to_s": "seconds", unit: "count", "share": "share"},
        rows,
        {unit: found.count, "average_s": found.average_s},
        [f"{found.count:,} {unit}{average}"],
    )


async def answer_drop_off(asked: Asked) -> Report:
    args = asked.args
    idle_since = datetime.now(UTC) - timedelta(days=args.idle_days)
    found = await asked.analytics.list_drop_off(asked.experience, idle_since=idle_since, locations_max=args.top)
    return Report(
        f"where players stopped who have not played for {args.idle_days} days",
        {"location": "text", "players": "count"},
        [(one.location, one.players) for one in found],
        {"idle_since": idle_since},
    )


async def answer_active(asked: Asked) -> Report:
    found = await asked.analytics.list_active_players(asked.experience, *asked.days)
    return Report(
        "players day by day",
        {"day": "day", "players": "count", "new_players": "count", "updates": "count", "playtime_s": "seconds"},
        [(day.day, day.players, day.new_players, day.updates, day.playtime_s) for day in found],
    )


async def answer_contents(asked: Asked) -> Report:
    found = await asked.analytics.list_contents(asked.experience, asked.args.type)
    return Report(
        "contents of events",
        {"event_type": "text", "content_id": "text"},
        [(content.event_type, content.content_id) for content in found],
    )
