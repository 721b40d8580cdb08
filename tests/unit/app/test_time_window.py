"""Times as people type them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from gateway.app.errors import SettingsError
from gateway.app.time_window import parse_days, parse_window

NOW = datetime(2026, 11, 22, 18, 30, tzinfo=UTC)
TODAY = NOW.date()


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-10-31", datetime(2026, 10, 31, tzinfo=UTC)),
        ("2026-10-31T18:00", datetime(2026, 10, 31, 18, tzinfo=UTC)),
        ("2026-10-31T18:00:00+02:00", datetime(2026, 10, 31, 16, tzinfo=UTC)),
        ("90m", NOW - timedelta(minutes=90)),
        ("12h", NOW - timedelta(hours=12)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(days=14)),
    ],
)
def test_an_instant_is_a_date_a_time_or_how_long_ago(text: str, instant: datetime) -> None:
    assert parse_window(text, None, NOW) == (instant, None)


def test_a_date_that_ends_a_window_counts_whole_and_an_instant_does_not() -> None:
    assert parse_window("2026-10-31", "2026-10-31", NOW) == (
        datetime(2026, 10, 31, tzinfo=UTC),
        datetime(2026, 11, 1, tzinfo=UTC),
    )
    assert parse_window(None, "2026-10-31T00:00", NOW) == (None, datetime(2026, 10, 31, tzinfo=UTC))
    assert parse_window(None, None, NOW) == (None, None)


@pytest.mark.parametrize("text", ["yesterday", "", "7", "7y", "-7d", "99999w", "2026-13-01", "2026-10-31T25:00", "٧d"])
def test_what_is_no_time_is_said_so_with_an_example(text: str) -> None:
    with pytest.raises(SettingsError, match="is no time; give a date"):
        parse_window(text, None, NOW)


def test_a_window_that_holds_nothing_is_refused() -> None:
    for start, end in [("7d", "8d"), ("2026-10-31T18:00", "2026-10-31T18:00"), ("2026-11-01", "2026-10-31")]:
        with pytest.raises(SettingsError, match="holds nothing"):
            parse_window(start, end, NOW)


def test_days_are_whole_and_both_ends_count() -> None:
    assert parse_days("2026-10-01", "2026-10-31", TODAY) == (date(2026, 10, 1), date(2026, 10, 31))
    assert parse_days("2w", "1d", TODAY) == (date(2026, 11, 8), date(2026, 11, 21))
    assert parse_days("2026-10-01", "2026-10-01", TODAY) == (date(2026, 10, 1), date(2026, 10, 1))
    assert parse_days(None, None, TODAY) == (None, None)
    for text in ("12h", "2026-10-31T18:00", "soon", "2026-02-30", "99999w"):
        with pytest.raises(SettingsError, match="whole days"):
            parse_days(text, None, TODAY)
    with pytest.raises(SettingsError, match="there is no day from 1d to 2d"):
        parse_days("1d", "2d", TODAY)
