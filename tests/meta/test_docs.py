"""
The docs say what the code does: every public name is in them, every number that they repeat is the code's, every link
and every file that they name is there, every proof that they claim exists.

Two tables of docs/interfaces.md are written from the code. When one of them is old, its test prints the new one.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from gateway.app.errors import ExitCode
from gateway.app.settings import Setting, list_settings
from gateway.app.settings_source import INTERNAL_NAMES
from gateway.cli import COMMANDS
from gateway.telemetry.health import Health
from gateway.telemetry.metrics import METRICS
from persistence.hot import scripts
from protocol.closes import CloseCode
from protocol.errors import ErrorCode

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])

LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
FILE_ENDS = (".py", ".lua", ".sql", ".md", ".toml", ".yaml", ".json", ".sh", ".txt", ".gpx")
OUR_FOLDERS = ("protocol", "persistence", "gateway", "loadtest", "tests", "tools", "docs", "clients", ".ci")


@cache
def read(path: Path) -> str:
    return path.read_text()


@cache
def page(name: str) -> str:
    return read(DOCS / name)


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of the same rank or a higher one."""
    found = re.search(rf"^(#+) +{re.escape(heading)} *$", text, re.MULTILINE)
    assert found, f"there is no heading {heading!r}"
    rank = len(found[1])
    following = re.search(rf"^#{{1,{rank}}} ", text[found.end() :], re.MULTILINE)
    return text[found.end() :][: following.start() if following else None]


def names_in(text: str) -> set[str]:
    """Everything in backticks, as it stands and word by word."""
    found: set[str] = set()
    for code in CODE.findall(FENCE.sub("", text)):
        found.add(code)
        found.update(re.findall(r"[\w./-]+", code))
    return found


def missing(wanted: set[str], text: str) -> list[str]:
    return sorted(wanted - names_in(text))


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_setting_is_documented() -> None:
    settings = section(page("interfaces.md"), "Settings")
    assert not missing({setting.env for setting in list_settings()} | INTERNAL_NAMES, settings)
    assert not missing({setting.flag for setting in list_settings() if setting.flag}, settings)


def test_every_error_and_close_code_is_documented() -> None:
    everything = "\n".join(read(path) for path in PAGES)
    for code in (*ErrorCode, *CloseCode):
        assert re.search(rf"\b{code.value}\b[^\n]*\b{code.name}\b", everything), f"{code.value} {code.name}"
    on_call = section(page("operations.md"), "Close and error codes")
    assert not [code for code in (*ErrorCode, *CloseCode) if str(code.value) not in on_call]


def test_every_metric_is_documented() -> None:
    assert not missing({metric.name for metric in METRICS}, section(page("interfaces.md"), "Metrics"))


def test_every_make_target_is_documented() -> None:
    makefile = read(ROOT / "Makefile")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert phony
    targets |= set(phony[1].replace("\\\n", " ").split())
    assert len(targets) > 10
    assert not missing(targets - {"setup-run", "setup-dev"}, section(page("interfaces.md"), "make"))


def test_targets_without_anything_behind_them_are_said_to_be_so() -> None:
    empty = re.search(
        r"^([a-z -]+):\n\t@echo 'make \$@: not part of Wayhold yet'", read(ROOT / "Makefile"), re.MULTILINE
    )
    row = re.search(r"^\| (.*) \| names that are kept free", section(page("interfaces.md"), "make"), re.MULTILINE)
    assert set(empty[1].split() if empty else []) == set(re.findall(r"`make ([a-z-]+)`", row[1] if row else ""))


def test_every_script_is_documented() -> None:
    files = {path.stem for path in (ROOT / "persistence" / "hot" / "lua").glob("*.lua")}
    assert files == set(scripts.NAMES)
    assert not missing(files, section(page("architecture.md"), "Scripts"))


def list_tables() -> Iterator[tuple[str, set[str], set[str]]]:
    """(table, columns, generated columns) of schema.sql."""
    schema = read(ROOT / "persistence" / "cold" / "sql" / "schema.sql")
    for name, body in re.findall(r"^CREATE TABLE (\w+) \(\n(.*?)^\)", schema, re.MULTILINE | re.DOTALL):
        columns = re.findall(r'^    "?([a-z_]+)"? (?=[a-z]).*$', body, re.MULTILINE)
        generated = re.findall(r"^    (\w+) .*GENERATED ALWAYS", body, re.MULTILINE)
        yield name, set(columns), set(generated)


def test_every_table_and_column_is_documented() -> None:
    tables = list(list_tables())
    assert len(tables) >= 8
    for name, columns, generated in tables:
        text = section(page("data-model.md"), name)
        assert not missing(columns, text), f"{name}: {missing(columns, text)}"
        for column in generated:
            assert re.search(rf"`{column}`.*\*\*generated\*\*", text), f"{name}.{column} is generated"


def test_every_index_is_documented() -> None:
    schema = read(ROOT / "persistence" / "cold" / "sql" / "schema.sql")
    assert not missing(set(re.findall(r"^CREATE INDEX (\w+)", schema, re.MULTILINE)), page("data-model.md"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_flag_is_documented(command: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(COMMANDS[command]).add_arguments(parser)
    row = re.search(rf"^\| `{command}[ `].*$", section(page("interfaces.md"), "Commands"), re.MULTILINE)
    assert row, f"{command} has no row"
    of_settings = {setting.flag for setting in list_settings()} | {"--config"}
    flags = {flag for action in parser._actions for flag in action.option_strings} - of_settings
    assert not missing(flags, row[0])


def test_every_exit_code_is_documented() -> None:
    text = section(page("interfaces.md"), "Exit codes")
    for code in ExitCode:
        assert re.search(rf"^\| {code.value} \|", text, re.MULTILINE), code


def test_every_reason_of_readyz_is_documented() -> None:
    now = 0.0
    health = Health(lambda: now)
    health.is_draining = health.is_full = health.is_broken = True
    health.note_lag(1.0)
    health.note_redis("gone")
    health.note_postgres("gone")
    health.warnings.append("unsafe")
    now = 60.0
    reasons = health.judge().reasons
    assert len(reasons) == 8
    text = section(page("operations.md"), "What each reason of readyz means")
    for reason in reasons:
        words = re.split(r": (?:gone|unsafe)| \d", reason)[0]
        assert words in text, reason


# ── tables that are written from the code ───────────────────────────────────────────────────────────────────────────


def shown(setting: Setting, value: object) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if setting.name.endswith("port"):
        return str(value)
    if isinstance(value, (int, float)):
        if "bytes" in setting.name and value % 1024 == 0:
            return f"{value // 2**20:,} MiB" if value % 2**20 == 0 else f"{value // 1024:,} KiB"
        return f"{value:,.10g}" if isinstance(value, float) else f"{value:,}"
    return f"`{value}`"


def settings_table() -> str:
    lines = [
        "| environment | flag | default | bounds | what it is; ↑ what gets worse when raised, ↓ when lowered |",
        "|---|---|---|---|---|",
    ]
    for setting in list_settings():
        default = shown(setting, setting.default)
        if setting.dev_default != setting.default:
            default += f" ({shown(setting, setting.dev_default)} in `dev`)"
        bounds = "–"
        if setting.choices:
            bounds = ", ".join(f"`{choice}`" for choice in setting.choices)
        elif setting.low is not None or setting.high is not None:
            low = "" if setting.low is None else shown(setting, _whole(setting.low))
            high = "" if setting.high is None else shown(setting, _whole(setting.high))
            bounds = f"{low} … {high}".strip()
        about = setting.about.replace("|", "\\|")
        about += f" ↑ {setting.raised}." if setting.raised else ""
        about += f" ↓ {setting.lowered}." if setting.lowered else ""
        flag = f"`{setting.flag}`" if setting.flag else "none"
        lines.append(f"| `{setting.env}` | {flag} | {default} | {bounds} | {about} |")
    return "\n".join(lines)


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def metrics_table() -> str:
    lines = ["| metric | kind | what it counts |", "|---|---|---|"]
    for metric in METRICS:
        name = f"`{metric.name}`" + (f" `{{{metric.label}}}`" if metric.label else "")
        kind = "gauge, computed" if metric.kind == "derived" else metric.kind
        lines.append(f"| {name} | {kind} | {metric.about} |")
    return "\n".join(lines)


@pytest.mark.parametrize(("name", "table"), [("settings", settings_table()), ("metrics", metrics_table())])
def test_table_is_that_of_the_code(name: str, table: str) -> None:
    found = re.search(rf"<!-- {name}: from the code -->\n(.*?)\n<!-- end -->", page("interfaces.md"), re.DOTALL)
    assert found, f"docs/interfaces.md has no table {name}"
    assert found[1] == table, f"the table {name} of docs/interfaces.md is old, this is the new one:\n{table}"


UNITS = {
    "": 1,
    "KiB": 1024,
    "MiB": 2**20,
    "ms": 0.001,
    "s": 1,
    "min": 60,
    "h": 3600,
    "days": 86_400,
}
BOUND = re.compile(r"^\|[^|]+\| ([\d,.]+) ?([A-Za-z]*) \| `([\w.]+)\.([A-Z][A-Z_0-9]+)` \|$", re.MULTILINE)


def test_bounds_are_those_of_the_code() -> None:
    table = section(page("architecture.md"), "Bounds and deadlines")
    rows = BOUND.findall(table)
    assert len(rows) == len(re.findall(r"^\| (?!what|-)", table, re.MULTILINE)), "a row cannot be read"
    assert len(rows) > 40
    for number, unit, module, constant in rows:
        value = getattr(importlib.import_module(module), constant)
        said = float(number.replace(",", "")) * UNITS[unit]
        if constant.endswith("_MS"):
            said *= 1000
        assert said == pytest.approx(value), f"{module}.{constant} is {value}"


# ── links, files, proofs ────────────────────────────────────────────────────────────────────────────────────────────


def anchors(path: Path) -> set[str]:
    found = set(re.findall(r'<a id="([^"]+)">', read(path)))
    for heading in HEADING.findall(FENCE.sub("", read(path))):
        text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).replace("`", "")
        found.add(re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in LINK.findall(FENCE.sub("", read(path))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        to = (path.parent / name).resolve() if name else path
        assert to.exists(), f"{target} does not exist"
        if anchor and to.suffix == ".md":
            assert anchor in anchors(to), f"{target}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_is_named_exists(path: Path) -> None:
    for code in CODE.findall(FENCE.sub("", read(path))):
        if re.search(r"[\s*<>…{}$]|NNNN", code):
            continue
        name = code.split("::")[0].rstrip("/")
        is_ours = name.split("/")[0] in OUR_FOLDERS and "/" in name
        if is_ours and (name.endswith(FILE_ENDS) or code.endswith("/") or "." not in name):
            assert (ROOT / name).exists(), f"{code} does not exist"


@cache
def names_of_tests(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(read(path)))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }


PROOF = re.compile(r"\[`(test_\w+)`\]\(([^)]+\.py)\)")


def test_every_proof_exists() -> None:
    """A link whose text is a test leads to the file that holds it."""
    count = 0
    for path in PAGES:
        for name, target in PROOF.findall(read(path)):
            count += 1
            assert name in names_of_tests((path.parent / target).resolve()), f"{target} has no {name}"
    assert count > 20


def test_every_promise_is_proven_or_said_not_to_be() -> None:
    text = section(page("guarantees.md"), "What dies, and what that costs")
    rows = re.findall(r"^\| (?!what|-)(.*) \|$", text, re.MULTILINE)
    assert len(rows) >= 7
    for row in rows:
        proof = row.rsplit("|", 1)[1]
        assert ("**proven**" in proof and PROOF.search(proof)) or "**not yet**" in proof, row


def test_nothing_is_said_of_how_these_pages_came_about() -> None:
    """A page tells of the project. A path of somebody's machine in it helps nobody."""
    for path in PAGES:
        assert not re.search(r"(?<![\w.])/(?:work|home|root)/", read(path)), path
