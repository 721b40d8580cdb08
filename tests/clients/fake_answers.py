"""
Answers of an ops process, invented but of the real shapes, with all in them that a page must be able to show: for
working on the console without players, and for feeding its map a recorded crowd.

    python -m tests.clients.fake_answers 7499        # then open http://127.0.0.1:7499/console/

Not here: proof that anything works. The tests of the console run on real processes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gateway.liveops import console_files
from protocol.experience_file import parse_experience

MARKUP = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
"""What a player's client may well send: it must be shown as it is."""

DICE = random.Random(7)
PLAYERS = [str(uuid.UUID(int=DICE.getrandbits(128), version=4)) for _ in range(120)]
EXPERIENCE = "wylding-woods"


def at(seconds_ago: float = 0.0) -> str:
    moment = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_FILE = Path(__file__).parents[2] / "protocol" / "experiences" / f"{EXPERIENCE}.toml"
DEFINITION = parse_experience(_FILE.read_text(), str(_FILE), experience_id=EXPERIENCE)
WAYPOINTS = [{"id": w.id, "lat": w.lat, "lng": w.lng, "radius_m": w.radius_m or 20} for w in DEFINITION.waypoints]
MIDDLE = (sum(w["lat"] for w in WAYPOINTS) / len(WAYPOINTS), sum(w["lng"] for w in WAYPOINTS) / len(WAYPOINTS))


def make_walkers(count: int) -> list[dict[str, Any]]:
    """A crowd of walkers around the waypoints; the same one each time."""
    dice = random.Random(11)
    return [
        {
            "id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            "lat": MIDDLE[0] + dice.gauss(0, 0.004),
            "lng": MIDDLE[1] + dice.gauss(0, 0.005),
            "heading": dice.uniform(0, 2 * math.pi),
            "state": dice.choices(["playing", "suspended", "disconnected"], [8, 1, 1])[0],
        }
        for _ in range(count)
    ]


def walk(walkers: list[dict[str, Any]], metres: float, dice: random.Random) -> list[list[Any]]:
    """A step of everybody, as the feed says it."""
    for one in walkers:
        one["heading"] += dice.gauss(0, 0.5)
        one["lat"] += metres / 111_320 * math.cos(one["heading"])
        one["lng"] += metres / 87_800 * math.sin(one["heading"])
    return [[one["id"], round(one["lat"], 6), round(one["lng"], 6), one["state"]] for one in walkers]


def record_feed(count: int, seconds: int) -> list[dict[str, Any]]:
    """What the map would hear in so many seconds, of so many walkers at 1.4 metres a second."""
    dice = random.Random(5)
    walkers = make_walkers(count)
    return [
        {"full": second == 0, "players": walk(walkers, 1.4, dice), "gone": [], "clusters": [], "total": count}
        for second in range(seconds)
    ]


def figures() -> dict[str, Any]:
    return {
        "at": at(),
        "players_now": 1204 + random.randrange(9),
        "connections": 1180,
        "sessions": 1212,
        "updates_per_s": 412.5,
        "ack_p50_ms": 2.4,
        "ack_p99_ms": 14.0,
        "saved_p50_ms": 610,
        "saved_p99_ms": 1190,
        "flush_lag_s": 1.2,
        "pending_updates": 431,
        "pending_bytes": 88_000,
        "resumes_per_s": 0.4,
        "dead_letters": 2,
        "quarantined": 1,
        "health": {"redis": "ok", "postgresql": "ok", "status": "healthy", "reasons": []},
        "nodes": NODES,
    }


NODES = [
    {"node": f"host-1-gateway-{n}", "state": "ready", "players": 602, "connections": 590, "updates_per_s": 206.0}
    | {"version": "0.1.0", "started_at": at(86_000)}
    for n in (1, 2)
]
STATE = {
    "inventory": ["lantern", "brass_key", MARKUP],
    "visited_waypoints": [w["id"] for w in WAYPOINTS[:9]],
    "active_quests": ["discover_woander"],
    "flags": {"met_the_fox": True, MARKUP: MARKUP},
    "collectibles": {"coins": 12},
    "distance_meters": 1840.25,
    "current_location": "8_inter_gravity_car",
}
AUDIT = [
    {"id": str(uuid.UUID(int=n)), "at": at(90 * n), "operator": "ada", "role": "operator", "action": action}
    | {"player": PLAYERS[n], "experience": EXPERIENCE, "payload": {"item": MARKUP}, "reason": f"ticket {n} {MARKUP}"}
    | {"state": state, "message": message, "undo": {"action": "take_item"} if state == "done" else None}
    for n, (action, state, message) in enumerate(
        [("grant_item", "done", None), ("ban", "requested", None), ("set_flag", "refused", "106 no such flag")], 1
    )
]


def session(number: int) -> dict[str, Any]:
    place = WAYPOINTS[number % len(WAYPOINTS)]
    return {
        "session_id": str(uuid.UUID(int=number)),
        "user_id": PLAYERS[number],
        "experience": EXPERIENCE,
        "device": f"phone-{number}",
        "node": NODES[number % 2]["node"],
        "started_at": at(60.0 * number),
        "state": ["playing", "playing", "suspended", "disconnected"][number % 4],
        "last_activity_at": at(number),
        "location": MARKUP if number == 3 else place["id"],
        "lat": place["lat"],
        "lng": place["lng"],
        "updates": 30 * number,
        "accepted": 30 * number,
        "saved": 29 * number,
        "pending": number,
        "rtt_ms": 18.5,
    }


def player(user_id: str) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "created_at": at(9_000_000),
        "profile": {"account_level": 4, "stats": {"note": MARKUP}},
        "progress": [
            {"experience": EXPERIENCE, "version": 212, "completion_percentage": 24.3, "completed_at": None}
            | {
                "started_at": at(7_000_000),
                "last_played_at": at(4),
                "current_location": "x",
                "pending": 3,
                "state": STATE,
            }
        ],
        "live": session(2) | {"user_id": user_id},
        "devices": [{"device": MARKUP, "experience": EXPERIENCE, "last_seq": 209, "updated_at": at(8)}],
        "bans": [],
    }


def rows_of(question: str) -> dict[str, Any]:
    days = [(datetime.now(UTC).date() - timedelta(days=n)) for n in range(20, -1, -1)]
    ids = [w["id"] for w in WAYPOINTS]
    match question:
        case "ranking":
            return {
                "rows": [
                    {"content_id": c, "total_visits": 900 - 40 * n, "unique_players": 300 - 9 * n}
                    | {"average_time_spent_s": 31.5}
                    for n, c in enumerate([MARKUP, *ids[:14]])
                ]
            }
        case "funnel":
            return {
                "rows": [
                    {"step": n + 1, "event_type": "waypoint_visited", "content_id": c, "players": 500 - 80 * n}
                    | {"share_of_first": 1 - 0.16 * n, "share_of_previous": 0.84}
                    for n, c in enumerate(ids[:6])
                ]
            }
        case "active":
            return {
                "rows": [{"day": str(d), "players": 200 + 9 * n, "new_players": 40 + n} for n, d in enumerate(days)]
            }
        case "retention":
            rows = [
                {"cohort": str(d), "new_players": 40}
                | {
                    f"day_{k}_{w}": v
                    for k in (1, 7, 30)
                    for w, v in (
                        ("players", 20 - k // 2 if n < 20 - k else None),
                        ("share", 0.5 - k / 80 if n < 20 - k else None),
                    )
                }
                for n, d in enumerate(days)
            ]
            return {
                "rows": rows,
                "totals": {f"day_{k}": {"new_players": 600, "retained": 200, "share": 1 / 3} for k in (1, 7, 30)},
            }
        case "completion":
            return {
                "players": 500,
                "completed": 120,
                "share": 0.24,
                "average_percentage": 51.2,
                "rows": [{"quest": "discover_woander", "players": 300, "completed": 200, "share": 2 / 3}],
            }
        case "dropoff":
            return {"rows": [{"location": c, "players": 30 - n} for n, c in enumerate(ids[:8])]}
    unit = "players" if question == "playtime" else "sessions"
    bounds = [0, 60, 300, 900, 1800, 3600]
    return {
        unit: 100,
        "average_s": 812.0,
        "rows": [
            {"from_s": b, "to_s": ([*bounds, None])[n + 1], unit: 10 + n, "share": 0.2} for n, b in enumerate(bounds)
        ],
    }


async def answer(request: Request) -> Response:
    path = request.url.path.removeprefix("/api/v1/").split("/")
    match path:
        case ["me"] | ["login"] | ["setup"]:
            found: Any = {"operator": "ada", "role": "admin", "csrf": "c", "is_production": "production" in sys.argv}
            found |= {"version": "0.1.0", "precise_location": True}
        case ["overview"]:
            now = int(datetime.now(UTC).timestamp())
            series = {"at": [now - 900 + n for n in range(900)]}
            for name, value in figures().items():
                if isinstance(value, (int, float)):
                    series[name] = [
                        value * (1 + 0.1 * math.sin(n / 60) + DICE.uniform(-0.02, 0.02)) for n in range(900)
                    ]
            found = figures() | {"series": series}
        case ["sessions"]:
            search = request.query_params.get("search", "")
            items = [one for one in map(session, range(100)) if one["user_id"].startswith(search)]
            found = {"items": items[:50], "total": len(items), "next_cursor": "50" if len(items) > 50 else None}
        case ["search"]:
            text = request.query_params.get("text", "")
            facts = {"is_here": True, "state": "playing", "experience": EXPERIENCE, "device": "phone", "is_by_id": True}
            found = {"items": [{"user_id": p} | facts for p in PLAYERS if p.startswith(text)][:8], "unavailable": []}
        case ["players"]:
            search = request.query_params.get("search", "")
            found = {"items": [{"user_id": p} for p in PLAYERS if p.startswith(search)][:8], "next_cursor": None}
        case ["players", user_id]:
            found = player(user_id)
        case ["players", _, "events"]:
            found = {
                "items": [
                    {"timestamp": at(40 * n), "type": "waypoint_visited", "content_id": w["id"], "version": 90 - n}
                    | {"data": {"say": MARKUP}}
                    for n, w in enumerate(WAYPOINTS)
                ],
                "next_cursor": None,
            }
        case ["players", _, "connections"]:
            found = {
                "items": [
                    {
                        "opened_at": at(400),
                        "closed_at": at(90) if n else None,
                        "close_code": n or None,
                        "device": "phone",
                    }
                    | {"close_name": {4203: "BANNED", 4001: "DRAINING"}.get(n), "node": "host-1-gateway-1"}
                    for n in (0, 4001, 4203)
                ],
                "next_cursor": None,
            }
        case ["players", _, "sessions"]:
            found = {
                "items": [
                    {"session_id": PLAYERS[1], "experience": EXPERIENCE, "started_at": at(9000), "ended_at": at(8000)}
                    | {"end_reason": "left", "playtime_s": 931}
                ],
                "next_cursor": None,
            }
        case ["players", _, "path"]:
            found = {"items": [{"lat": w["lat"], "lng": w["lng"], "at": at(10)} for w in WAYPOINTS[:9]]}
        case ["audit"] | ["players", _, "actions"]:
            found = {"items": AUDIT, "next_cursor": None}
        case ["experiences"]:
            found = {
                "items": [
                    {"experience": EXPERIENCE, "definition": {"waypoints": WAYPOINTS, "items": [{"id": "lantern"}]}},
                    {"experience": "harbour-lights", "definition": None},
                ]
            }
        case ["analytics", question]:
            found = rows_of(question)
        case ["dead-letters"]:
            found = {
                "items": [
                    {"id": 7, "player": PLAYERS[4], "experience": EXPERIENCE, "reason": MARKUP, "sqlstate": "22P05"}
                    | {"created_at": at(3000), "payload": {"event": {"type": MARKUP}}}
                ],
                "next_cursor": None,
            }
        case ["quarantine"]:
            found = {
                "items": [
                    {"progress": "p1", "player": PLAYERS[5], "experience": EXPERIENCE, "reason": MARKUP}
                    | {"since": at(500), "pending": 12, "version": 9}
                ],
                "next_cursor": None,
            }
        case ["nodes"]:
            found = {"items": NODES}
        case ["bans"]:
            found = {
                "items": [
                    {"player": PLAYERS[6], "until": at(-86_400), "message": MARKUP, "operator": "ada", "reason": "spam"}
                ]
            }
        case ["maintenance"]:
            found = {"on": False, "at": None, "message": ""}
        case ["actions"]:
            asked = await request.json()
            if asked["dry_run"]:
                found = {"preview": {"before": {"inventory": ["lantern"]}, "after": {"inventory": ["lantern", "x"]}}}
                found["preview"]["affects"] = {"players": 1, "connections": 1}
            else:
                found = {"id": str(uuid.uuid4()), "state": "requested"}
        case ["actions", action_id]:
            found = {"id": action_id, "state": "done", "undo": {"action": "take_item"}}
        case _:
            return JSONResponse({"error": {"code": "NOT_FOUND", "message": "not here", "next": ""}}, 404)
    return JSONResponse(found)


async def live(request: Request) -> Response:
    """What happens; with a recorded crowd on `app.state.feed` a map hears that, ready made and over again."""
    if recorded := getattr(request.app.state, "feed", None):
        return StreamingResponse(_replay(recorded), media_type="text/event-stream")
    topics = request.query_params.get("topics", "").split(",")
    user_id = request.query_params.get("player")

    async def tell() -> AsyncIterator[str]:
        dice, walkers = random.Random(3), make_walkers(300)
        for second in range(3600):
            news: dict[str, Any] = {"figures": figures()}
            news["players"] = {"full": second == 0, "players": walk(walkers, 8, dice), "gone": [], "clusters": []}
            event = {"at": at(), "player": PLAYERS[second % 9], "experience": EXPERIENCE, "type": "waypoint_visited"}
            event |= {"content_id": WAYPOINTS[second % 37]["id"], "data": {"say": MARKUP}}
            news["events"] = {"items": [event], "dropped": second * 3}
            news["player"] = {"items": [event | {"kind": "update", "seq": second}], "player": user_id}
            for topic in topics:
                yield f"event: {topic}\ndata: {json.dumps(news[topic])}\n\n"
            await asyncio.sleep(1)

    return StreamingResponse(tell(), media_type="text/event-stream")


async def _replay(recorded: list[str]) -> AsyncIterator[str]:
    for news in itertools.cycle(recorded):
        yield news
        await asyncio.sleep(1)


def make_app() -> FastAPI:
    """The fake ops process; the console's files are served by the real thing, with its headers."""
    app = FastAPI()
    app.include_router(console_files.router)
    app.add_route("/api/v1/live", live)
    app.add_route("/api/v1/{path:path}", answer, methods=["GET", "POST"])
    return app


if __name__ == "__main__":
    uvicorn.run(make_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
