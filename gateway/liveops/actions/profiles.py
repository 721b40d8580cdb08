"""
Editing what a profile says beside what is computed: keys of `stats`. In one transaction with the row of the action,
which keeps what was there before.
"""

from __future__ import annotations

import json
from typing import Any

from persistence.actions.shapes import Action
from persistence.cold.queries import queries
from persistence.cold.store import ColdStore

STATS_BYTES_MAX = 64 * 1024


async def patch_profile(cold: ColdStore, action: Action) -> None:
    """
    Set or remove (null) keys; refuse it when a key does not hold what the action `expects` (an undo), or when there
    would be too much. Repeating it changes nothing.
    """
    sql = queries("profiles")
    patch: dict[str, Any] = action.payload["details"]["payload"]["stats"]
    expects: dict[str, Any] | None = action.payload["details"].get("expects_stats")

    async def patch_once(connection: Any) -> None:
        async with connection.transaction():
            if not await connection.fetchval(sql["lock_requested"], action.id):
                return
            held = await connection.fetchval(sql["lock_stats"], action.user_id)
            state, message, before = "refused", None, None
            if held is None:
                message = "this player has no profile"
            else:
                stats: dict[str, Any] = json.loads(held)
                before = {key: stats.get(key) for key in patch}
                moved = [key for key in patch if expects is not None and stats.get(key) != expects.get(key)]
                stats = {key: value for key, value in (stats | patch).items() if value is not None or key not in patch}
                text = json.dumps(stats, ensure_ascii=False)
                if moved:
                    message = f"the profile has moved on: {', '.join(sorted(moved))}"
                elif len(text.encode()) > STATS_BYTES_MAX:
                    message = f"the stats would have more than {STATS_BYTES_MAX} bytes"
                else:
                    state = "done"
                    await connection.execute(sql["put_stats"], action.user_id, text)
                    await connection.execute(
                        queries("actions")["note_before"], action.id, json.dumps({"stats": before}, ensure_ascii=False)
                    )
            await connection.execute(
                queries("actions")["mark_actions"],
                [action.id],
                [state],
                [None if message is None else message[:500]],
                [None],
            )

    await cold.call("patch_profile", patch_once)
