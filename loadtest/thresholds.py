"""
Bounds that a run must keep, as somebody types them: `ack_p99_ms > 20` fails a run whose slowest hundredth took longer.

Promise: a name that is no figure is refused before anybody plays, with the nearest that is one. A figure that the run
did not measure is a breach: a bound on what nobody looked at must not pass. Pure.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.figures import FIGURES, find_near, show
from loadtest.target import TargetRefused

_TERM = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(>=|<=|==|!=|>|<)\s*([-+0-9.eE_]+)\s*\Z")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """The run fails if `name sign bound` is so."""

    name: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.bound:g}"

    def check(self, figures: Mapping[str, float | int | None]) -> Breach | None:
        value = figures.get(self.name)
        if value is None or _OPERATORS[self.sign](float(value), self.bound):
            return Breach(self, value)
        return None


@dataclass(frozen=True, slots=True)
class Breach:
    """A threshold that was not kept. `value` None: the run has no such figure."""

    threshold: Threshold
    value: float | int | None

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.threshold}: the run did not measure it"
        return f"{self.threshold}: it is {show(self.threshold.name, self.value)}"


def parse_threshold(text: str) -> Threshold:
    """Raises TargetRefused, with the nearest figure for a name that is none."""
    found = _TERM.match(text)
    if found is None:
        raise TargetRefused(f"--fail-if wants a figure, a sign and a number, like 'ack_p99_ms > 20', not {text!r}")
    name, sign, number = found.groups()
    if name not in FIGURES:
        near = find_near(name)
        meant = f"; did you mean {near}?" if near else f"; there are: {', '.join(FIGURES)}"
        raise TargetRefused(f"--fail-if does not know {name}{meant}")
    try:
        bound = float(number)
    except ValueError:
        raise TargetRefused(f"--fail-if: {number!r} is no number in {text!r}") from None
    if not math.isfinite(bound):
        raise TargetRefused(f"--fail-if: {number!r} is no bound")
    return Threshold(name, sign, bound)


def list_breaches(thresholds: Sequence[Threshold], figures: Mapping[str, float | int | None]) -> list[Breach]:
    return [breach for threshold in thresholds if (breach := threshold.check(figures)) is not None]


def describe(thresholds: Sequence[Threshold], figures: Mapping[str, float | int | None]) -> list[dict[str, Any]]:
    """For the report: every threshold, kept or not."""
    return [
        {"fail_if": str(one), "value": figures.get(one.name), "ok": one.check(figures) is None} for one in thresholds
    ]
