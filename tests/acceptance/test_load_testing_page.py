"""The page on load testing is true: its pytest example is run as it stands, its table of figures is the code's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.figures import FIGURES
from tests.acceptance.dev_rig import REPOSITORY, RunningDev, run_dev

PAGE = REPOSITORY / "docs" / "load-testing.md"


@pytest.fixture(scope="module")
def dev() -> Iterator[RunningDev]:
    with run_dev() as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_example_for_pytest_passes(dev: RunningDev, tmp_path: Path) -> None:
    (block,) = re.findall(r"<!-- this block is run by .*?-->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "test_staging.py").write_text(block)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:valkey", "test_staging.py"],
        cwd=tmp_path,
        env={**dev.environment(), "WAYHOLD_DATA_DIR": str(dev.data_dir)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "<svg" in (tmp_path / "load-test.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_without_the_database_the_players_are_asked_and_a_breached_bound_exits_1(
    dev: RunningDev, tmp_path: Path
) -> None:
    report, page = tmp_path / "report.json", tmp_path / "report.html"
    secret = dev.data_dir / "jwt_secret"
    # From a folder where no `dev` is found: nothing but the address and the key is known.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gateway.cli", "loadtest", "--url", dev.ready()["play_url"]),
            *("--token-secret-file", str(secret), "--data-dir", str(tmp_path)),
            *("--players", "30", "--seconds", "2", "--drop-rate", "0.02", "--json", str(report)),
            *("--report", str(page), "--fail-if", "lost > 0", "--fail-if", "accepted > 3"),
        ],
        cwd=tmp_path,
        env=dev.environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr
    assert any("asked 30 of 30 players for their histories" in line for line in lines)
    (breach,) = (line for line in lines if "fail-if" in line)
    assert breach.startswith("  fail-if accepted > 3: it is ")
    assert lines[-1].startswith("audit: ok offered=120 "), lines[-1]
    document = json.loads(report.read_text())
    assert document["findings"] == [] and document["figures"]["commits"] is None
    assert [one["ok"] for one in document["verdict"]["thresholds"]] == [True, False]
    assert "accepted &gt; 3" in page.read_text()


def test_the_table_of_figures_is_that_of_the_code() -> None:
    table = [f"| `{figure.name}` | {figure.what} |" for figure in FIGURES.values()]
    found = PAGE.read_text().partition("<!-- figures: from the code -->\n")[2].splitlines()[2:]
    assert found[: len(table)] == table, "the table should be:\n" + "\n".join(table)
    assert not found[len(table)].startswith("|")
