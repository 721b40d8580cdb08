"""What is stored: experiences, analytics, what Postgres refused, what operators did."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from gateway.liveops.access import require_role
from gateway.liveops.actions.shapes import audit_item
from gateway.liveops.errors import not_found
from gateway.liveops.services import Services, get_services
from gateway.liveops.shapes import (
    Cursor,
    Limit,
    UserId,
    iso,
    make_cursor,
    parse_instant,
    parse_place,
    parse_player,
    read_cursor,
)
from persistence.actions.shapes import action_of
from persistence.cold.queries import queries
from persistence.dead_letters import DeadLetters
from persistence.operators import Operator
from protocol.experience import ExperienceDefinition

router = APIRouter(prefix="/api/v1", tags=["data"])

Shared = Annotated[Services, Depends(get_services)]
Viewer = Annotated[Operator, Depends(require_role("viewer"))]
Name = Annotated[str, Query(max_length=200)]

QUESTIONS = (
    "engagement",
    "ranking",
    "funnel",
    "retention",
    "completion",
    "playtime",
    "sessions",
    "dropoff",
    "active",
    "contents",
)
_END_AT = datetime(9999, 1, 1, tzinfo=UTC)
_BEGIN_AT = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_ID = str(uuid.UUID(int=2**128 - 1))
_LAST_NUMBER = 2**63 - 1

_sql = queries("live_ops")


@router.get("/experiences")
async def list_experiences(services: Shared, operator: Viewer) -> dict[str, Any]:
    """What there is to play: by definition, or because somebody has played it."""
    seen = set(await services.analytics.list_experiences())
    names = sorted(seen | set(services.definitions))[:1000]
    items = [
        {
            "experience": name,
            "title": services.definitions[name].name if name in services.definitions else None,
            "is_played": name in seen,
            "definition": _show_definition(services.definitions[name]) if name in services.definitions else None,
        }
        for name in names
    ]
    return {"items": items, "next_cursor": None}


@router.get("/analytics/{question}")
async def ask_analytics(request: Request, services: Shared, operator: Viewer, question: str) -> dict[str, Any]:
    """
    As `wayhold analytics QUESTION --json`, with its arguments as parameters: experience, from, to, content (of
    engagement), steps (of funnel, by commas), type, top, players, bounds, idle_days.
    """
    if question not in QUESTIONS:
        raise not_found(f"there is no question {question[:40]!r}", f"ask one of {', '.join(QUESTIONS)}")
    given = {name: value for name, value in request.query_params.items() if len(value) <= 4_000}
    return await services.answer_analytics(question, given)


@router.get("/dead-letters")
async def list_dead_letters(services: Shared, operator: Viewer, limit: Limit = 100) -> dict[str, Any]:
    """Events that Postgres refused, the newest."""
    async with DeadLetters(services.database_url) as letters:
        found = await letters.list_newest(limit)
    items = [
        {
            "id": letter.id,
            "player": letter.user_id,
            "experience": letter.experience,
            "device": letter.device,
            "seq": letter.seq,
            "type": letter.event_type,
            "content_id": letter.content_id,
            "payload": letter.data_json[:4_000],
            "reason": letter.reason,
            "sqlstate": letter.sqlstate,
            "created_at": iso(letter.created_at),
        }
        for letter in found
    ]
    return {"items": items, "next_cursor": None}


@router.get("/quarantine")
async def list_quarantine(services: Shared, operator: Viewer, limit: Limit = 200) -> dict[str, Any]:
    """Progress that is not being saved, because Postgres refuses it."""
    found = await services.hot.list_quarantined(limit)
    items = [
        {"progress": key.member, "player": key.user_id, "experience": key.experience, "reason": reason}
        for key, reason in found[:limit]
    ]
    return {"items": items, "next_cursor": None}


@router.get("/audit")
async def list_audit(
    services: Shared,
    operator: Viewer,
    by: Annotated[str, Query(alias="operator", max_length=200)] = "",
    action: Annotated[str, Query(max_length=50)] = "",
    player: Annotated[str, Query(max_length=36)] = "",
    since: Annotated[str | None, Query(alias="from", max_length=40)] = None,
    until: Annotated[str | None, Query(alias="to", max_length=40)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """What operators did, newest first: actions, and signing in, exports, looks at exact places, changed accounts."""
    user = uuid.UUID(parse_player(player)) if player else None
    return await _audit(services, by, action, user, since, until, limit, cursor)


@router.get("/players/{user_id}/actions", tags=["players"])
async def list_player_actions(
    services: Shared, operator: Viewer, user_id: UserId, limit: Limit = 50, cursor: Cursor = None
) -> dict[str, Any]:
    """What was done to or looked at of this player, newest first."""
    return await _audit(services, "", "", user_id, None, None, limit, cursor)


async def _audit(
    services: Services,
    by: str,
    what: str,
    user: uuid.UUID | None,
    since: str | None,
    until: str | None,
    limit: int,
    cursor: str | None,
) -> dict[str, Any]:
    begin = parse_instant("from", since) or _BEGIN_AT
    end = (parse_instant("to", until) or _END_AT).isoformat()
    # Two tables in one order: each has a place of its own.
    place = read_cursor(cursor, str, str, str, int) or [end, _LAST_ID, end, _LAST_NUMBER]
    actions_at, last_action = parse_place(place[0], place[1])
    logged_at = parse_instant("cursor", place[2]) or _BEGIN_AT
    chosen: tuple[Any, ...] = (begin, by or None, what or None, limit + 1)
    of_player = ""
    if user is not None:
        chosen, of_player = (*chosen, user), "_of_player"

    async def read(connection: Any) -> Any:
        actions = await connection.fetch(_sql["list_audited_actions" + of_player], actions_at, last_action, *chosen)
        logged = await connection.fetch(_sql["list_operator_log" + of_player], logged_at, place[3], *chosen)
        undone = await connection.fetch(_sql["list_undone"], [row["id"] for row in actions])
        return actions, logged, {row["undo_of"]: str(row["id"]) for row in undone}

    actions, logged, undone = await services.cold.call("list_audit", read)
    merged = sorted(
        [(row["created_at"], "action", row) for row in actions] + [(row["at"], "log", row) for row in logged],
        key=lambda one: one[0],
        reverse=True,
    )
    items = []
    for at, kind, row in merged[:limit]:
        if kind == "action":
            items.append(audit_item(action_of(row), undone.get(row["id"])))
            place[0], place[1] = at.isoformat(), str(row["id"])
        else:
            items.append(_show_logged(row))
            place[2], place[3] = at.isoformat(), row["id"]
    return {"items": items, "next_cursor": make_cursor(*place) if len(merged) > limit else None}


def _show_logged(row: Any) -> dict[str, Any]:
    details = json.loads(row["details"])
    return {
        "id": f"log-{row['id']}",
        "at": iso(row["at"]),
        "operator": row["operator"],
        "role": row["role"],
        "action": row["what"],
        "player": None if row["user_id"] is None else str(row["user_id"]),
        "experience": None,
        "target": None,
        "payload": details | ({"address": row["address"]} if row["address"] else {}),
        "reason": "",
        "state": "done",
        "message": None,
        "done_at": iso(row["at"]),
        **dict.fromkeys(("undo_of", "undone_by", "undo")),
    }


def _show_definition(definition: ExperienceDefinition) -> dict[str, Any]:
    things = {
        name: [{"id": thing.id, "name": thing.name} for thing in getattr(definition, name, ())]
        for name in ("quests", "items", "achievements")
    }
    return {
        "waypoints": [
            {
                "id": waypoint.id,
                "name": waypoint.name,
                "lat": waypoint.lat,
                "lng": waypoint.lng,
                "radius_m": waypoint.radius_m,
            }
            for waypoint in definition.waypoints
        ],
        **things,
    }
