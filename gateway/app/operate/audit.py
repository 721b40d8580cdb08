"""
What operators did, newest first: who, what, to whom, why, and how it ended.
"""

from __future__ import annotations

import argparse
from typing import Any

from gateway.app.operate.api import add_api_flags, open_api
from gateway.app.operate.output import add_output_flags, show_items

COLUMNS = (
    ("at", "at"),
    ("operator", "operator"),
    ("action", "action"),
    ("state", "state"),
    ("id", "id"),
    ("player", "player"),
    ("reason", "reason"),
    ("message", "message"),
)
PAGE = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--operator", metavar="NAME", help="by this one only")
    parser.add_argument("--action", metavar="ACTION", help="of this kind only")
    parser.add_argument("--player", metavar="UUID", help="about this player only")
    parser.add_argument("--from", dest="since", metavar="TIME", help="since then (ISO 8601)")
    parser.add_argument("--to", dest="until", metavar="TIME")
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
                "/api/v1/audit",
                operator=args.operator,
                action=args.action,
                player=args.player,
                from_=args.since,
                to=args.until,
                limit=min(PAGE, args.limit - len(items)),
                cursor=cursor,
            )
            items += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        return items

    return show_items(args, ask, COLUMNS)
