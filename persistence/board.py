"""
What a leaderboard is about: distance, completion, or any counter of the state.

Scores are whole millionths, as counters are, so that a double holds each exactly. Who has no score above 0 is on no
board.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from protocol.limits import KEY_CHARS_MAX, NAME_CHARS_MAX

DISTANCE, COMPLETION = "distance", "completion"

_PATH = re.compile(rf"([a-z][a-z0-9_]{{0,{NAME_CHARS_MAX - 1}}})(?:\.([^\x00-\x1f\x7f]{{1,{KEY_CHARS_MAX}}}))?")


@dataclass(frozen=True, slots=True)
class Board:
    """`path` is that of a counter: a name, or group and key; empty for the boards that are columns."""

    name: str
    kind: Literal["distance", "completion", "counter"]
    path: tuple[str, ...] = ()


def parse_board(name: str) -> Board:
    """
    The board that goes by this name: `distance`, `completion`, `steps`, `collectibles.artist_tools`.

    Raises:
        ValueError: no counter can have that path.
    """
    if name in (DISTANCE, "distance_meters"):
        # The counter under its own name: the same numbers need no board of their own.
        return Board(DISTANCE, "distance")
    if name == COMPLETION:
        return Board(COMPLETION, "completion")
    found = _PATH.fullmatch(name)
    if found is None:
        raise ValueError("a board is distance, completion, or the path of a counter")
    return Board(name, "counter", tuple(part for part in found.groups() if part is not None))
