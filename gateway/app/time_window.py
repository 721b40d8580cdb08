"""
Times as people type them: a date, an instant, or how long ago. Everything is UTC unless it says its offset.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from gateway.app.errors import SettingsError

_AGO = re.compile(r"([0-9]{1,4})(m|h|d|w)")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def parse_window(start: str | None, end: str | None, now: datetime) -> tuple[datetime | None, datetime | None]:
    """
    Two instants, the second of which is not part of the window. A date that ends it counts whole.

    Raises:
        SettingsError: one of them is no time, or the window holds nothing.
    """
    since = None if start is None else _instant(start, now)
    before = None if end is None else _instant(end, now)
    if before is not None and end is not None and _DATE.fullmatch(end):
        before += timedelta(days=1)
    if since is not None and before is not None and since >= before:
        raise SettingsError(f"the window from {start} to {end} holds nothing", "--from must come before --to")
    return since, before


def parse_days(start: str | None, end: str | None, today: date) -> tuple[date | None, date | None]:
    """
    Two days (UTC), both part of the span; `7d` is the day seven days ago.

    Raises:
        SettingsError: one of them is no day, or the span holds none.
    """
    first = None if start is None else _day(start, today)
    last = None if end is None else _day(end, today)
    if first is not None and last is not None and first > last:
        raise SettingsError(f"there is no day from {start} to {end}", "--from must not come after --to")
    return first, last


def _instant(text: str, now: datetime) -> datetime:
    try:
        if ago := _AGO.fullmatch(text):
            return now - int(ago[1]) * _UNITS[ago[2]]
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise SettingsError(
            f"{text!r} is no time", "give a date (2026-10-31), an instant (2026-10-31T18:00) or how long ago (7d, 12h)"
        ) from None


def _day(text: str, today: date) -> date:
    try:
        if (ago := _AGO.fullmatch(text)) and ago[2] in "dw":
            return today - int(ago[1]) * _UNITS[ago[2]]
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except (ValueError, OverflowError):
        pass
    raise SettingsError(
        f"{text!r} is no day", "this counts whole days (UTC): give a date (2026-10-31) or how many days ago (30d)"
    )
