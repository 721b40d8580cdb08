"""
How long something takes: a number, or a distribution that each player draws from.

    90                    always
    uniform:30:300        evenly between
    exponential:120       mean
    normal:120:30         mean, standard deviation; never below 0
    lognormal:120:0.8     median, shape: most are short, some are very long, as sessions are

Pure.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

_VALUES = {"constant": 1, "uniform": 2, "exponential": 1, "normal": 2, "lognormal": 2}


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of seconds."""

    kind: str
    values: tuple[float, ...]

    def draw(self, rng: random.Random) -> float:
        first, *rest = self.values
        if self.kind == "constant":
            return first
        if self.kind == "uniform":
            return rng.uniform(first, rest[0])
        if self.kind == "exponential":
            return rng.expovariate(1 / first) if first else 0.0
        if self.kind == "normal":
            return max(0.0, rng.gauss(first, rest[0]))
        return rng.lognormvariate(math.log(first), rest[0]) if first else 0.0

    def __str__(self) -> str:
        values = ":".join(f"{value:g}" for value in self.values)
        return values if self.kind == "constant" else f"{self.kind}:{values}"


def parse_distribution(text: str) -> Distribution:
    """Raises ValueError, saying what it wants."""
    kind, _, rest = text.strip().partition(":")
    if not rest:
        kind, rest = "constant", kind
    wants = f"a number of seconds, or {', '.join(f'{name}:…' for name in _VALUES if name != 'constant')}"
    try:
        values = tuple(float(value) for value in rest.split(":"))
    except ValueError:
        raise ValueError(f"{text!r} is not {wants}") from None
    if kind not in _VALUES or len(values) != _VALUES[kind] or not all(0 <= value <= 86_400 for value in values):
        raise ValueError(f"{text!r} is not {wants}")
    if kind == "uniform" and values[0] > values[1]:
        raise ValueError(f"{text!r} ends before it begins")
    return Distribution(kind, values)
