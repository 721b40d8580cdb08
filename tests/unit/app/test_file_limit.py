"""A gateway holds no more players than it has files for, and whoever did not ask for more is not warned."""

from __future__ import annotations

import resource

import pytest

from gateway.app.doctor import State, examine_limits
from gateway.app.launch import FILES_SPARE, count_connections_possible
from gateway.app.settings import Settings


def test_stock_settings_are_no_reason_for_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many files as `connections_max`, `wayhold doctor` warned about an installation nobody had touched."""
    settings = Settings.for_dev()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, settings.connections_max))

    def look(*, is_crowd_given: bool) -> tuple[State, str]:
        finding = next(found for found in examine_limits(settings, is_crowd_given=is_crowd_given))
        return finding.state, finding.says

    state, says = look(is_crowd_given=False)
    assert state is State.OK and f"up to {settings.connections_max - FILES_SPARE} players" in says
    assert look(is_crowd_given=True)[0] is State.WARN


@pytest.mark.parametrize(
    ("soft", "possible"), [(1024, 1024 - FILES_SPARE), (65_536, 20_000), (resource.RLIM_INFINITY, 20_000), (100, 1)]
)
def test_connections_leave_files_for_everything_else(soft: int, possible: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, soft))
    assert count_connections_possible(20_000) == possible
