"""
Rollups: totals over events that were inserted, added up here and added to the tables at the end of the transaction.

Promise: only rows that are in `player_progress_events` count, each once, at its own hour and day (UTC). Rows of these
tables are touched in one order by everybody: the tables as in `write`, in each the keys ascending. Hours are summed in
a shard of the process's own, days belong to progress that the transaction holds locked, so nobody waits here.

Not here: what the columns mean (docs/data-model.md), computing them anew (`rebuild_rollups` in the schema).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from persistence.cold.queries import queries
from persistence.flusher.contents import Content
from persistence.replay import UPDATE
from protocol.entry import UpdateBody
from protocol.values import ValueRefused, parse_json

SHARDS = 16
"""How many flushers can add to the same hour without waiting for each other."""

OTHERS_SHARD = SHARDS
"""The shard of whoever is no flusher: replayed dead letters; erases too, in the schema."""

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
TIME_SPENT_MAX_S = 86_400

_TIME_SPENT: Final = re.compile(rb'"time_spent":(-?[0-9][0-9.eE+-]*)[,}]')


class Rollups:
    """Collects what one transaction adds."""

    def __init__(self) -> None:
        self.content_hours: dict[tuple[int, int], list[int]] = {}
        self.content_player_days: dict[tuple[int, int, str], list[int]] = {}
        self.experience_hours: dict[tuple[str, int], list[int]] = {}
        self.player_days: dict[tuple[str, int, str], list[int]] = {}
        self.new_player_days: dict[tuple[str, int, str], list[int]] = {}

    def add(
        self,
        experience: str,
        progress_id: str,
        inserted: Sequence[tuple[UpdateBody, int]],
        contents: Mapping[Content, int],
        last_ms: int | None = None,
    ) -> None:
        """
        Events of one progress, each with its share of the playtime in ms. `last_ms`: when it played last before, so
        that its row of that day is there already; None: nobody knows.
        """
        last_day = None if last_ms is None else last_ms // DAY_MS
        for body, playtime_ms in inserted:
            at_ms = body.timestamp_ms
            hour, day = at_ms // HOUR_MS, at_ms // DAY_MS
            of_hour = self.experience_hours.get((experience, hour))
            if of_hour is None:
                self.experience_hours[(experience, hour)] = [1, playtime_ms]
            else:
                of_hour[0] += 1
                of_hour[1] += playtime_ms
            days = self.player_days if day == last_day else self.new_player_days
            of_day = days.get((experience, day, progress_id))
            if not body.is_play:
                pass
            elif of_day is None:
                days[(experience, day, progress_id)] = [1, playtime_ms, at_ms]
            else:
                of_day[0] += 1
                of_day[1] += playtime_ms
                if at_ms < of_day[2]:
                    of_day[2] = at_ms
            content_id = body.content_id
            if content_id is None or body.event_type == UPDATE:
                continue
            content = contents[(experience, body.event_type, content_id)]
            visits = self.content_hours.get((content, hour))
            if visits is None:
                visits = self.content_hours[(content, hour)] = [0, 0, 0]
            visits[0] += 1
            spent_ms = time_spent_ms(body.data_json)
            if spent_ms is not None:
                visits[1] += 1
                visits[2] += spent_ms
            met = self.content_player_days.get((content, day, progress_id))
            if met is None:
                self.content_player_days[(content, day, progress_id)] = [1, at_ms]
            else:
                met[0] += 1
                if at_ms < met[1]:
                    met[1] = at_ms

    async def write(self, connection: Any, shard: int) -> None:
        sql = queries("flush")
        if self.content_hours:
            await connection.execute(sql["add_content_hours"], *_columns(self.content_hours), shard)
        if self.content_player_days:
            await connection.execute(sql["add_content_player_days"], *_columns(self.content_player_days))
        if self.experience_hours:
            await connection.execute(sql["add_experience_hours"], *_columns(self.experience_hours), shard)
        if self.player_days:
            await connection.execute(sql["add_player_days"], *_columns(self.player_days))
        if self.new_player_days:
            await connection.execute(sql["add_new_player_days"], *_columns(self.new_player_days))


def list_contents(experience: str, inserted: Sequence[tuple[UpdateBody, int]]) -> set[Content]:
    """What these events are about, as far as rollups count it."""
    return {
        (experience, body.event_type, body.content_id)
        for body, _ in inserted
        if body.content_id is not None and body.event_type != UPDATE
    }


def time_spent_ms(data_json: bytes) -> int | None:
    """`time_spent_ms` of the schema: the time that an event says was spent, None when it says none that is usable."""
    if b'"time_spent"' not in data_json:
        return None
    # In a flat map the name can only be that of the one field: a quote inside of a text is escaped.
    if data_json.startswith(b"{") and data_json.find(b"{", 1) < 0:
        found = _TIME_SPENT.search(data_json)
        if found is None:
            return None
        digits = found[1]
        if digits.isdigit():
            seconds = int(digits)
            return seconds * 1000 if seconds <= TIME_SPENT_MAX_S else None
        return _rounded(Decimal(digits.decode()))
    try:
        data = parse_json(data_json)
    except ValueRefused:
        return None
    spent = data.get("time_spent") if type(data) is dict else None
    return _rounded(Decimal(repr(spent))) if type(spent) is int or type(spent) is float else None


def _rounded(seconds: Decimal) -> int | None:
    if not 0 <= seconds <= TIME_SPENT_MAX_S:
        return None
    return int((seconds * 1000).to_integral_value(ROUND_HALF_UP))


def _columns(rows: Mapping[tuple[Any, ...], list[int]]) -> list[list[Any]]:
    """Rows in key order, as one list for each column."""
    return [list(column) for column in zip(*[(*key, *rows[key]) for key in sorted(rows)], strict=True)]
