"""
The rule for account levels as the settings have it: the flush and `wayhold fill` compute by it, `wayhold verify`
compares with it.
"""

from __future__ import annotations

from gateway.app.settings import Settings
from persistence.flusher.levels import LevelRule

LEVEL_SETTINGS = (
    *("level_points_per_hour", "level_points_per_km", "level_points_per_achievement"),
    *("level_step_points", "level_max"),
)
"""For commands that compute levels: flags like those of a flusher."""


def make_level_rule(settings: Settings) -> LevelRule:
    return LevelRule(
        points_per_hour=settings.level_points_per_hour,
        points_per_km=settings.level_points_per_km,
        points_per_achievement=settings.level_points_per_achievement,
        step_points=settings.level_step_points,
        level_max=settings.level_max,
    )
