"""
Leaderboards: who has the most, and where somebody stands. The board is in Redis; one that is not there is filled from
Postgres, by one asker on one node, while everybody else waits for it.

Promise: a question ends within `WAIT_S` and the deadlines of the stores. While Postgres is away, boards that are there
answer; others raise StoreUnavailable. An experience has at most `BOARDS_MAX` boards at a time, each of at most
`BOARD_PLAYERS_MAX` players: whoever is lower is told the score and no place.

Not here: the board itself (persistence.hot.boards), what flushers write to it (persistence.flusher.scores).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass

from persistence.board import Board
from persistence.cold.queries import queries
from persistence.cold.store import ColdStore
from persistence.errors import PersistenceError, StoreUnavailable
from persistence.hot.boards import BOARD_PLAYERS_MAX, BoardAbsent, BoardView, Score
from persistence.hot.store import HotStore
from protocol.limits import COUNTER_SCALE
from protocol.state import split_state

WAIT_S = 2.0
"""How long an asker waits for a board that somebody else fills."""

POLLS_S = (0.05, 0.25)
"""How often a node looks whether a board is there: first, and at most."""

PLAYERS_READ_MAX = 2_000_000
"""Of those who played last, for boards of columns: an index of 100 MB, a second or two."""

STATES_READ_MAX = 200_000
"""Of those who played last, for boards of counters: each state is read whole, about a second in all."""

WIDTH = 2
"""Questions to Redis at once, of one node: boards are looked at by many at the same time, and can wait."""


@dataclass(frozen=True, slots=True)
class Standing:
    """`rank` counts those with a higher score, so equal scores share one; None below the board. Score in millionths."""

    user_id: str
    score: int
    rank: int | None


@dataclass(frozen=True, slots=True)
class BoardPage:
    """`me` is None for who is on no place: no score above 0."""

    rows: list[Standing]
    me: Standing | None


class Leaderboards:
    """Safe for many tasks of one event loop."""

    def __init__(self, hot: HotStore, cold: ColdStore) -> None:
        self._hot = hot
        self._cold = cold
        self._sql = queries("boards")
        self._free = asyncio.Semaphore(WIDTH)
        self._flights: dict[tuple[str, Board], asyncio.Task[None]] = {}

    async def read(self, experience: str, board: Board, user_id: str, limit: int) -> BoardPage:
        """
        The first `limit` places, and that of `user_id`.

        Raises:
            StoreUnavailable, StoreFull: the board is not there and could not be filled in time.
        """
        view = await self._open(experience, board, user_id, limit)
        if not isinstance(view, BoardView):
            await self._fill(experience, board)
            view = await self._open(experience, board, user_id, limit)
            if not isinstance(view, BoardView):
                raise StoreUnavailable("redis", "open_board", "the board went as it came")
        rows: list[Standing] = []
        for place, (player, score) in enumerate(view.rows, 1):
            rank = rows[-1].rank if rows and rows[-1].score == score else place
            rows.append(Standing(player, score, rank))
        return BoardPage(rows, await self._place(experience, board, user_id, view))

    async def close(self) -> None:
        """End what is being filled; its lease lapses."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        if flights:
            await asyncio.wait(flights, timeout=1.0)

    async def _open(
        self, experience: str, board: Board, user_id: str, limit: int, lease: str | None = None
    ) -> BoardView | BoardAbsent:
        """Without a lease a board that is not there is only said to be so: `_fill` takes it."""
        async with self._free:
            return await self._hot.open_board(experience, board, user_id, limit, lease or "")

    async def _place(self, experience: str, board: Board, user_id: str, view: BoardView) -> Standing | None:
        if view.score is not None:
            return Standing(user_id, view.score, view.above + 1)
        if view.floor == 0:
            return None
        # The board is full. Who is as good as its last player shares that place; who is lower has one that nobody
        # counts.
        try:
            score = await self._find_score(experience, board, user_id)
        except PersistenceError:
            return None  # the board still answers while Postgres is away
        if score <= 0:
            return None
        return Standing(user_id, score, view.above + 1 if score == view.floor else None)

    # --- filling ---------------------------------------------------------------------------------------------------

    async def _fill(self, experience: str, board: Board) -> None:
        """Return when the board is there; one flight for all askers of this node."""
        key = (experience, board)
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.get_running_loop().create_task(self._fly(experience, board), name=f"board {board.name}")
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._land(key, done))
        # Shielded: whoever asked first may be cancelled, the others still wait.
        await asyncio.shield(flight)

    def _land(self, key: tuple[str, Board], flight: asyncio.Task[None]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # told to those who waited; if nobody did, it is nobody's business

    async def _fly(self, experience: str, board: Board) -> None:
        lease = secrets.token_hex(8)
        deadline = time.monotonic() + WAIT_S
        pause_s, pause_max_s = POLLS_S
        while True:
            opened = await self._open(experience, board, "", 1, lease)
            if isinstance(opened, BoardView):
                return
            if opened.is_refused:
                raise StoreUnavailable("redis", "open_board", "the experience has too many boards at the moment")
            if opened.is_ours:
                try:
                    read_ms = await self._hot.time_ms()
                    scores = await self._list_scores(experience, board)
                except BaseException:
                    # Nobody needs to wait for a lease that nobody uses.
                    with suppress(PersistenceError):
                        await self._hot.release_board(experience, board, lease)
                    raise
                if not await self._hot.fill_board(experience, board, lease, scores, read_ms):
                    raise StoreUnavailable("redis", "fill_board", "it took longer than the lease")
                return
            if time.monotonic() + pause_s > deadline:
                raise StoreUnavailable("redis", "open_board", "the board is being filled")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, pause_max_s)

    async def _list_scores(self, experience: str, board: Board) -> list[Score]:
        players_max = STATES_READ_MAX if board.kind == "counter" else PLAYERS_READ_MAX
        args: list[object] = [experience, BOARD_PLAYERS_MAX, players_max]
        if board.kind == "counter":
            args += [board.path[0], board.path[1] if len(board.path) > 1 else None]
        sql = self._sql[f"list_{board.kind}_scores"]
        rows = await self._cold.call("list_scores", lambda connection: connection.fetch(sql, *args))
        return [(str(row["user_id"]), row["version"], row["score"]) for row in rows]

    async def _find_score(self, experience: str, board: Board, user_id: str) -> int:
        row = await self._cold.call(
            "find_standing", lambda connection: connection.fetchrow(self._sql["find_standing"], user_id, experience)
        )
        if row is None:
            return 0
        if board.kind == "distance":
            return int(row["distance_micrometers"])
        if board.kind == "completion":
            return round(float(row["completion_percentage"]) * COUNTER_SCALE)
        with suppress(ValueError):
            return int(split_state(row["state"], row["kinds"]).get(f"c:{'.'.join(board.path)}", b"0"))
        return 0
