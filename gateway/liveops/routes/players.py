"""One player: who they are, what they play, what happened, what was done to them."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response, StreamingResponse

from gateway.liveops.access import address_of, require_role
from gateway.liveops.errors import invalid, not_found
from gateway.liveops.live.table import STATES, place_of
from gateway.liveops.precise import look_precisely
from gateway.liveops.services import Services, get_services
from gateway.liveops.shapes import (
    Cursor,
    Limit,
    UserId,
    find_ids,
    iso,
    iso_ms,
    make_cursor,
    parse_instant,
    read_cursor,
)
from persistence.cold.queries import queries
from persistence.connections import Connections
from persistence.errors import PlayerUnknown, StoreUnavailable
from persistence.export import export_player
from persistence.operators import Operator
from persistence.progress_key import ProgressKey
from persistence.viewing import Row
from protocol.closes import close_name
from protocol.limits import QUERY_LIMIT_MAX
from protocol.state import document

router = APIRouter(prefix="/api/v1/players", tags=["players"])

Shared = Annotated[Services, Depends(get_services)]
Viewer = Annotated[Operator, Depends(require_role("viewer"))]
Support = Annotated[Operator, Depends(require_role("support"))]

PROGRESS_MAX = 100
HOT_LOOKS_MAX = 20
DEVICES_MAX = 100
PATH_MAX = 5_000
_END = (datetime(9999, 1, 1, tzinfo=UTC), uuid.UUID(int=2**128 - 1))

_sql = queries("live_ops")


@router.get("")
async def list_players(
    services: Shared,
    operator: Viewer,
    search: Annotated[str, Query(max_length=36, description="the begin of a player's id")] = "",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Players by the begin of their id, whether they are there now or not."""
    ids = find_ids(search.strip().lower())
    if ids is None:
        raise invalid("search: a player's id is made of 0-9, a-f and -", "type the begin of an id")
    place = read_cursor(cursor, str)
    after = None if place is None else _uuid_of(place[0])
    rows = await services.cold.call("list_players", lambda c: c.fetch(_sql["list_players"], *ids, after, limit + 1))
    items = [
        {
            "user_id": str(row["id"]),
            "created_at": iso(row["created_at"]),
            "experiences": row["total_experiences_played"] or 0,
            "playtime_s": row["total_playtime_seconds"] or 0,
            "account_level": row["account_level"],
            "updated_at": iso(row["updated_at"]),
            "is_here": services.hub.table.find(str(row["id"])) is not None,
        }
        for row in rows[:limit]
    ]
    return {"items": items, "next_cursor": make_cursor(items[-1]["user_id"]) if len(rows) > limit else None}


@router.get("/{user_id}")
async def get_player(request: Request, services: Shared, operator: Viewer, user_id: UserId) -> dict[str, Any]:
    """
    Everything at a glance. While a store is away, what the other one knows; `unavailable` names the one that is away.
    """
    player = str(user_id)
    is_precise = await look_precisely(services, operator, "player", player=player, address=address_of(request))
    unavailable = []
    head: dict[str, Any] = {"user_id": player, "created_at": None, "profile": None, "devices": [], "bans": []}
    progress: list[dict[str, Any]] = []
    try:
        found = await _read_cold(services, user_id)
    except StoreUnavailable:
        unavailable.append("postgresql")
    else:
        if found is None:
            raise not_found("there is no such player")
        progress = found.pop("progress")
        head |= found
    try:
        live = await _find_live(services, player, is_precise)
        if live is not None and all(one["experience"] != live["experience"] for one in progress):
            progress.append(_empty_progress(live["experience"]))
        for one in progress[:HOT_LOOKS_MAX]:
            await _add_hot(services, player, one)
    except StoreUnavailable:
        unavailable.append("redis")
        live = None
    if len(unavailable) == 2:
        raise StoreUnavailable("redis", "get_player", "neither store answers")
    return {**head, "progress": progress, "live": live, "unavailable": unavailable}


@router.get("/{user_id}/events")
async def list_events(
    request: Request,
    services: Shared,
    operator: Viewer,
    user_id: UserId,
    experience: Annotated[str, Query(max_length=100)] = "",
    type: Annotated[str, Query(max_length=50)] = "",
    content_id: Annotated[str, Query(max_length=255)] = "",
    since: Annotated[str | None, Query(alias="from", max_length=40)] = None,
    until: Annotated[str | None, Query(alias="to", max_length=40)] = None,
    limit: Annotated[int, Query(ge=1, le=QUERY_LIMIT_MAX)] = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """What happened, newest first, as it is saved; of one experience or of all."""
    is_precise = await look_precisely(services, operator, "events", player=str(user_id), address=address_of(request))
    begin, end = parse_instant("from", since), parse_instant("to", until)
    try:
        page = await services.progress.list_history(
            str(user_id),
            experience or None,
            limit=limit,
            cursor=cursor,
            event_type=type or None,
            content_id=content_id or None,
            since_ms=None if begin is None else int(begin.timestamp() * 1000),
            until_ms=None if end is None else int(end.timestamp() * 1000),
        )
    except ValueError as bad:
        raise invalid(str(bad)) from None
    return {
        "items": [_show_event(event, experience, is_precise) for event in page.events],
        "next_cursor": page.cursor,
    }


@router.get("/{user_id}/sessions")
async def list_sessions(
    services: Shared, operator: Viewer, user_id: UserId, limit: Limit = 50, cursor: Cursor = None
) -> dict[str, Any]:
    """When they played, newest first."""
    place = read_cursor(cursor, str, str)
    at, last = _END if place is None else (parse_instant("cursor", place[0]) or _END[0], _uuid_of(place[1]))
    rows = await services.cold.call(
        "list_sessions_of_player", lambda c: c.fetch(_sql["list_sessions_of_player"], user_id, at, last, limit)
    )
    items = [
        {
            "session_id": str(row["id"]),
            "experience": row["experience_id"],
            "device": row["device_id"],
            "started_at": iso(row["started_at"]),
            "ended_at": iso(row["ended_at"]),
            "end_reason": row["end_reason"],
            "playtime_s": row["playtime_seconds"],
        }
        for row in rows
    ]
    following = None
    if len(rows) == limit:
        following = make_cursor(rows[-1]["started_at"].isoformat(), str(rows[-1]["id"]))
    return {"items": items, "next_cursor": following}


@router.get("/{user_id}/connections")
async def list_connections(
    services: Shared, operator: Viewer, user_id: UserId, limit: Limit = 50, cursor: Cursor = None
) -> dict[str, Any]:
    """How their connections went, the newest first: the one that is open, and those that ended in the last 30 days."""
    place = read_cursor(cursor, int)
    rows = await Connections(services.cold).list_newest(str(user_id), limit, None if place is None else place[0])
    items = [_show_connection(row) for row in rows]
    here = services.hub.table.find(str(user_id))
    if place is None and here is not None and STATES[here.state] != "disconnected":
        items.insert(0, _show_open(here))
    return {"items": items, "next_cursor": make_cursor(rows[-1]["connection"]) if len(rows) == limit else None}


@router.get("/{user_id}/path")
async def list_path(
    request: Request,
    services: Shared,
    operator: Viewer,
    user_id: UserId,
    experience: Annotated[str, Query(min_length=1, max_length=100)],
    since: Annotated[str | None, Query(alias="from", max_length=40)] = None,
    until: Annotated[str | None, Query(alias="to", max_length=40)] = None,
) -> dict[str, Any]:
    """Where they were, oldest first: the newest 5,000 places of the window."""
    is_precise = await look_precisely(services, operator, "path", player=str(user_id), address=address_of(request))
    begin = parse_instant("from", since) or datetime(1970, 1, 1, tzinfo=UTC)
    end = parse_instant("to", until) or _END[0]
    rows = await services.cold.call(
        "list_path", lambda c: c.fetch(_sql["list_path"], user_id, experience, begin, end, PATH_MAX)
    )
    items = []
    for row in reversed(rows):
        lat, lng = place_of(row["location_lat"], row["location_lng"], is_precise)
        items.append({"lat": lat, "lng": lng, "at": iso(row["timestamp"]), "content_id": row["content_id"]})
    return {"items": items, "is_cut": len(rows) == PATH_MAX, "next_cursor": None}


@router.get("/{user_id}/export")
async def export(request: Request, services: Shared, operator: Support, user_id: UserId) -> Response:
    """Everything that is known about a player, as one JSON document. It is written into the audit log first."""
    player = str(user_id)
    pieces = export_player(services.hot, services.database_url, player)
    try:
        first = await anext(pieces)
    except PlayerUnknown:
        raise not_found("there is no such player") from None
    await services.operators.note(
        operator.name, "export", role=operator.role.label, user_id=player, address=address_of(request)
    )

    async def tell() -> AsyncIterator[str]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    return StreamingResponse(
        tell(),
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="player-{player}.json"'},
    )


async def _read_cold(services: Services, user_id: uuid.UUID) -> dict[str, Any] | None:
    async def read(connection: Any) -> Any:
        row = await connection.fetchrow(_sql["find_player"], user_id)
        if row is None:
            return None
        progress = await connection.fetch(_sql["list_progress_of_player"], user_id, PROGRESS_MAX)
        devices = await connection.fetch(_sql["list_devices_of_player"], user_id, DEVICES_MAX)
        return row, progress, devices, await connection.fetchrow(_sql["find_ban_of_player"], user_id)

    found = await services.cold.call("find_player", read)
    if found is None:
        return None
    row, progress, devices, ban = found
    profile = None
    if row["profile_created_at"] is not None:
        profile = {
            name: row[name]
            for name in (
                *("total_experiences_played", "total_playtime_seconds", "total_distance_meters", "account_level"),
            )
        } | {"stats": json.loads(row["stats"]), "updated_at": iso(row["updated_at"])}
    return {
        "created_at": iso(row["created_at"]),
        "profile": profile,
        "progress": [_show_progress(one) for one in progress],
        "devices": [
            {
                "device": one["device_id"],
                "experience": one["experience_id"],
                "last_seq": one["last_seq"],
                "updated_at": iso(one["updated_at"]),
            }
            for one in devices
        ],
        "bans": [] if ban is None else [_show_ban(ban)],
    }


async def _find_live(services: Services, player: str, is_precise: bool) -> dict[str, Any] | None:
    session = await services.hot.find_session(player)
    if session is None:
        return None
    row = services.hub.table.find(player)
    is_known = row is not None and row.session_id == session.id
    facts: dict[str, Any] = {
        "session_id": session.id,
        "experience": session.experience,
        "state": None,
        "node": session.node,
        "device": session.device,
        "connection": session.connection,
        "started_at": iso_ms(session.started_ms),
        "last_activity_at": iso_ms(session.last_activity_ms),
        "lat": None,
        "lng": None,
        "rtt_ms": None,
        "pending": None,
    }
    if row is not None and is_known:
        lat, lng = place_of(row.lat, row.lng, is_precise)
        facts |= {
            "state": STATES[row.state],
            "lat": lat,
            "lng": lng,
            "rtt_ms": row.rtt_ms if row.rtt_ms >= 0 else None,
            "pending": row.accepted - row.saved,
        }
    return facts


async def _add_hot(services: Services, player: str, one: dict[str, Any]) -> None:
    """The state as it is accepted, where there is a hot copy."""
    hot = await services.hot.find_progress(ProgressKey(player, one["experience"]))
    if hot is None:
        return
    one |= {
        "state": document(hot.fields),
        "version": hot.version,
        "saved_version": hot.base_version,
        "pending": hot.version - hot.base_version,
        "is_hot": True,
        "quarantine": {"reason": hot.quarantine, "version": hot.version} if hot.quarantine else None,
    }


def _show_progress(row: Any) -> dict[str, Any]:
    return _empty_progress(row["experience_id"]) | {
        "progress_id": str(row["id"]),
        "version": row["version"],
        "saved_version": row["version"],
        "completion_percentage": row["completion_percentage"],
        "completed_at": iso(row["completed_at"]),
        "started_at": iso(row["started_at"]),
        "last_played_at": iso(row["last_played_at"]),
        "playtime_s": row["playtime_seconds"],
        "current_location": row["current_location"],
        "state": json.loads(row["state"]),
    }


def _empty_progress(experience: str) -> dict[str, Any]:
    return {
        "experience": experience,
        **dict.fromkeys(("progress_id", "version", "saved_version", "completion_percentage", "completed_at")),
        **dict.fromkeys(("started_at", "last_played_at", "playtime_s", "current_location")),
        "pending": 0,
        "is_hot": False,
        "quarantine": None,
        "state": {},
    }


def _show_connection(row: Any) -> dict[str, Any]:
    code = row["close_code"]
    return {
        "connection": row["connection"],
        "node": row["node"],
        "device": row["device_id"],
        "experience": row["experience_id"],
        "session_id": str(row["session_id"]),
        "opened_at": iso(row["opened_at"]),
        "closed_at": iso(row["closed_at"]),
        "close_code": code,
        "close_name": None if code is None else close_name(code),
        "resumed": row["is_resumed"],
        "updates": row["updates"],
        "rtt_ms": None if row["rtt_ms"] is None else round(row["rtt_ms"], 1),
    }


def _show_open(row: Row) -> dict[str, Any]:
    return {
        "connection": row.connection,
        "node": row.node,
        "device": row.device,
        "experience": row.experience,
        "session_id": row.session_id,
        "opened_at": iso_ms(row.connection),
        **dict.fromkeys(("closed_at", "close_code", "close_name", "resumed", "updates")),
        "rtt_ms": row.rtt_ms if row.rtt_ms >= 0 else None,
    }


def _show_ban(row: Any) -> dict[str, Any]:
    return {
        "from": iso(row["asked_at"]),
        "until": iso(row["until"]),
        "message": row["message"],
        "reason": row["reason"],
        "operator": row["operator"],
        "lifted_at": iso(row["lifted_at"]),
        "lifted_by": row["lifted_by"],
    }


def _show_event(event: dict[str, Any], experience: str, is_precise: bool) -> dict[str, Any]:
    lat, lng = place_of(event["location_lat"], event["location_lng"], is_precise)
    return {
        "timestamp": iso_ms(event["timestamp"]),
        "type": event["event_type"],
        "content_id": event["content_id"],
        "experience": event.get("experience_id") or experience,
        "version": event["version"],
        "device": event["device_id"],
        "seq": event["seq"],
        "lat": lat,
        "lng": lng,
        "data": event["data"],
    }


def _uuid_of(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise invalid("cursor: is not one of ours", "begin without a cursor") from None
