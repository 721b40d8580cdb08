"""What is going on now: the overview, sessions, nodes, and the feed."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from gateway.liveops.access import address_of, require_role
from gateway.liveops.errors import ApiError, invalid
from gateway.liveops.live.feed import LiveFeed
from gateway.liveops.live.hub import TooManyViewers
from gateway.liveops.live.table import SORTS, STATES, SessionQuery, place_of
from gateway.liveops.live.viewer import TOPICS, Viewer
from gateway.liveops.precise import look_precisely
from gateway.liveops.services import Services, get_services
from gateway.liveops.shapes import Cursor, Limit, iso_ms, make_cursor, parse_player, read_cursor
from persistence.errors import PersistenceError
from persistence.operators import Operator
from persistence.progress_key import ProgressKey
from persistence.viewing import EventFilter, Row

router = APIRouter(prefix="/api/v1", tags=["live"])

Shared = Annotated[Services, Depends(get_services)]
Viewing = Annotated[Operator, Depends(require_role("viewer"))]
Text = Annotated[str, Query(max_length=300)]

METRES_MAX = 1_000_000.0

PLACES_WAIT_S = 0.25
"""A page of sessions waits no longer for where its players are: who looks for somebody has found them without it."""


@router.get("/overview")
async def get_overview(services: Shared, operator: Viewing) -> dict[str, Any]:
    """Everything at a glance: figures of now, the last 15 minutes, health, nodes. Works while the stores are away."""
    hub = services.hub
    hub.keep_figures()
    await services.refresh_health()
    return {**hub.read_figures(), "nodes": hub.list_nodes(), "series": hub.figures.series()}


@router.get("/nodes")
async def list_nodes(services: Shared, operator: Viewing) -> dict[str, Any]:
    """Gateways. Those of other machines are known while somebody looks at live pages."""
    services.hub.keep_figures()
    return {"items": services.hub.list_nodes(), "next_cursor": None}


@router.get("/sessions")
async def list_sessions(
    request: Request,
    services: Shared,
    operator: Viewing,
    search: Annotated[
        str, Query(max_length=100, description="begin of a player's or session's id, part of a device")
    ] = "",
    experience: Annotated[str, Query(max_length=100)] = "",
    state: Annotated[str, Query(description="playing, suspended, recovering or disconnected")] = "",
    lag_ms_min: Annotated[int, Query(ge=0, le=10**10, description="not heard for at least so long")] = 0,
    near: Annotated[str, Query(max_length=80, description="lat,lng,metres")] = "",
    sort: Annotated[
        str, Query(max_length=30, description="a field, with - before it for falling order")
    ] = "-last_activity",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Sessions that are going on. `total` counts all that fit."""
    if state and state not in STATES:
        raise invalid(f"state: is one of {', '.join(STATES)}")
    if sort.removeprefix("-") not in SORTS:
        raise invalid(f"sort: is one of {', '.join(SORTS)}, with or without -")
    is_precise = await look_precisely(services, operator, "sessions", address=address_of(request))
    query = SessionQuery(
        search=search.strip(),
        experience=experience,
        state=STATES.index(state) if state else None,
        lag_ms_min=lag_ms_min,
        near=_parse_near(near),
        sort=sort.removeprefix("-"),
        is_descending=sort.startswith("-"),
        is_precise=is_precise,
    )
    place = read_cursor(cursor, object, str)
    table = await services.hub.get_table()
    snapshot = table.snapshot(services.clock())
    now_ms = services.now_ms()
    try:
        rows, total, last = snapshot.list_page(query, now_ms, limit, None if place is None else (place[0], place[1]))
    except TypeError:
        raise invalid("cursor: belongs to another order", "begin without a cursor") from None
    places = await _find_places(services, rows)
    items = [_show(row, now_ms, is_precise, at) for row, at in zip(rows, places, strict=True)]
    return {"items": items, "total": total, "next_cursor": None if last is None else make_cursor(*last)}


@router.get("/live", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
async def watch(
    request: Request,
    services: Shared,
    operator: Viewing,
    topics: Annotated[
        str, Query(max_length=100, description="of figures, events, players, player, by commas")
    ] = "figures",
    experience: Annotated[str, Query(max_length=100)] = "",
    type: Annotated[str, Query(max_length=50)] = "",
    content: Annotated[str, Query(max_length=255)] = "",
    player: Annotated[str, Query(max_length=36)] = "",
    filter: Annotated[str, Query(max_length=600, description="events: experience:… type:… content:… player:…")] = "",
    bbox: Annotated[str, Query(max_length=100, description="map: south,west,north,east")] = "",
) -> Response:
    """The live feed, as server-sent events named after their topic."""
    wanted = frozenset(topic.strip() for topic in topics.split(",") if topic.strip())
    if not wanted or not wanted <= set(TOPICS):
        raise invalid(f"topics: are of {', '.join(TOPICS)}")
    named = _parse_filter(filter) | {
        name: value for name, value in (("experience", experience), ("type", type), ("content", content)) if value
    }
    if player:
        player = parse_player(player)
        named.setdefault("player", player)
    if "player" in wanted and not player:
        raise invalid("player: which?", "give player=ID")
    if named.get("player"):
        named["player"] = parse_player(named["player"])
    is_precise = False
    if wanted & {"events", "players", "player"}:
        what = "live:" + ",".join(sorted(wanted))
        # Whom a filter names is looked at as well.
        whom = player or named.get("player") or None
        is_precise = await look_precisely(services, operator, what, player=whom, address=address_of(request))
    viewer = Viewer(wanted, EventFilter(**named), experience, player, box=_parse_box(bbox), is_precise=is_precise)
    viewer.operator = operator.name
    try:
        services.hub.add(viewer)
    except TooManyViewers as many:
        raise ApiError(
            429, "TOO_MANY_VIEWERS", str(many), "close a page, and try again", {"Retry-After": "5"}
        ) from None
    secret = request.state.secret

    async def is_still_allowed() -> bool:
        try:
            found = await services.access.find(secret)
        except PersistenceError:
            return False
        return found is not None and (found.is_precise or not is_precise)

    return LiveFeed(viewer, is_still_allowed, lambda: services.hub.remove(viewer))


async def _find_places(services: Services, rows: list[Row]) -> list[str | None]:
    """The location in each player's state; unknown while Redis is away or has no time for it."""
    try:
        async with asyncio.timeout(PLACES_WAIT_S):
            found = await services.hot.find_places([ProgressKey(row.user_id, row.experience) for row in rows])
    except (PersistenceError, TimeoutError):
        return [None] * len(rows)
    places: list[str | None] = []
    for text in found:
        try:
            value = json.loads(text) if text else None
        except ValueError:
            value = None
        places.append(value if isinstance(value, str) else None)
    return places


def _show(row: Row, now_ms: int, is_precise: bool, location: str | None) -> dict[str, Any]:
    lat, lng = place_of(row.lat, row.lng, is_precise)
    is_connected = STATES[row.state] != "disconnected"
    return {
        "session_id": row.session_id,
        "user_id": row.user_id,
        "experience": row.experience,
        "device": row.device,
        "node": row.node,
        "connection": row.connection,
        "state": STATES[row.state],
        "started_at": iso_ms(row.started_ms),
        "last_activity_at": iso_ms(row.heard_ms),
        "lag_ms": max(0, now_ms - row.heard_ms),
        "location": location,
        "lat": lat,
        "lng": lng,
        "updates": row.accepted if is_connected else None,
        "accepted": row.accepted if is_connected else None,
        "saved": row.saved if is_connected else None,
        "pending": row.accepted - row.saved if is_connected else None,
        "rtt_ms": row.rtt_ms if row.rtt_ms >= 0 else None,
    }


def _parse_numbers(name: str, text: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(-1e9 < number < 1e9 for number in numbers):
        raise invalid(f"{name}: must be {count} numbers with commas between")
    return numbers


def _parse_near(text: str) -> tuple[float, float, float] | None:
    if not text:
        return None
    lat, lng, metres = _parse_numbers("near", text, 3)
    if not (-90 <= lat <= 90 and -180 <= lng <= 180 and 0 < metres <= METRES_MAX):
        raise invalid("near: is lat,lng in degrees and up to 1,000,000 metres")
    return lat, lng, metres


def _parse_box(text: str) -> tuple[float, float, float, float] | None:
    if not text:
        return None
    south, west, north, east = _parse_numbers("bbox", text, 4)
    return south, west, north, east


def _parse_filter(text: str) -> dict[str, str]:
    """`experience:wylding-woods type:waypoint_visited`."""
    named = {}
    for part in text.split():
        name, colon, value = part.partition(":")
        if not colon or name not in ("experience", "type", "content", "player"):
            raise invalid("filter: is made of experience:… type:… content:… player:…")
        named[name] = value
    return named
