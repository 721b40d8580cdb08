"""How values look in the API's JSON: times, pages, and what is accepted as an id."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path, Query

from gateway.liveops.errors import invalid

LIMIT_MAX = 200
CURSOR_CHARS_MAX = 1_000

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="items of a page")]
Cursor = Annotated[str | None, Query(max_length=CURSOR_CHARS_MAX, description="next_cursor of the page before")]
Experience = Annotated[str, Query(min_length=1, max_length=100)]
UserId = Annotated[uuid.UUID, Path(description="the player: the `sub` of their tokens")]


def iso(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with ms."""
    if at is None:
        return None
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def iso_ms(at_ms: float | None) -> str | None:
    if at_ms is None:
        return None
    return iso(datetime.fromtimestamp(at_ms / 1000, UTC))


def make_cursor(*place: Any) -> str:
    """Where the next page begins, opaque to who holds it."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, *kinds: type) -> list[Any] | None:
    """The place in a cursor that `make_cursor` made of values of these kinds; None without one. Raises ApiError."""
    if not cursor:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        place = None
    if (
        not isinstance(place, list)
        or len(place) != len(kinds)
        or not all(_is_of(value, kind) for value, kind in zip(place, kinds, strict=True))
    ):
        raise invalid("cursor: is not one of ours", "begin without a cursor")
    return place


def _is_of(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and abs(value) < 2**63
    return isinstance(value, kind)


def parse_place(at: str, last: str) -> tuple[datetime, str]:
    """The time and the UUID of a cursor. Raises ApiError."""
    instant = parse_instant("cursor", at)
    try:
        return instant or datetime(1970, 1, 1, tzinfo=UTC), str(uuid.UUID(last))
    except ValueError:
        raise invalid("cursor: is not one of ours", "begin without a cursor") from None


def parse_player(text: str) -> str:
    """A player's id in its usual spelling. Raises ApiError."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise invalid("player: is no UUID", "the player's id is the `sub` of their tokens") from None


def find_ids(begin: str) -> tuple[uuid.UUID, uuid.UUID] | None:
    """The lowest and the highest id that begins so, in small letters; None when none does."""
    digits = begin.replace("-", "")
    if len(digits) > 32 or any(digit not in "0123456789abcdef" for digit in digits):
        return None
    return uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))


def parse_instant(name: str, text: str | None) -> datetime | None:
    """In UTC. Raises ApiError."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid(f"{name}: is no ISO 8601 time", "such as 2026-11-22T10:00:00Z") from None
