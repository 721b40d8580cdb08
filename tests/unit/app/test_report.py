"""A result as a table, as JSON, as CSV."""

from __future__ import annotations

import csv
import json
from datetime import date

import pytest

from gateway.app.report import Report, join_names, share, show_duration, to_csv, to_json, to_table


def report(*rows: tuple[object, ...]) -> Report:
    return Report(
        "visits in wylding-woods",
        {"content_id": "text", "day": "day", "visits": "count", "average_time_spent_s": "seconds", "share": "share"},
        list(rows),
        {"since": date(2026, 10, 31)},
        ["two places"],
    )


FULL = report(
    ("1_gate", date(2026, 11, 1), 12_345, 75.25, 0.5),
    ("2", date(2026, 11, 2), 0, None, None),
)


def test_a_table_lines_up_and_is_for_eyes() -> None:
    assert to_table(FULL).splitlines() == [
        "visits in wylding-woods",
        "",
        "content id  day         visits  average time spent  share",
        "1_gate      2026-11-01  12,345              1m 15s  50.0%",
        "2           2026-11-02       0                   –      –",
        "",
        "two places",
    ]
    assert "nothing" in to_table(report())


def test_json_and_csv_hold_plain_values() -> None:
    assert json.loads(to_json(FULL)) == {
        "since": "2026-10-31",
        "rows": [
            {"content_id": "1_gate", "day": "2026-11-01", "visits": 12345, "average_time_spent_s": 75.25, "share": 0.5},
            {"content_id": "2", "day": "2026-11-02", "visits": 0, "average_time_spent_s": None, "share": None},
        ],
    }
    assert to_csv(FULL).splitlines() == [
        "content_id,day,visits,average_time_spent_s,share",
        "1_gate,2026-11-01,12345,75.25,0.5",
        "2,2026-11-02,0,,",
    ]


def test_names_of_players_clients_do_nothing_where_they_are_shown() -> None:
    hostile = report(("=HYPERLINK(1)\x1b[2J", date(2026, 11, 1), 1, 1.0, 1.0))
    assert "\x1b" not in to_table(hostile) and "=HYPERLINK(1)\\x1b[2J" in to_table(hostile)
    (cells,) = csv.reader([to_csv(hostile).splitlines()[1]])
    assert cells[0] == "'=HYPERLINK(1)\x1b[2J"
    assert json.loads(to_json(hostile))["rows"][0]["content_id"] == "=HYPERLINK(1)\x1b[2J"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (0.05, "0.1s"), (59.94, "59.9s"), (60, "1m"), (61, "1m 01s"), (3_600, "1h"), (36_060, "10h 01m")],
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert show_duration(seconds) == shown


def test_a_share_of_nothing_is_none() -> None:
    assert (share(1, 4), share(0, 0), share(None, 4)) == (0.25, None, None)
    assert join_names(["a", "b", "c"], 2) == "a, b and 1 more"
