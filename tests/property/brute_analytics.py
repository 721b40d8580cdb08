"""
Analytics computed the slow way: from the rows of events (and of sessions and progress, where they are asked about), one
by one, with nothing in common with the SQL functions but docs/analytics.md.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from persistence.analytics import (
    ActiveDay,
    Bucket,
    Cohort,
    Completion,
    Content,
    Distribution,
    DropOff,
    Engagement,
    FunnelStep,
    QuestCompletion,
    RankedContent,
    Retention,
    Window,
)

EVENTS = """
SELECT p.experience_id, e.experience_progress_id AS progress, e.event_type, e.content_id, e.data::text AS data,
       e."timestamp" AS at, e.version
FROM player_progress_events e JOIN experience_progress p ON p.id = e.experience_progress_id
ORDER BY e.experience_progress_id, e.version
"""
PROGRESS = (
    "SELECT id AS progress, experience_id, started_at, last_played_at, completion_percentage FROM experience_progress"
)
SESSIONS = "SELECT experience_id, started_at, ended_at FROM player_sessions"


@dataclass
class Brute:
    """Everything that is stored, as plain rows."""

    events: Sequence[Any]
    progress: Sequence[Any]
    sessions: Sequence[Any]

    def engagement(self, experience: str, content: Content, window: Window) -> Engagement:
        met = [e for e in self._events(experience, window) if _content(e) == content]
        return Engagement(len(met), len({e["progress"] for e in met}), _average_spent(met))

    def ranking(self, experience: str, event_type: str, window: Window, contents_max: int) -> list[RankedContent]:
        met = defaultdict(list)
        for event in self._events(experience, window):
            if event["event_type"] == event_type and event["content_id"] is not None and event_type != "update":
                met[event["content_id"]].append(event)
        ranked = sorted(met, key=lambda content_id: (-len(met[content_id]), content_id))[:contents_max]
        return [
            RankedContent(name, len(met[name]), len({e["progress"] for e in met[name]}), _average_spent(met[name]))
            for name in ranked
        ]

    def funnel(self, experience: str, contents: Sequence[Content], window: Window) -> list[FunnelStep]:
        players = defaultdict(list)
        for event in self._events(experience, window):
            players[event["progress"]].append(event)
        reached = Counter[int]()
        for events in players.values():
            before: datetime | None = None
            for step, content in enumerate(contents):
                times = [e["at"] for e in events if _content(e) == content]
                if not times or (before is not None and min(times) < before):
                    break
                before = min(times)
                reached[step] += 1
        return [FunnelStep(content, reached[step]) for step, content in enumerate(contents)]

    def retention(self, experience: str, first: date | None, last: date | None, today: date) -> Retention:
        days = self._days(experience)
        cohorts: dict[date, Cohort] = {}
        for played in days.values():
            day = min(played)
            if (first is None or day >= first) and (last is None or day <= last):
                known = cohorts.setdefault(day, Cohort(day, 0, {1: 0, 7: 0, 30: 0}))
                returned = {n: (count or 0) + (day + timedelta(n) in played) for n, count in known.retained.items()}
                cohorts[day] = Cohort(day, known.players + 1, dict(returned))
        shown = [
            Cohort(
                c.day, c.players, {n: kept if c.day + timedelta(n) < today else None for n, kept in c.retained.items()}
            )
            for _, c in sorted(cohorts.items())
        ]
        totals = {}
        for n in (1, 7, 30):
            over = [c for c in shown if c.day + timedelta(n) < today]
            totals[n] = (sum(c.players for c in over), sum(c.retained[n] or 0 for c in over))
        return Retention(shown, totals)

    def active(self, experience: str, first: date | None, last: date | None) -> list[ActiveDay]:
        days = self._days(experience)
        shown = []
        for day in sorted({day for played in days.values() for day in played}):
            if (first is None or day >= first) and (last is None or day <= last):
                players = [played for played in days.values() if day in played]
                shown.append(
                    ActiveDay(
                        day,
                        len(players),
                        sum(min(played) == day for played in players),
                        sum(len(played[day]) for played in players),
                        sum(sum(played[day]) for played in players) / 1000,
                    )
                )
        return shown

    def completion(self, experience: str, window: Window) -> Completion:
        completed = {e["progress"] for e in self.events if e["event_type"] == "experience_completed"}
        started = [
            p
            for p in self.progress
            if p["experience_id"] == experience and p["started_at"] is not None and _in(window, p["started_at"])
        ]
        met: dict[str, set[Any]] = defaultdict(set)
        done: dict[str, set[Any]] = defaultdict(set)
        for event in self._events(experience, window):
            if event["event_type"] in ("quest_started", "quest_completed"):
                met[event["content_id"]].add(event["progress"])
                if event["event_type"] == "quest_completed":
                    done[event["content_id"]].add(event["progress"])
        quests = [QuestCompletion(quest, len(met[quest]), len(done[quest])) for quest in met]
        percentages = [p["completion_percentage"] for p in started]
        return Completion(
            len(started),
            sum(p["progress"] in completed for p in started),
            sum(percentages) / len(started) if started else None,
            sorted(quests, key=lambda q: (-q.players, q.quest)),
        )

    def playtime(self, experience: str, first: date | None, last: date | None, bounds_s: Sequence[int]) -> Distribution:
        played = []
        for days in self._days(experience).values():
            inside = [
                sum(gaps)
                for day, gaps in days.items()
                if (first is None or day >= first) and (last is None or day <= last)
            ]
            if inside:
                played.append(sum(inside))
        return _distribution(played, bounds_s)

    def session_lengths(self, experience: str, window: Window, bounds_s: Sequence[int]) -> Distribution:
        ended = [
            max(0, round((s["ended_at"] - s["started_at"]) / timedelta(milliseconds=1)))
            for s in self.sessions
            if s["experience_id"] == experience and s["ended_at"] is not None and _in(window, s["started_at"])
        ]
        return _distribution(ended, bounds_s)

    def drop_off(self, experience: str, idle_since: datetime, locations_max: int) -> list[DropOff]:
        completed = {e["progress"] for e in self.events if e["event_type"] == "experience_completed"}
        locations: dict[Any, str] = {}
        for event in self.events:
            if event["event_type"] in ("waypoint_visited", "location_reached"):
                locations[event["progress"]] = event["content_id"]
        ended = Counter(
            locations.get(p["progress"])
            for p in self.progress
            if p["experience_id"] == experience
            and p["progress"] not in completed
            and p["last_played_at"] is not None
            and p["last_played_at"] < idle_since
        )
        # Postgres puts null behind every text.
        order = sorted(ended, key=lambda location: (-ended[location], location is None, location or ""))
        return [DropOff(location, ended[location]) for location in order[:locations_max]]

    def _events(self, experience: str, window: Window) -> list[Any]:
        return [e for e in self.events if e["experience_id"] == experience and _in(window, e["at"])]

    def _days(self, experience: str) -> dict[Any, dict[date, list[int]]]:
        """Progress → day (UTC) → what each update added to the playtime, in ms."""
        days: dict[Any, dict[date, list[int]]] = defaultdict(lambda: defaultdict(list))
        last: dict[Any, datetime] = {}
        for event in self.events:
            if event["experience_id"] != experience:
                continue
            before = last.get(event["progress"], event["at"])
            gap_ms = round((event["at"] - before) / timedelta(milliseconds=1))
            last[event["progress"]] = event["at"]
            days[event["progress"]][event["at"].astimezone(UTC).date()].append(min(max(gap_ms, 0), 60_000))
        return days


def _in(window: Window, at: datetime) -> bool:
    return (window.since is None or at >= window.since) and (window.before is None or at < window.before)


def _content(event: Any) -> Content | None:
    if event["content_id"] is None or event["event_type"] == "update":
        return None
    return Content(event["content_id"], event["event_type"])


def _average_spent(events: Sequence[Any]) -> float | None:
    spent = []
    for event in events:
        data = json.loads(event["data"], parse_float=Decimal, parse_int=Decimal)
        seconds = data.get("time_spent") if isinstance(data, dict) else None
        if isinstance(seconds, Decimal) and 0 <= seconds <= 86_400:
            spent.append(int((seconds * 1000).to_integral_value(ROUND_HALF_UP)))
    return sum(spent) / 1000 / len(spent) if spent else None


def _distribution(amounts_ms: Sequence[int], bounds_s: Sequence[int]) -> Distribution:
    buckets = []
    for low, high in zip(bounds_s, [*bounds_s[1:], None], strict=True):
        inside = [ms for ms in amounts_ms if ms >= low * 1000 and (high is None or ms < high * 1000)]
        buckets.append(Bucket(low, high, len(inside), sum(inside) / 1000))
    return Distribution(buckets)
