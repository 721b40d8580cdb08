"""
How commands of operators answer: tables on a terminal, JSON lines otherwise (and with --json), again and again with
--watch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

WATCH_MIN_S = 0.5
CELL_CHARS_MAX = 80

Column = tuple[str, str]
"""Heading, and the key of the item; dots go into maps."""


def add_output_flags(parser: argparse.ArgumentParser, *, watch: bool = False) -> None:
    parser.add_argument("--json", action="store_true", help="JSON lines, as into a pipe")
    if watch:
        parser.add_argument(
            "--watch", type=float, nargs="?", const=2.0, metavar="S", help="again every S seconds (2), until Ctrl-C"
        )


def is_table(args: argparse.Namespace) -> bool:
    return sys.stdout.isatty() and not args.json


def show_items(args: argparse.Namespace, ask: Callable[[], Sequence[dict[str, Any]]], columns: Sequence[Column]) -> int:
    """Print items once, or with --watch for ever."""
    while True:
        items = ask()
        if is_table(args):
            if args.watch is not None:
                sys.stdout.write("\x1b[H\x1b[2J")
            print_table(items, columns)
        else:
            for item in items:
                print(to_json(item))
        sys.stdout.flush()
        if args.watch is None:
            return 0
        time.sleep(max(WATCH_MIN_S, args.watch))


def print_table(items: Sequence[dict[str, Any]], columns: Sequence[Column]) -> None:
    width = shutil.get_terminal_size((120, 24)).columns
    rows = [[heading for heading, _ in columns]]
    rows += [[cell(find(item, key)) for _, key in columns] for item in items]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    for row in rows:
        line = "  ".join(text.ljust(widths[i]) for i, text in enumerate(row)).rstrip()
        print(line if len(line) <= width else line[: width - 1] + "…")
    if not items:
        print("(none)")


def find(item: Any, key: str) -> Any:
    for part in key.split("."):
        item = item.get(part) if isinstance(item, dict) else None
    return item


def cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    text = plain(str(value))
    if len(text) == 24 and text[10:11] == "T" and text.endswith("Z"):
        return _local(text)
    return text if len(text) <= CELL_CHARS_MAX else text[: CELL_CHARS_MAX - 1] + "…"


def to_json(value: Any) -> str:
    """
    One line. What is not printable is escaped, beyond what JSON asks for: the line may end on a terminal, which obeys
    some characters above U+007F, too.
    """
    text = json.dumps(value, ensure_ascii=False)
    if text.isprintable():
        return text
    # Outside of its strings JSON is printable, and within them an escape means the same.
    return "".join(part if part.isprintable() else json.dumps(part)[1:-1] for part in text)


def plain(text: str) -> str:
    """For a terminal: what a player has named must not move the cursor, hide words or turn them round."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _local(text: str) -> str:
    """A time of the API, of today without its date; the local one, because people look at clocks on walls."""
    try:
        at = datetime.fromisoformat(text).astimezone()
    except ValueError:
        return text
    is_today = at.date() == datetime.now(UTC).astimezone().date()
    return at.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S")
