"""
Reading the progress of players: what is accepted from Redis, or from Postgres when nothing of it is hot; what is
saved from Postgres.

Promise: no read opens a session or makes a row. One that misses warms Redis for the next one, unless Redis has no room.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from persistence.actions.issuer import Hydrate
from persistence.board import DISTANCE, parse_board
from persistence.cold.shapes import HistoryFilter
from persistence.cold.store import ColdStore
from persistence.errors import ProgressMissing
from persistence.hot.store import HotStore
from persistence.leaderboards import Leaderboards
from persistence.player_progress.shapes import (
    HistoryPage,
    Leaderboard,
    PlayerState,
    canonical_experience,
    canonical_user_id,
    check_limit,
    leaderboard_row,
    place_of,
    progress_key,
    version_of,
)
from persistence.progress_key import ProgressKey
from persistence.warmer import Warmer
from protocol.limits import OPS_DEVICE
from protocol.state import document, split_state

WARM_SHARE_MAX = 0.6
"""
Part of Redis' memory past which a read warms nothing: room is for those who play. Below the share at which new sessions
are refused.
"""

MEMORY_LOOK_S = 5.0
NOBODY = str(uuid.UUID(int=0))
"""Who asks for a leaderboard without a place of their own."""

T = TypeVar("T")


class ProgressReader:
    """
    Safe for many tasks of one event loop. `hydrate` makes progress hot (a gateway gives its own); `on_read` hears of
    every read of a state if it was hot.
    """

    def __init__(
        self,
        hot: HotStore,
        cold: ColdStore,
        *,
        hydrate: Hydrate | None = None,
        boards: Leaderboards | None = None,
        on_read: Callable[[bool], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hot = hot
        self._cold = cold
        self._warmer = Warmer(hot, cold) if hydrate is None else None
        self._hydrate: Hydrate = hydrate if hydrate is not None else self._warmer  # type: ignore[assignment]
        self._own_boards = Leaderboards(hot, cold) if boards is None else None
        self._boards: Leaderboards = boards if boards is not None else self._own_boards  # type: ignore[assignment]
        self._on_read = on_read
        self._clock = clock
        self._memory_due = float("-inf")
        self._has_room = True
        self.reads = 0
        self.hot_reads = 0
        """Reads of a state, and those that found it in Redis: their ratio is the hit rate."""

    async def close(self) -> None:
        """End what is under way. The stores stay whoever's they are."""
        if self._warmer is not None:
            await self._warmer.close()
        if self._own_boards is not None:
            await self._own_boards.close()

    # --- reading what is accepted ----------------------------------------------------------------------------------

    async def get_player_state(self, user_id: str, experience: str, *, warm: bool = True) -> PlayerState:
        """The whole state. Whoever reads many players that are not there says `warm=False`."""
        key = progress_key(user_id, experience)

        async def ask() -> PlayerState | None:
            found = await self._hot.read_progress(key)
            return None if found is None else PlayerState(document(found.fields), found.version)

        return await self._read(
            key, ask, lambda fields, version: PlayerState(document(fields), version), "get_player_state", warm
        )

    async def get_inventory(self, user_id: str, experience: str, *, warm: bool = True) -> list[str]:
        """What the player carries, sorted."""
        return await self._get_members(user_id, experience, "inventory", warm)

    async def list_visited_waypoints(self, user_id: str, experience: str, *, warm: bool = True) -> list[str]:
        """Where the player has been, sorted."""
        return await self._get_members(user_id, experience, "visited_waypoints", warm)

    async def has_visited_waypoint(self, user_id: str, experience: str, waypoint: str, *, warm: bool = True) -> bool:
        key = progress_key(user_id, experience)
        field = f"m:visited_waypoints.{waypoint}"
        return await self._read(
            key,
            lambda: self._hot.has_member(key, "visited_waypoints", waypoint),
            lambda fields, _: field in fields,
            "has_visited_waypoint",
            warm,
        )

    # --- reading what is saved -------------------------------------------------------------------------------------

    async def find_profile(self, user_id: str) -> dict[str, Any] | None:
        """The player across experiences; None for somebody who has never said hello. Times are ms since 1970."""
        return await self._cold.find_profile(canonical_user_id(user_id))

    async def list_history(
        self,
        user_id: str,
        experience: str | None = None,
        *,
        limit: int = 20,
        cursor: str | None = None,
        event_type: str | None = None,
        content_id: str | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
    ) -> HistoryPage:
        """
        A page of at most `limit` (1 to 100) events. Within an experience in the order in which they were accepted,
        over all experiences by when they happened; `since_ms` ≤ when it happened < `until_ms`.
        """
        check_limit(limit)
        if since_ms is not None and until_ms is not None and since_ms >= until_ms:
            raise ValueError("from: must be before to")
        only = HistoryFilter(event_type, content_id, since_ms, until_ms)
        if experience is not None:
            key = progress_key(user_id, experience)
            at = None if cursor is None else version_of(cursor)
            events, following = await self._cold.list_history(key, limit, at, only)
            return HistoryPage(events, None if following is None else str(following))
        place = None if cursor is None else place_of(cursor)
        events, last = await self._cold.list_player_history(canonical_user_id(user_id), limit, place, only)
        return HistoryPage(events, None if last is None else f"{last.timestamp_ms}.{last.row_id}.{last.version}")

    async def list_leaderboard(
        self, experience: str, board: str = DISTANCE, *, limit: int = 10, user_id: str | None = None
    ) -> Leaderboard:
        """
        The first `limit` (1 to 100) places of `distance`, `completion` or the path of a counter, and that of `user_id`.
        Saved scores, a flush behind what is accepted at most.

        Raises:
            ValueError: no counter can have that path, or another argument fits nothing.
            StoreUnavailable, StoreFull: the board is not there and could not be filled in time.
        """
        check_limit(limit)
        asker = NOBODY if user_id is None else canonical_user_id(user_id)
        page = await self._boards.read(canonical_experience(experience), parse_board(board), asker, limit)
        return Leaderboard(
            [leaderboard_row(place) for place in page.rows], None if page.me is None else leaderboard_row(page.me)
        )

    async def count_active_players(self, experience: str | None = None) -> int:
        """Players that were heard in the last 30 minutes, in one experience or all."""
        if experience is None:
            return await self._hot.count_all_active_players()
        return await self._hot.count_active_players(experience)

    # --- how a read goes -------------------------------------------------------------------------------------------

    async def _get_members(self, user_id: str, experience: str, name: str, warm: bool) -> list[str]:
        key = progress_key(user_id, experience)
        prefix = f"m:{name}."
        return await self._read(
            key,
            lambda: self._hot.find_members(key, name),
            lambda fields, _: sorted(field[len(prefix) :] for field in fields if field.startswith(prefix)),
            f"list_{name}",
            warm,
        )

    async def _read(
        self,
        key: ProgressKey,
        ask: Callable[[], Awaitable[T | None]],
        of_fields: Callable[[dict[str, bytes], int], T],
        operation: str,
        warm: bool,
    ) -> T:
        """Redis first; on a miss Postgres, which then warms Redis; what Redis has by then is newer still."""
        found = await ask()
        self.reads += 1
        self.hot_reads += found is not None
        if self._on_read is not None:
            self._on_read(found is not None)
        if found is not None:
            return found
        if warm and await self._may_warm():
            cold = await self._hydrate.hydrate(key, OPS_DEVICE)
            found = await ask() if cold is not None else None
        else:
            cold = await self._cold.find_progress(key, OPS_DEVICE)
        if cold is None:
            raise ProgressMissing(key)
        if found is not None:
            return found
        return of_fields(split_state(cold.state_json, cold.kinds_json), cold.version)

    async def _may_warm(self) -> bool:
        now = self._clock()
        if now >= self._memory_due:
            self._memory_due = now + MEMORY_LOOK_S
            self._has_room = await self._hot.find_memory_share() < WARM_SHARE_MAX
        return self._has_room
