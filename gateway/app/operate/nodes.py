"""
The gateways: who takes players, who does not and why, and how many each has.

  wayhold nodes --watch
"""

from __future__ import annotations

import argparse
from typing import Any

from gateway.app.operate.api import add_api_flags, open_api
from gateway.app.operate.output import add_output_flags, is_table, show_items

COLUMNS = (
    ("node", "node"),
    ("state", "state"),
    ("players", "players"),
    ("connections", "connections"),
    ("accepted", "accepted"),
    ("resumes", "resumes"),
    ("errors", "errors"),
    ("lag ms", "lag_ms"),
    ("process", "process"),
    ("reasons", "reasons"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output_flags(parser, watch=True)
    add_api_flags(parser)


def run(args: argparse.Namespace) -> int:
    api = open_api(args)

    def ask() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = api.get("/api/v1/nodes")["items"]
        if is_table(args):
            return [item | {"reasons": ", ".join(item["reasons"]) or None} for item in items]
        return items

    return show_items(args, ask, COLUMNS)
