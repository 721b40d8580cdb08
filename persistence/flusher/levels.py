"""
How an account level follows from a profile's totals: the numbers of the rule. The rule itself is `account_level_of` in
the schema, so that the flush and `wayhold verify` cannot disagree about it.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class LevelRule:
    """
    Points for hours played, kilometres and achievements, each rounded down. Level 2 takes `step_points`, every further
    level `step_points` more than the one before it took; nobody gets past `level_max`.
    """

    points_per_hour: int = 100
    points_per_km: int = 50
    points_per_achievement: int = 100
    step_points: int = 80
    level_max: int = 100

    def as_arguments(self) -> tuple[int, ...]:
        """In the order that `account_level_of` takes them."""
        arguments: tuple[int, ...] = astuple(self)
        return arguments
