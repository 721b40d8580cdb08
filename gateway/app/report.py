"""
A result with rows, as a person, a script or a spreadsheet wants it: a table, one JSON object, or CSV.

Promise: JSON and CSV hold the same plain values (seconds, shares from 0 to 1, ISO dates). Names come from players'
clients: in a terminal they show no control character, in a spreadsheet they are no formula.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

Kind = Literal["text", "day", "count", "seconds", "share"]

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(slots=True)
class Report:
    """`columns`: name → what it holds. `facts` go before the rows of JSON, `notes` below the table."""

    title: str
    columns: dict[str, Kind]
    rows: list[tuple[Any, ...]]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def to_json(report: Report) -> str:
    rows = [dict(zip(report.columns, map(_plain, row), strict=True)) for row in report.rows]
    facts = {name: _plain(value) for name, value in report.facts.items()}
    return json.dumps({**facts, "rows": rows}, ensure_ascii=False)


def to_csv(report: Report) -> str:
    """With a header line; nothing in a cell is None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(report.columns)
    for row in report.rows:
        writer.writerow(
            [_cell(value, kind) for value, kind in zip(map(_plain, row), report.columns.values(), strict=True)]
        )
    return text.getvalue().removesuffix("\n")


def to_table(report: Report) -> str:
    header = [name.removesuffix("_s").replace("_", " ") for name in report.columns]
    kinds = list(report.columns.values())
    shown = [[_shown(value, kind) for value, kind in zip(row, kinds, strict=True)] for row in report.rows]
    widths = [max(map(len, column)) for column in zip(header, *shown, strict=True)]
    lines = [report.title, ""]
    if report.rows:
        for cells in (header, *shown):
            placed = [
                cell.ljust(width) if kind in ("text", "day") else cell.rjust(width)
                for cell, width, kind in zip(cells, widths, kinds, strict=True)
            ]
            lines.append("  ".join(placed).rstrip())
    else:
        lines.append("nothing")
    return "\n".join([*lines, *([""] if report.notes else []), *report.notes])


def show_duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m" + (f" {rest:02}s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}h" + (f" {minutes:02}m" if minutes else "")


def show_share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def share(part: int | None, whole: int) -> float | None:
    """None of nothing: 0 of 0 is no share."""
    return None if part is None or not whole else part / whole


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, (date, datetime)) else value


def _cell(value: Any, kind: Kind) -> Any:
    if kind == "text" and isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        # A spreadsheet would compute it; one that sees the quote shows the text.
        return "'" + value
    return "" if value is None else value


def _shown(value: Any, kind: Kind) -> str:
    if value is None:
        return "–"
    match kind:
        case "count":
            return f"{value:,}"
        case "seconds":
            return show_duration(value)
        case "share":
            return show_share(value)
        case "day":
            return str(_plain(value))
        case _:
            return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))


def join_names(names: Sequence[str], names_max: int = 8) -> str:
    """For a message: the first few, and how many there are beyond."""
    more = len(names) - names_max
    return ", ".join(names[:names_max]) + (f" and {more} more" if more > 0 else "")
