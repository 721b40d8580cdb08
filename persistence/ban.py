"""
What both stores and the gateways call a ban: a player may not play, until when, and what the player is told.
"""

from __future__ import annotations

from dataclasses import dataclass

BAN_MESSAGE_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Ban:
    """
    The last word about a player. `asked_us` (microseconds since 1970) orders words: an older one that comes late
    changes nothing. `until_ms` None: for ever. `is_lifted`: the player may play.
    """

    asked_us: int
    until_ms: int | None
    message: str = ""
    is_lifted: bool = False

    def holds_at(self, now_ms: int) -> bool:
        return not self.is_lifted and (self.until_ms is None or self.until_ms > now_ms)
