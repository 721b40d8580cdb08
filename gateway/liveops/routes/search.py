"""
Finding a player with every letter that is typed: the one request that must be quick while ten thousand play.

One question instead of a page of sessions and a page of players: it carries what a list of choices shows and nothing
that would have to be looked up for each of them.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from gateway.liveops.access import require_role
from gateway.liveops.live.table import STATES
from gateway.liveops.services import Services, get_services
from gateway.liveops.shapes import find_ids
from persistence.cold.queries import queries
from persistence.errors import StoreUnavailable
from persistence.operators import Operator

router = APIRouter(prefix="/api/v1", tags=["players"])

FOUND_MAX = 50
_AWAY: dict[str, Any] = {"is_here": False, "state": None, "experience": None, "device": None, "is_by_id": True}


@router.get("/search")
async def search(
    services: Annotated[Services, Depends(get_services)],
    operator: Annotated[Operator, Depends(require_role("viewer"))],
    text: Annotated[str, Query(min_length=1, max_length=100, description="begin of an id, or part of a device")],
    limit: Annotated[int, Query(ge=1, le=FOUND_MAX)] = 8,
) -> dict[str, Any]:
    """
    Whom somebody means: players whose id begins so, those who are there now first; then sessions whose id begins so or
    whose device has it in its name (`is_by_id` false). Without Postgres only who is there now: see `unavailable`.
    """
    text = text.strip().lower()
    table = await services.hub.get_table()
    rows = table.snapshot(services.clock()).list_meant(text, limit) if text else []
    items: list[dict[str, Any]] = [
        {
            "user_id": row.user_id,
            "is_here": True,
            "state": STATES[row.state],
            "experience": row.experience,
            "device": row.device,
            "is_by_id": row.user_id.startswith(text),
        }
        for row in rows
    ]
    here = {row.user_id for row in rows}
    missing = limit - sum(row.user_id.startswith(text) for row in rows)
    unavailable = []
    if text and missing > 0 and (ids := find_ids(text)) is not None:
        sql = queries("live_ops")["list_players"]
        try:
            found = await services.cold.call("list_players", lambda c: c.fetch(sql, *ids, None, limit + len(here)))
        except StoreUnavailable:
            unavailable.append("postgresql")
        else:
            away = [user_id for user_id in (str(row["id"]) for row in found) if user_id not in here]
            items += [{"user_id": user_id, **_AWAY} for user_id in away[:missing]]
            # Of equals those who are there stay first: the order is stable.
            items.sort(key=lambda item: not item["is_by_id"])
    return {"items": items[:limit], "unavailable": unavailable}
