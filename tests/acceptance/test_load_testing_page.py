"""The page on load testing is true: its pytest example is run as it stands, its table of figures is the code's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.figures import FIGURES
from tests.acceptance.dev_rig import REPOSITORY, run_dev

PAGE = REPOSITORY / "docs" / "load-testing.md"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_example_for_pytest_passes(tmp_path: Path) -> None:
    (block,) = re.findall(r"<!-- this block is run by .*?-->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "test_staging.py").write_text(block)
    with run_dev() as dev:
        environment = {**dev.environment(), "WAYHOLD_DATA_DIR": str(dev.data_dir)}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:valkey", "test_staging.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "<svg" in (tmp_path / "load-test.html").read_text()


def test_the_table_of_figures_is_that_of_the_code() -> None:
    table = [f"| `{figure.name}` | {figure.what} |" for figure in FIGURES.values()]
    found = PAGE.read_text().partition("<!-- figures: from the code -->\n")[2].splitlines()[2:]
    assert found[: len(table)] == table, "the table should be:\n" + "\n".join(table)
    assert not found[len(table)].startswith("|")
