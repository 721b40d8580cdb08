"""
Who is playing now: search, filter, sort. JSON lines into a pipe.

  wayhold sessions --experience wylding-woods --sort -pending --watch
"""

from __future__ import annotations

import argparse
from typing import Any

from gateway.app.operate.api import add_api_flags, open_api
from gateway.app.operate.output import add_output_flags, show_items

COLUMNS = (
    ("player", "user_id"),
    ("experience", "experience"),
    ("state", "state"),
    ("location", "location"),
    ("last heard", "last_activity_at"),
    ("updates", "updates"),
    ("pending", "pending"),
    ("rtt ms", "rtt_ms"),
    ("node", "node"),
)
PAGE = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--search", metavar="TEXT", help="begin of a player's or session's id, part of a device")
    parser.add_argument("--experience", metavar="NAME")
    parser.add_argument("--state", metavar="STATE", help="playing, suspended, recovering or disconnected")
    parser.add_argument("--stale", type=float, metavar="S", help="not heard for at least so long")
    parser.add_argument("--near", metavar="LAT,LNG,M", help="within so many metres of a point")
    parser.add_argument("--sort", metavar="FIELD", help="with - before it: falling; default -last_activity")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="how many (50)")
    add_output_flags(parser, watch=True)
    add_api_flags(parser)


def run(args: argparse.Namespace) -> int:
    api = open_api(args)

    def ask() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor = None
        while len(items) < args.limit:
            page = api.get(
                "/api/v1/sessions",
                search=args.search,
                experience=args.experience,
                state=args.state,
                lag_ms_min=None if args.stale is None else round(args.stale * 1000),
                near=args.near,
                sort=args.sort,
                limit=min(PAGE, args.limit - len(items)),
                cursor=cursor,
            )
            items += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        return items

    return show_items(args, ask, COLUMNS)
