"""The repo's own checks hold for the repo, and each of them still sees what it is for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """--[[
Take what is there. Running it twice is harmless.

KEYS
  dirty  zset  what is due
  pending  list  entries
ARGV
  lease_ms  how long
              it holds
RETURNS
  the members
]]
local dirty, pending = KEYS[1], KEYS[2]
local lease_ms = tonumber(ARGV[1])
return {dirty, pending, lease_ms}
"""

QUERY = """-- name: find_it
-- Because somebody asks.
SELECT 1;
"""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_imports = load("check_imports")
check_lua = load("check_lua")
check_sql = load("check_sql")


def test_imports_point_down() -> None:
    assert check_imports.list_problems(ROOT) == []


def test_lua_headers_match_their_bodies() -> None:
    scripts = check_lua.list_scripts(ROOT)
    assert scripts
    assert [problem for path in scripts for problem in check_lua.list_problems(path)] == []
    parts = check_lua.list_parts(ROOT)
    assert parts and [problem for path in parts for problem in check_lua.list_part_problems(path)] == []


def test_a_part_of_scripts_that_takes_what_is_the_scripts_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "part.lua"
    path.write_text("local x = 1\n")
    assert check_lua.list_part_problems(path)
    path.write_text("--[[\nWhat it is.\n]]\nlocal x = KEYS[1]\n")
    assert check_lua.list_part_problems(path) == ["parts/part.lua: uses KEYS[1], which is the script's own"]
    script = tmp_path / "take.lua"
    script.write_text(SCRIPT + "-- include part_that_is_not\n")
    assert check_lua.list_problems(script) == ["take.lua: there is no part part_that_is_not"]


def test_queries_and_migrations_say_why() -> None:
    assert check_sql.list_problems(ROOT / "persistence/cold/sql") == []


@pytest.mark.parametrize(
    ("path", "line", "problem"),
    [
        ("protocol/frames.py", "import persistence.hot", "protocol may not import persistence.hot"),
        (
            "persistence/cold/store.py",
            "from persistence.hot import keys",
            "persistence.cold may not import persistence.hot",
        ),
        (
            "persistence/hot/store.py",
            "from ..flusher import batch",
            "persistence.hot may not import persistence.flusher",
        ),
        (
            "gateway/sockets/play.py",
            "def f():\n    import gateway.liveops.x",
            "gateway.sockets may not import gateway.liveops",
        ),
        ("gateway/sessions/rules.py", "import websockets.asyncio", "gateway.sessions may not use websockets"),
        ("loadtest/audit.py", "from persistence.cold import store", "loadtest may not import persistence.cold"),
        ("gateway/cli/__init__.py", "import structlog", "imports structlog while it is imported"),
        ("gateway/app/x.py", "from tests import servers", "gateway.app may not import tests"),
    ],
)
def test_an_import_that_points_up_is_seen(tmp_path: Path, path: str, line: str, problem: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(line + "\n")
    found = check_imports.list_problems(tmp_path)
    assert len(found) == 1 and problem in found[0]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("", "", None),
        ("--[[\n", "-- [[\n", "does not open with a header"),
        ("Take what is there. Running it twice is harmless.\n\n", "", "does not begin with what"),
        ("RETURNS\n  the members\n", "", "no RETURNS"),
        ("  dirty  zset  what is due\n", "", "the header names KEYS pending"),
        ("  dirty  zset", "  dirty  heap", "key dirty has no type"),
        ("local dirty, pending = KEYS[1], KEYS[2]", "local dirty, pending = KEYS[2], KEYS[1]", "1=pending, 2=dirty"),
        ("local lease_ms = tonumber(ARGV[1])", "local lease_s = tonumber(ARGV[1])", "binds 1=lease_s"),
        ("return {dirty", "redis.call('DEL', KEYS[1])\nreturn {dirty", "without being bound"),
    ],
)
def test_a_lua_header_that_lies_is_seen(tmp_path: Path, old: str, new: str, problem: str | None) -> None:
    path = tmp_path / "take.lua"
    path.write_text(SCRIPT.replace(old, new))
    found = check_lua.list_problems(path)
    assert (problem is None and found == []) or (problem is not None and any(problem in line for line in found)), found


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, None),
        ({"queries/b.sql": QUERY}, "find_it is already in a.sql:1"),
        ({"queries/a.sql": QUERY.replace("-- Because somebody asks.\n", "")}, "no reason"),
        ({"queries/a.sql": "SELECT 2;\n" + QUERY}, "SQL before the first"),
        ({"queries/a.sql": QUERY.replace("SELECT 1;", "")}, "no statement"),
        ({"queries/a.sql": QUERY.replace("find_it", "findIt")}, "not a lower_case name"),
        ({"migrations/0003_more.sql": "-- Why. Lock: none. Runs before the code.\n"}, "should be named 0002_"),
        ({"migrations/0002_more.sql": "-- Why.\n"}, "which lock"),
        ({"migrations/0002_more.sql": "CREATE TABLE t ();\n"}, "does not open with why"),
        ({"schema.sql": ""}, "schema.sql: does not open"),
    ],
)
def test_sql_without_a_reason_is_seen(tmp_path: Path, files: dict[str, str], problem: str | None) -> None:
    present = {
        "schema.sql": "-- All of it.\n",
        "queries/a.sql": QUERY,
        "migrations/0001_first.sql": "-- Why. Lock: none. Runs before the code.\n",
    } | files
    for name, text in present.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = check_sql.list_problems(tmp_path)
    assert (problem is None and found == []) or (problem is not None and any(problem in line for line in found)), found
