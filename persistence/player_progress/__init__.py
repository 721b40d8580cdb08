"""Players' progress for services: see player_progress.py."""

from persistence.player_progress.player_progress import PlayerProgress
from persistence.player_progress.shapes import (
    ActionTicket,
    HistoryPage,
    Leaderboard,
    LeaderboardRow,
    PlayerState,
    progress_key,
)

__all__ = [
    "ActionTicket",
    "HistoryPage",
    "Leaderboard",
    "LeaderboardRow",
    "PlayerProgress",
    "PlayerState",
    "progress_key",
]
