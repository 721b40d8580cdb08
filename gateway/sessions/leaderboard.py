"""
The `leaderboard` query: the best of an experience, and where the asking player stands. It shows what is saved.

Asked past the gate of the other queries: whoever waits here for a board that is being filled must not keep anybody from
an inventory.
"""

from __future__ import annotations

from typing import Any

from gateway.sessions.connection import Connection
from persistence.board import DISTANCE, Board, parse_board
from persistence.leaderboards import Standing
from protocol.frames import QueryArgs
from protocol.limits import COUNTER_SCALE
from protocol.values import millionths_number

ROWS = 20


async def answer_leaderboard(connection: Connection, args: QueryArgs) -> dict[str, Any]:
    """
    The `data` of a result.

    Raises:
        StoreUnavailable, StoreFull: the board is not there and cannot be made now
    """
    user_id, experience = connection.key
    # Whatever the frame lets through as the path of a counter is one.
    board: Board = parse_board(args.board or DISTANCE)
    page = await connection.node.boards.read(experience, board, user_id, args.limit or ROWS)
    answer: dict[str, Any] = {"rows": [_shown(row) for row in page.rows]}
    if page.me is not None:
        answer["me"] = _shown(page.me)
    return answer


def _shown(standing: Standing) -> dict[str, Any]:
    """Metres, percent, or what the counter counts."""
    return {"rank": standing.rank, "user_id": standing.user_id, "score": millionths_number(standing.score)}


assert COUNTER_SCALE == 1_000_000  # the millionths of `millionths_number` are those of a score
