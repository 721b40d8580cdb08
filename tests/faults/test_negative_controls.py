"""A few guards are taken out in every test run; `make faults` takes out all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.guard_checks import CHECKS
from tests.faults.negative_controls import (
    CONTROLS,
    PACKAGES,
    Control,
    Patch,
    PatchDoesNotApply,
    break_tree,
    copy_tree,
    run_controls,
)
from tests.servers import Servers

QUICK = ("saved before COMMIT", "snapshot of a part of pending", "dedupe")


@pytest.mark.slow
async def test_tree_without_a_guard_is_caught(servers: Servers) -> None:
    chosen = [control for control in CONTROLS if control.name in QUICK]
    assert len(chosen) == len(QUICK)
    outcomes = await run_controls(chosen, servers)
    assert [str(outcome) for outcome in outcomes if not outcome.is_caught] == []


def test_every_control_still_applies_and_its_check_exists(tmp_path: Path) -> None:
    """A guard whose text has changed would be taken out no more, and its control pass for ever."""
    copy_tree(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(PACKAGES)
    for control in CONTROLS:
        assert control.check in CHECKS
        before = {patch.path: (tmp_path / patch.path).read_text() for patch in control.patches}
        break_tree(tmp_path, control)
        for path, text in before.items():
            broken = (tmp_path / path).read_text()
            assert broken != text
            if path.endswith(".py"):
                compile(broken, path, "exec")
            (tmp_path / path).write_text(text)


def test_control_that_does_not_apply_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("guard()\nguard()\n")
    for old in ("guard()\n", "gone()\n"):
        with pytest.raises(PatchDoesNotApply):
            break_tree(tmp_path, Control("c", (Patch("a.py", old, ""),), "whole_backlog", frozenset({"lost"})))
