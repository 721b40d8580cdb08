"""
Every query has a name and a reason, and no two share a name; every migration says what it is.

    python tools/check_sql.py

    -- name: find_profile
    -- Why it exists, or what is odd about it.
    SELECT …;

Migrations are `NNNN_what_changes.sql`, numbered without gaps, and open with why, which lock they take ("Lock: …") and
whether they run before or after the code that needs them. `schema.sql` opens with a comment too.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = "persistence/cold/sql"
NAME = re.compile(r"^-- name: (\S+)$")
MIGRATION = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


def main() -> int:
    problems = list_problems(ROOT / FOLDER)
    for problem in problems:
        print(problem)
    print(f"check_sql: {len(problems)} problems" if problems else "check_sql: ok")
    return 1 if problems else 0


def list_problems(folder: Path) -> list[str]:
    """What is wrong with the SQL files below a folder, one line each."""
    problems: list[str] = []
    places: dict[str, str] = {}
    for path in sorted((folder / "queries").glob("*.sql")):
        problems += _list_query_problems(path, places)
    for expected, path in enumerate(sorted((folder / "migrations").glob("*.sql")), 1):
        match = MIGRATION.fullmatch(path.name)
        if match is None or int(match[1]) != expected:
            problems.append(f"{path.name}: should be named {expected:04}_what_changes.sql")
        header = _read_header(path)
        if not header:
            problems.append(f"{path.name}: does not open with why it exists")
        elif not re.search(r"\block\b", header, re.IGNORECASE) or not re.search(r"\b(before|after)\b", header):
            problems.append(f"{path.name}: does not say which lock it takes, and if it runs before or after new code")
    if not _read_header(folder / "schema.sql"):
        problems.append("schema.sql: does not open with what it is")
    return problems


def _list_query_problems(path: Path, places: dict[str, str]) -> list[str]:
    problems = []
    lines = path.read_text("utf-8").splitlines()
    first = next((number for number, line in enumerate(lines) if NAME.match(line)), len(lines))
    if any(line.strip() and not line.startswith("--") for line in lines[:first]):
        problems.append(f"{path.name}: there is SQL before the first `-- name:`")
    starts = [number for number, line in enumerate(lines) if NAME.match(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        match = NAME.match(lines[start])
        assert match is not None
        name, where = match[1], f"{path.name}:{start + 1}"
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            problems.append(f"{where}: {name} is not a lower_case name")
        if name in places:
            problems.append(f"{where}: {name} is already in {places[name]}")
        places.setdefault(name, where)
        if start + 1 >= end or not re.match(r"-- \S", lines[start + 1]):
            problems.append(f"{where}: {name} has no reason on the line below its name")
        statement = "\n".join(line for line in lines[start:end] if not line.lstrip().startswith("--")).strip()
        if not statement.endswith(";"):
            problems.append(f"{where}: {name} has no statement that ends with a semicolon")
    return problems


def _read_header(path: Path) -> str:
    """The comment that a file opens with, empty when it does not."""
    header = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        if not line.startswith("--"):
            break
        header.append(line.removeprefix("--").strip())
    return " ".join(header).strip()


if __name__ == "__main__":
    sys.exit(main())
