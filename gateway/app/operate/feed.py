"""Follows a topic of the live feed, and begins again when it breaks off."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from gateway.app.errors import ExitCode
from gateway.app.operate.api import Api, Away
from gateway.app.operate.output import cell, is_table, to_json

PAUSE_S = 1.0
FAILURES_MAX = 5
_FIRST = ("at", "kind", "player", "experience", "type", "content_id")


def follow(args: argparse.Namespace, api: Api, topic: str, **filters: Any) -> int:
    """Until Ctrl-C, `--count`, or an API that stays away."""
    left = args.count
    failures = dropped = 0
    while True:
        try:
            for name, data in api.stream(topics=topic, **filters):
                failures = 0
                if name == "end":
                    print(f"the feed ended: {data.get('reason', '')}", file=sys.stderr)
                    return ExitCode.BAD_VERDICT
                if name != topic:
                    continue
                if (data.get("dropped") or 0) > dropped:
                    dropped = data["dropped"]
                    print(f"… {dropped:,} left out so far", file=sys.stderr)
                for item in data.get("items", []):
                    print(_line(item) if is_table(args) else to_json(item), flush=True)
                    if left is not None:
                        left -= 1
                        if left <= 0:
                            return ExitCode.OK
        except Away as away:
            failures += 1
            if failures >= FAILURES_MAX:
                raise
            print(f"… {away.what}; again", file=sys.stderr)
            time.sleep(PAUSE_S)


def _line(item: dict[str, Any]) -> str:
    parts = [cell(item[name]) for name in _FIRST if item.get(name) is not None]
    parts += [f"{name}={cell(value)}" for name, value in item.items() if name not in _FIRST and value is not None]
    return "  ".join(parts)
