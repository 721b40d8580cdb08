"""
Leaderboards in Redis: boards that live for minutes, filled from Postgres by whoever asks first, kept up to date by
flushers meanwhile.

Promise: while a board is there, it shows what is saved, up to a write of a flusher that died between its commit and the
board; what that missed is mended when the board is filled again, `BOARD_S` later at most.

Not here: reading Postgres and waiting for each other (persistence.leaderboards).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from persistence.board import Board
from persistence.hot.client import CALL_TIMEOUT_S, DEADLINE_S, HotClient, pack
from persistence.hot.keys import BOARD_S, FENCE_KEY, board_key, board_versions_key, boards_key

BOARD_PLAYERS_MAX = 10_000
"""Players on a board: 2 MiB with their versions. Who is lower is told no place. ↑ memory, and longer to fill."""

BOARD_VERSIONS_MAX = 4 * BOARD_PLAYERS_MAX
"""Players whose saves a board has seen in its life; past it the board is filled anew."""

BOARDS_MAX = 14
"""Boards of counters that one experience has at once, beside those of distance and completion."""

BOARD_LEASE_S = 10.0
"""How long filling a board may take, before somebody else tries."""

ROWS_AT_ONCE = 1_000
"""Scores in one call of a script, so that Redis is never held for long."""

POSTGRES_TIMEOUT_S = 5.0
# Reading Postgres, and then each call: the lease must outlive what it is for.
assert POSTGRES_TIMEOUT_S + DEADLINE_S < BOARD_LEASE_S
assert CALL_TIMEOUT_S < BOARD_LEASE_S

Score = tuple[str, int, int]
"""User id, version of the progress, score in millionths."""


@dataclass(slots=True)
class BoardView:
    """
    A board as somebody sees it: the first rows (user id, score), the score of whoever asked (None: not among
    them), and how many are above it. Without a score: how many are above `floor`, 0 when nobody is missing.
    """

    rows: list[tuple[str, int]]
    floor: int
    score: int | None
    above: int


@dataclass(slots=True)
class BoardAbsent:
    """`is_ours`: the lease was given; otherwise somebody else fills it. `is_refused`: there are too many boards."""

    is_ours: bool
    is_refused: bool = False


class Boards(HotClient):
    async def open_board(
        self, experience: str, board: Board, user_id: str, limit: int, lease: str
    ) -> BoardView | BoardAbsent:
        """Read a board, or take the lease to fill it under the name `lease`, if there is one."""
        boards_max = BOARDS_MAX if board.kind == "counter" else 0
        reply = await self._run(
            "open_board",
            self._board_keys(experience, board.name),
            [board.name, user_id, limit, lease, round(BOARD_LEASE_S * 1000), boards_max],
        )
        if reply[0] != 2:
            return BoardAbsent(is_ours=reply[0] == 1, is_refused=reply[0] == -1)
        _, flat, floor, score, above = reply
        rows = [(flat[i].decode(), _whole(flat[i + 1])) for i in range(0, len(flat), 2)]
        return BoardView(rows, _whole(floor), _whole(score) if score else None, above)

    async def fill_board(
        self, experience: str, board: Board, lease: str, scores: Sequence[Score], read_ms: int
    ) -> bool:
        """
        Put on it what was read from Postgres, the highest scores, at most `BOARD_PLAYERS_MAX`; then it is there for
        `BOARD_S`. `read_ms` is `time_ms()` from before the read. False: the lease was over.
        """
        keys = [*self._board_keys(experience, board.name), FENCE_KEY]
        floor = min(score for _, _, score in scores) if len(scores) >= BOARD_PLAYERS_MAX else 0
        for first in range(0, max(1, len(scores)), ROWS_AT_ONCE):
            some = scores[first : first + ROWS_AT_ONCE]
            is_last = first + ROWS_AT_ONCE >= len(scores)
            reply = await self._run(
                "fill_board",
                keys,
                [
                    board.name,
                    lease,
                    read_ms,
                    _packed(some),
                    floor if is_last else "",
                    round((BOARD_S if is_last else BOARD_LEASE_S) * 1000),
                    BOARD_PLAYERS_MAX,
                ],
            )
            if reply != 1:
                return False
        return True

    async def release_board(self, experience: str, board: Board, lease: str) -> None:
        """Give a lease back that was not used; nothing if it is over."""
        keys = [*self._board_keys(experience, board.name), FENCE_KEY]
        await self._run("fill_board", keys, [board.name, lease, 0, _packed([]), "", 0, BOARD_PLAYERS_MAX])

    async def list_boards(self, experiences: Iterable[str]) -> tuple[int, dict[str, list[str]]]:
        """The time by the clock of Redis in ms, and which boards each of these experiences has, if any."""
        names = list(experiences)

        async def ask() -> list[Any]:
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.time()
                for name in names:
                    pipeline.zrange(boards_key(name), 0, 2 * BOARDS_MAX)
                answered: list[Any] = await pipeline.execute()
                return answered

        (seconds, microseconds), *found = await self._call("list_boards", ask)
        boards = {
            name: [member.decode() for member in members] for name, members in zip(names, found, strict=True) if members
        }
        return int(seconds) * 1000 + int(microseconds) // 1000, boards

    async def note_scores(self, experience: str, board: str, scores: Sequence[Score], began_ms: int) -> int:
        """
        Write to a board what was saved, unless something newer is known; -1 when there is no such board. `began_ms`: a
        time by the clock of Redis before the save began; who was erased since stays away.
        """
        keys = [*self._board_keys(experience, board), FENCE_KEY]
        noted = 0
        for first in range(0, len(scores), ROWS_AT_ONCE):
            some = _packed(scores[first : first + ROWS_AT_ONCE])
            reply = await self._run("note_scores", keys, [board, began_ms, some, BOARD_PLAYERS_MAX, BOARD_VERSIONS_MAX])
            if reply < 0:
                return -1
            noted += reply
        return noted

    async def forget_scores(self, user_id: str, experiences: Iterable[str]) -> None:
        """Take a player off all boards of these experiences. What would come back later is kept away by the fence."""
        _, boards = await self.list_boards(experiences)

        async def forget() -> None:
            async with self._client.pipeline(transaction=False) as pipeline:
                for experience, names in boards.items():
                    for name in names:
                        pipeline.zrem(board_key(experience, name), user_id)
                        pipeline.hdel(board_versions_key(experience, name), user_id)
                await pipeline.execute()

        if boards:
            await self._call("forget_scores", forget)

    @staticmethod
    def _board_keys(experience: str, board: str) -> list[str]:
        return [board_key(experience, board), board_versions_key(experience, board), boards_key(experience)]


def _packed(scores: Sequence[Score]) -> bytes:
    packed: bytes = pack([fact for score in scores for fact in score])
    return packed


def _whole(score: bytes) -> int:
    """Redis writes a double as short as it can, perhaps with an exponent; each of ours is a whole number."""
    return int(float(score))
