"""
The journal of actions: `liveops_actions` in Postgres. Asking is writing a row; nothing is applied that has none.

Promise: a request that was written is applied, whoever dies, or refused with the reason. Asked again with the same id
it is the same action. Actions on a progress get their numbers one after the other, under its row lock.

Not here: applying (issuer.py); marking what was saved (the flush does, with `mark_actions`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg

from persistence.actions.shapes import MESSAGE_CHARS_MAX, Action, ActionRequest, ActionState, InvalidAction, action_of
from persistence.cold.queries import queries
from persistence.cold.store import ColdStore
from persistence.errors import ActionsWaiting, ProgressMissing, UndoneAlready
from persistence.progress_key import ProgressKey

UNIQUE_VIOLATION = "23505"

WAITING_MAX = 1_000
"""Actions of one progress that may wait to be saved; past it the next is refused at once."""

_BEGINNING = (datetime(1, 1, 1, tzinfo=UTC), str(uuid.UUID(int=0)))
_END = (datetime(9999, 1, 1, tzinfo=UTC), str(uuid.UUID(int=2**128 - 1)))

Place = tuple[datetime, str]
"""Where a page ends: (created_at, id) of its last row."""


class ActionJournal:
    """Reads and writes through the connections of a cold store."""

    def __init__(self, cold: ColdStore) -> None:
        self._cold = cold
        self._sql = queries("actions")

    async def request(self, key: ProgressKey, request: ActionRequest) -> Action:
        """
        Write down that an action on a progress is wanted. Repeating it is harmless.

        Raises:
            InvalidAction: it can never be done, or its id is taken by another action.
            ProgressMissing: this player has never been in this experience.
            ActionsWaiting: too many actions on this progress wait already.
            StoreUnavailable: it may have been written; ask again with the same id.
        """
        payload = request.payload_json()
        row = await self._cold.call(
            "request_action",
            lambda c: _refused_as(
                {"WH001": ActionsWaiting, UNIQUE_VIOLATION: UndoneAlready},
                c.fetchrow(
                    self._sql["request_action"],
                    request.id,
                    key.user_id,
                    key.experience,
                    request.operator,
                    request.role,
                    request.action,
                    payload,
                    request.reason,
                    WAITING_MAX,
                ),
            ),
        )
        if row is None:
            raise ProgressMissing(key)
        action = action_of(row)
        if action.row_id is None or action.key != key or action.action != request.action:
            raise InvalidAction(102, "id: is that of another action")
        return action

    async def insert(
        self, request: ActionRequest, *, user_id: str | None = None, experience: str | None = None
    ) -> Action:
        """
        Write down an action that is no step of a progress: a message, a ban. Whoever executes it marks it.

        Raises:
            InvalidAction: it can never be done, its id is taken, or there is no such player.
            StoreUnavailable: it may have been written; ask again with the same id.
        """
        payload = request.payload_json()
        row = await self._cold.call(
            "insert_action",
            lambda c: _refused_as(
                {UNIQUE_VIOLATION: UndoneAlready},
                c.fetchrow(
                    self._sql["insert_action"],
                    request.id,
                    user_id,
                    experience,
                    request.operator,
                    request.role,
                    request.action,
                    payload,
                    request.reason,
                ),
            ),
        )
        action = await self.find(request.id) if row is None else action_of(row)
        if action is None or (action.user_id, action.action) != (user_id, request.action):
            raise InvalidAction(102, "there is no such player, or the id is that of another action")
        return action

    async def find(self, action_id: str) -> Action | None:
        row = await self._cold.call("find_action", lambda c: c.fetchrow(self._sql["find_action"], action_id))
        return None if row is None else action_of(row)

    async def list_requested(self, row_id: str, limit: int) -> list[Action]:
        """Actions on a progress that are not saved, in the order in which they must be applied."""
        rows = await self._cold.call(
            "list_requested_actions", lambda c: c.fetch(self._sql["list_requested_actions"], row_id, limit)
        )
        return [action_of(row) for row in rows]

    async def list_waiting(
        self, older_than_s: float, limit: int, after: Place | None = None
    ) -> tuple[list[tuple[ProgressKey, str]], Place | None]:
        """
        A page of progress (with their row ids) that have actions which were asked for a while ago and are not saved,
        the longest waiting first, and where the next page begins (None: that was all).
        """
        created_at, action_id = after or _BEGINNING
        rows = await self._cold.call(
            "list_waiting_actions",
            lambda c: c.fetch(self._sql["list_waiting_actions"], older_than_s, created_at, action_id, limit),
        )
        waiting = {
            ProgressKey(str(row["user_id"]), row["experience_id"]): row["experience_progress_id"].hex for row in rows
        }
        place = (rows[-1]["created_at"], str(rows[-1]["id"])) if len(rows) == limit else None
        return list(waiting.items()), place

    async def note_before(self, action_id: str, version: int, fields: dict[str, str | None]) -> None:
        """
        What an action found when it was applied as `version`. Said again when it is applied again, to a copy that had
        forgotten it.
        """
        await self._cold.call(
            "note_before",
            lambda c: c.execute(
                self._sql["note_before"],
                action_id,
                json.dumps({"version": version, "fields": fields}, ensure_ascii=False),
            ),
        )

    async def find_undo(self, action_id: str) -> Action | None:
        """The action that took this one back, or is about to."""
        row = await self._cold.call("find_undo", lambda c: c.fetchrow(self._sql["find_undo"], action_id))
        return None if row is None else action_of(row)

    async def list_unexecuted(
        self, older_than_s: float, limit: int, after: Place | None = None
    ) -> tuple[list[Action], Place | None]:
        """
        A page of actions that are no step of a progress and were asked for a while ago (their executor died, or waits),
        oldest first, and where the next page begins (None: that was all).
        """
        created_at, action_id = after or _BEGINNING
        rows = await self._cold.call(
            "list_unexecuted_actions",
            lambda c: c.fetch(self._sql["list_unexecuted_actions"], older_than_s, created_at, action_id, limit),
        )
        actions = [action_of(row) for row in rows]
        return actions, (actions[-1].created_at, actions[-1].id) if len(actions) == limit else None

    async def is_drain_overtaken(self, action: Action, node: str) -> bool:
        """Whether somebody has asked for something else of this gateway since."""
        return bool(
            await self._cold.call(
                "is_drain_overtaken",
                lambda c: c.fetchval(self._sql["is_drain_overtaken"], action.created_at, action.id, node),
            )
        )

    async def mark(
        self, action_id: str, state: ActionState, message: str | None = None, result: dict[str, Any] | None = None
    ) -> None:
        """Say what became of an action that no flush saves. The first word stays."""
        await self._cold.call(
            "mark_actions",
            lambda c: c.execute(
                self._sql["mark_actions"],
                [action_id],
                [state],
                [None if message is None else message[:MESSAGE_CHARS_MAX]],
                [None if result is None else json.dumps(result)],
            ),
        )

    async def refuse_overtaken(self, row_id: str) -> Sequence[str]:
        """
        Refuse actions on a progress whose number was saved by another action: Postgres lost commits in between. Returns
        their ids.
        """
        rows = await self._cold.call(
            "refuse_overtaken_actions", lambda c: c.fetch(self._sql["refuse_overtaken_actions"], row_id)
        )
        return [str(row["id"]) for row in rows]

    async def list_newest(
        self, limit: int, *, user_id: str | None = None, before: Place | None = None
    ) -> tuple[list[Action], Place | None]:
        """
        A page of the audit log (of one player), newest first, and where the next page begins (None: that was all).
        """
        created_at, action_id = before or _END
        if user_id is None:
            rows = await self._cold.call(
                "list_actions", lambda c: c.fetch(self._sql["list_actions"], created_at, action_id, limit)
            )
        else:
            rows = await self._cold.call(
                "list_player_actions",
                lambda c: c.fetch(self._sql["list_player_actions"], user_id, created_at, action_id, limit),
            )
        actions = [action_of(row) for row in rows]
        return actions, (actions[-1].created_at, actions[-1].id) if len(actions) == limit else None


async def _refused_as(errors: dict[str, type[Exception]], call: Any) -> Any:
    try:
        return await call
    except asyncpg.PostgresError as refused:
        if (error := errors.get(str(refused.sqlstate))) is not None:
            raise error from None
        raise
