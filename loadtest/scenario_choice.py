"""
Which scenario: one that is shipped, by its name, or a class of the user's, as FILE.py:CLASS.

Not here: what a scenario is (scenario.py).
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from loadtest.scenario import Scenario
from loadtest.scenarios.ar_walk import ArWalk
from loadtest.scenarios.games import Idle, OfflineReturn, ReconnectStorm, UnitySession
from loadtest.scenarios.others import LiveopsWatch, Mixed
from loadtest.scenarios.story import EvenStory
from loadtest.target import TargetRefused

DEFAULT = "story"
SHIPPED: dict[str, type[Scenario]] = {
    DEFAULT: EvenStory,
    "ar-walk": ArWalk,
    "unity-session": UnitySession,
    "reconnect-storm": ReconnectStorm,
    "offline-return": OfflineReturn,
    "idle": Idle,
    "liveops-watch": LiveopsWatch,
    "mixed": Mixed,
}


def make_scenario(name: str, parameters: dict[str, Any]) -> Scenario:
    """Raises TargetRefused, saying what would be right."""
    kind = SHIPPED.get(name) or _find_own(name)
    try:
        return kind(**parameters)
    except (ValueError, TypeError) as refused:
        raise TargetRefused(f"--scenario {name}: {refused}") from refused


def read_parameters(given: list[str]) -> dict[str, str]:
    """The NAME=VALUE of each --param. Raises TargetRefused."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise TargetRefused(f"--param wants NAME=VALUE, not {text!r}")
        found[name.strip()] = value.strip()
    return found


def _find_own(name: str) -> type[Scenario]:
    file, colon, class_name = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        near = difflib.get_close_matches(name, SHIPPED, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise TargetRefused(
            f"--scenario knows no {name!r}{hint}: use {', '.join(SHIPPED)}, or FILE.py:CLASS for one of your own"
        )
    path = Path(file)
    if not path.is_file():
        raise TargetRefused(f"--scenario: there is no file {file}")
    spec = importlib.util.spec_from_file_location(f"wayhold_scenario_{path.stem}", path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as fault:
        raise TargetRefused(f"--scenario: {file} cannot be read: {type(fault).__name__}: {fault}") from fault
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Scenario)):
        has = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Scenario) and value.__module__ == spec.name
        ]
        raise TargetRefused(f"--scenario: {file} has no scenario {class_name!r}; it has {', '.join(has) or 'none'}")
    return found
