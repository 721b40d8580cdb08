"""
What operators do: POST /api/v1/actions and what belongs to it. Every action goes through here, from the console and
from the command line.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from pydantic import BaseModel, Field

from gateway.liveops.access import require_role
from gateway.liveops.actions import LiveOpsActions
from gateway.liveops.actions.catalogue import ACTIONS
from gateway.liveops.actions.shapes import ban_item
from gateway.liveops.services import Services, get_services
from gateway.liveops.shapes import Cursor, Limit, iso, iso_ms, make_cursor, parse_place, read_cursor
from persistence.actions.bans import Bans
from persistence.actions.maintenance import find_maintenance, find_maintenance_end
from persistence.operators import Operator

router = APIRouter(prefix="/api/v1", tags=["actions"])


def get_actions(request: Request) -> LiveOpsActions:
    actions: LiveOpsActions = request.app.state.services.extras["actions"]
    return actions


Actions = Annotated[LiveOpsActions, Depends(get_actions)]
Shared = Annotated[Services, Depends(get_services)]
Viewer = Annotated[Operator, Depends(require_role("viewer"))]
# The least that any action takes; each says how much more.
Support = Annotated[Operator, Depends(require_role("support"))]
IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", max_length=200, description="the same key is the same action")
]


class Asked(BaseModel):
    action: str = Field(max_length=50, examples=["grant_item"])
    target: dict[str, Any] = Field(default_factory=dict, examples=[{"player": "…", "experience": "wylding-woods"}])
    payload: dict[str, Any] = Field(default_factory=dict, examples=[{"item": "brass_key"}])
    reason: str = Field("", max_length=1000, description="why; it stands in the audit log")
    dry_run: bool = Field(False, description="only say what would be there before and after")


class Undo(BaseModel):
    reason: str = Field("", max_length=1000)
    dry_run: bool = False


@router.get("/actions")
async def list_actions(operator: Viewer) -> dict[str, Any]:
    """What there is: each action with the role that it takes, for whom, and with what."""
    items = [
        {
            "action": kind.name,
            "role": kind.role.label,
            "wide_role": kind.wide_role.label if kind.wide_role is not None else None,
            "target": kind.target.value,
            "payload": kind.takes,
            "undo": kind.undo or None,
            "allowed": operator.role >= kind.role,
        }
        for kind in ACTIONS.values()
    ]
    return {"items": items, "next_cursor": None}


@router.post("/actions")
async def act(actions: Actions, operator: Support, asked: Asked, key: IdempotencyKey = None) -> dict[str, Any]:
    """Do something, or with `dry_run` only preview it. `requested`: it goes on; ask for the id until it ends."""
    wanted = await actions.check(operator, asked.action, asked.target, asked.payload, asked.reason, key)
    if asked.dry_run:
        return await actions.preview(operator, wanted)
    return await actions.submit(operator, wanted)


@router.get("/actions/{action_id}")
async def get_action(actions: Actions, operator: Viewer, action_id: uuid.UUID) -> dict[str, Any]:
    """What became of an action."""
    return await actions.find(str(action_id))


@router.post("/actions/{action_id}/undo")
async def undo_action(
    actions: Actions, operator: Support, action_id: uuid.UUID, asked: Undo, key: IdempotencyKey = None
) -> dict[str, Any]:
    """Take an action back: the inverse of what it really did. 409 when the state has moved on."""
    return await actions.undo(operator, str(action_id), asked.reason, key, dry_run=asked.dry_run)


@router.get("/bans")
async def list_bans(services: Shared, operator: Viewer, limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
    """Who may not play, the newest ban first."""
    place = read_cursor(cursor, str, str)
    before = None if place is None else parse_place(place[0], place[1])
    page, following = await Bans(services.cold).list_page(limit, before)
    next_cursor = None if following is None else make_cursor(following[0].isoformat(), following[1])
    return {"items": [ban_item(ban) for ban in page], "next_cursor": next_cursor}


@router.get("/maintenance")
async def get_maintenance(services: Shared, operator: Viewer) -> dict[str, Any]:
    """Whether players are asked to wait, from when, and until when (null: until somebody ends it)."""
    held = await find_maintenance(services.cold)
    if held is None or not held.is_on:
        return {"on": False, "at": None, "until": None, "message": "" if held is None else held.message}
    end = await find_maintenance_end(services.cold)
    return {
        "on": True,
        "at": iso_ms(held.starts_ms),
        "until": None if end is None else iso(end.until),
        "message": held.message,
        "since": iso_ms(held.asked_us / 1000),
    }
