"""
What services are told about players, and which arguments can name anything at all.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from persistence.cold.shapes import HistoryPlace
from persistence.leaderboards import Standing
from persistence.progress_key import ProgressKey
from protocol.limits import EXPERIENCE_CHARS_MAX, QUERY_LIMIT_MAX
from protocol.values import millionths_number

_EXPERIENCE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{EXPERIENCE_CHARS_MAX - 1}}}")


@dataclass(frozen=True, slots=True)
class PlayerState:
    """The state as a player sees it, and the number of the newest entry that is in it."""

    state: dict[str, Any]
    version: int


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Events, newest first; `cursor` is for the next page, None at the end."""

    events: list[dict[str, Any]]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """`rank` counts those with a higher score, so equal scores share one; None: too far down to be counted."""

    rank: int | None
    user_id: str
    score: int | float


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The best, best first; `me` is the one that was asked about, None for who has no score above 0."""

    rows: list[LeaderboardRow]
    me: LeaderboardRow | None


@dataclass(frozen=True, slots=True)
class ActionTicket:
    """
    What was asked for, and how far it is: `accepted` (it has had its effect), `void` (it has none and never will;
    `code` and `message` say why), or `requested`: a store was away; it is written down and happens later, without the
    caller.
    """

    id: str
    key: ProgressKey
    state: Literal["accepted", "void", "requested"]
    version: int = 0
    code: int = 0
    message: str = ""


def canonical_user_id(user_id: str) -> str:
    """Raises ValueError for what is no UUID."""
    try:
        return str(uuid.UUID(user_id))
    except (ValueError, AttributeError, TypeError):
        raise ValueError("user_id: must be a UUID") from None


def canonical_experience(experience: str) -> str:
    """Raises ValueError for what can be no experience."""
    if not _EXPERIENCE.fullmatch(experience):
        raise ValueError("experience: letters, digits, '.', '_' and '-', at most 100, beginning with a letter or digit")
    return experience


def progress_key(user_id: str, experience: str) -> ProgressKey:
    """Raises ValueError for what can name no progress."""
    return ProgressKey(canonical_user_id(user_id), canonical_experience(experience))


def check_limit(limit: int) -> None:
    if not 1 <= limit <= QUERY_LIMIT_MAX:
        raise ValueError(f"limit: must be from 1 to {QUERY_LIMIT_MAX}")


def leaderboard_row(place: Standing) -> LeaderboardRow:
    return LeaderboardRow(place.rank, place.user_id, millionths_number(place.score))


def version_of(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise ValueError("cursor: must be one that an earlier page gave")
    return int(cursor)


def place_of(cursor: str) -> HistoryPlace:
    match = re.fullmatch(r"(\d{1,15})\.([0-9a-f]{32})\.(\d{1,18})", cursor, re.ASCII)
    if match is None:
        raise ValueError("cursor: must be one that an earlier page gave")
    return HistoryPlace(int(match[1]), match[2], int(match[3]))
