"""Each guard check finds nothing on the tree as it is; what they find without a guard is negative_controls.py's."""

from __future__ import annotations

import pytest

from tests.faults.guard_checks import CHECKS, Ground, run_check

ELSEWHERE = {"schedules_with_faults", "schedules_without_faults"}
"""These run as tests of their own, in tests/property."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CHECKS.keys() - ELSEWHERE))
async def test_whole_tree_passes(name: str, redis_url: str, database_url: str) -> None:
    assert not await run_check(name, Ground(redis_url, database_url))
