"""The console's files: what others wrote is as they wrote it, what we wrote is safe, and all of it is small."""

from __future__ import annotations

import gzip
import hashlib
import re
import tomllib
from pathlib import Path

from gateway.liveops.actions.catalogue import ACTIONS

ROOT = Path(__file__).parents[2]
CONSOLE = ROOT / "gateway" / "liveops" / "console"
VENDOR = CONSOLE / "vendor"
GZIPPED_BYTES_MAX = 150 * 1024
LINES_MAX = 400

OURS = sorted(path for path in CONSOLE.rglob("*") if path.is_file() and VENDOR not in path.parents)


def test_third_party_files_are_those_of_their_packages_and_all_of_them_are_listed() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE)
    sums = {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name, _ in rows}
    assert sums == dict(rows)
    files = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()}
    assert files == {*sums, "README.md"}


def test_there_is_one_folder_of_third_party_files() -> None:
    found = [path for path in ROOT.rglob("vendor") if path.is_dir()]
    # What begins with a dot is an environment or a cache, and not of the repository.
    assert [path for path in found if not any(part[0] == "." for part in path.relative_to(ROOT).parts)] == [VENDOR]


def test_the_whole_console_is_at_most_150_kb_gzipped() -> None:
    served = [path for path in CONSOLE.rglob("*") if path.suffix in (".html", ".js", ".css", ".svg")]
    assert len(served) > 20
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in served) <= GZIPPED_BYTES_MAX


def test_every_script_is_short_enough_to_be_read_in_one_sitting() -> None:
    assert not [path.name for path in OURS if path.suffix == ".js" and len(path.read_text().splitlines()) > LINES_MAX]


def test_no_script_makes_markup_or_code_from_data_and_no_page_needs_an_exception_from_the_policy() -> None:
    for path in OURS:
        if path.suffix not in (".js", ".html"):
            continue
        text = path.read_text()
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert forbidden not in text, f"{path.name}: {forbidden}"
        if path.suffix == ".html":
            assert not re.search(r"<style|style=|<script(?![^>]*\bsrc=)| on[a-z]+=", text), path.name


def test_nothing_refers_to_another_server() -> None:
    for path in OURS:
        links = set(re.findall(r"""["'(]((?:https?:)?//[^"')\s]+)""", path.read_text(errors="replace")))
        assert links <= {"http://www.w3.org/2000/svg"}, path.name


def test_the_wheel_takes_every_file_of_the_console_along() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    taken = {path for pattern in patterns for path in CONSOLE.parent.glob(pattern)}
    assert not [path for path in CONSOLE.rglob("*") if path.is_file() and path not in taken]


def test_the_console_offers_the_actions_that_there_are_to_the_roles_that_may_do_them() -> None:
    text = (CONSOLE / "js" / "action_kinds.js").read_text()
    offered = {
        name: (role, wide or None)
        for name, role, wide in re.findall(
            r'^  (\w+): \{\s+title: "[^"]+", role: "(\w+)"(?:, wideRole: "(\w+)")?', text, re.MULTILINE
        )
    }
    assert offered == {
        kind.name: (kind.role.label, None if kind.wide_role is None else kind.wide_role.label)
        for kind in ACTIONS.values()
    }
