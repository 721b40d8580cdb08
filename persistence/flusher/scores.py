"""
What a flush writes to leaderboards: to those that are there, after its commit, in the order of versions.

Promise: nothing here can fail a flush. What is not written (Redis is away, this process dies) is missing until the
board is filled again, some minutes later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from persistence.board import Board, parse_board
from persistence.errors import PersistenceError
from persistence.flusher.plan import ProgressWrite
from persistence.hot.boards import Score
from persistence.hot.store import HotStore
from protocol.limits import COUNTER_SCALE

log = logging.getLogger("wayhold.flusher")

COMPLETE = 100 * COUNTER_SCALE


async def note_scores(hot: HotStore, written: Sequence[ProgressWrite], began: float) -> None:
    """Tell every board what was saved of its players. `began`: time.monotonic() before the transaction began."""
    by_experience: dict[str, list[ProgressWrite]] = {}
    for write in written:
        by_experience.setdefault(write.key.experience, []).append(write)
    if not by_experience:
        return
    try:
        now_ms, boards = await hot.list_boards(by_experience)
        # Taken after the answer, so that standing still in between makes it earlier, never later.
        began_ms = now_ms - round((time.monotonic() - began) * 1000)
        for experience, names in boards.items():
            for name in names:
                scores = list_scores(parse_board(name), by_experience[experience])
                if scores:
                    await hot.note_scores(experience, name, scores, began_ms)
    except (PersistenceError, ValueError) as error:
        log.warning("scores could not be written to leaderboards", extra={"error": str(error)})


def list_scores(board: Board, writes: Sequence[ProgressWrite]) -> list[Score]:
    """Pure: what these saves make of a board; without those of which a save does not tell."""
    found = [(write.key.user_id, write.version, score_of(board, write)) for write in writes]
    return [(user_id, version, score) for user_id, version, score in found if score is not None]


def score_of(board: Board, write: ProgressWrite) -> int | None:
    """In millionths; None when only the row knows."""
    match board.kind:
        case "distance":
            return write.distance_micrometers
        case "completion":
            if write.row.is_completed or write.completed_at is not None:
                return COMPLETE
            return None if write.completion is None else round(write.completion * COUNTER_SCALE)
        case _:
            return int(write.fields.get(f"c:{'.'.join(board.path)}", b"0"))
