"""One `wayhold dev` for all tests of the tier; nothing runs where there is no Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.acceptance.dev_rig import RunningDev, run_dev
from tests.clients.browser import find_chromium


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_chromium() or "chromium" in os.environ.get("WAYHOLD_TEST_REQUIRE", ""):
        return
    for item in items:
        if "tests/clients" in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason="there is no chromium"))


@pytest.fixture(scope="session")
def dev() -> Iterator[RunningDev]:
    with run_dev() as running:
        yield running
