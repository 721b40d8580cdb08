"""
Simulated players, faults on their network and on the servers, and an audit that shares no code with what it judges.

As a library: `run`, `Options`, `Result`; `Scenario` to write a scenario of your own. They are imported when they are
asked for: a process of players needs none of the report, a walk none of either.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadtest.findings import Finding as Finding
    from loadtest.library import Options as Options
    from loadtest.library import Result as Result
    from loadtest.library import run as run
    from loadtest.scenario import Scenario as Scenario
    from loadtest.target import TargetMissing as TargetMissing
    from loadtest.target import TargetRefused as TargetRefused

__all__ = ["Finding", "Options", "Result", "Scenario", "TargetMissing", "TargetRefused", "run"]

_HOMES = {
    "Finding": "loadtest.findings",
    "Options": "loadtest.library",
    "Result": "loadtest.library",
    "Scenario": "loadtest.scenario",
    "TargetMissing": "loadtest.target",
    "TargetRefused": "loadtest.target",
    "run": "loadtest.library",
}
assert set(_HOMES) == set(__all__)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
