"""
The table of Redis keys: every name that Wayhold uses, and how players spread over partitions.

A partition's hash tag makes all keys of its players fall into one cluster slot, so that one script can change them
together.
"""

from __future__ import annotations

import binascii
import hashlib
from functools import lru_cache

from persistence.progress_key import ProgressKey

PARTITIONS = 64
"""Redis is replaceable, so this changes by draining: flush everything, then start with another number."""


def notices_channel(node: str) -> str:
    """Where flushers tell a gateway what they saved for its players."""
    return f"wayhold:notices:{node}"


def beats_key(node: str) -> str:
    """string: how often this gateway has looked at Redis. It only rises, unless Redis has forgotten something."""
    return f"wayhold:beats:{node}"


def active_players_key(experience: str) -> str:
    """zset: user ids by their last activity, trimmed to `ACTIVE_PLAYERS_S`."""
    return f"experience:{experience}:active_players"


ACTIVE_PLAYERS_S = 1800

ACTIVE_EXPERIENCES_KEY = "experiences:active"
"""zset: experiences by their last activity, so that the players of all of them can be counted."""

ACTIVE_EXPERIENCES_MAX = 1000


def board_key(experience: str, board: str) -> str:
    """zset: user ids by score, in millionths; lives `BOARD_S`."""
    return f"experience:{experience}:leaderboard:{board}"


def board_versions_key(experience: str, board: str) -> str:
    """hash: the version of each player's progress that a score is of, and how far the board is; ends with the board."""
    return f"experience:{experience}:leaderboard_versions:{board}"


def boards_key(experience: str) -> str:
    """zset: the boards of an experience that there are, by the time in ms at which they end."""
    return f"experience:{experience}:leaderboards"


BOARD_S = 300
"""How long a board lives before it is filled again: what a lost write to it can cost at most."""

MAINTENANCE_KEY = "wayhold:maintenance"
"""string: the last word about maintenance, for a gateway that cannot ask Postgres."""


def drained_key(node: str) -> str:
    """string: this gateway has heard that it should send its players away ("1") or take them again ("0")."""
    return f"wayhold:drained:{node}"


FENCE_KEY = "players:fence"
"""
zset: the lately erased, as `erased_name` calls them, by the time in ms before which a connection counts for nothing.
One key for all, beside the fence of each player: whoever writes for many players at once looks whether there is any.
"""

ERASED_CHANNEL = "wayhold:erased"
"""Where an erase tells every gateway whose sockets to close."""


def erased_name(user_id: str) -> str:
    """What a fence calls an erased player: after an erase the id itself must stand nowhere. Lua can compute it, too."""
    return hashlib.sha1(user_id.encode(), usedforsecurity=False).hexdigest()


class HotKeys:
    """Key names for a given number of partitions. Cheap: asked for on every message."""

    __slots__ = ("partitions",)

    def __init__(self, partitions: int = PARTITIONS) -> None:
        self.partitions = partitions

    def partition(self, user_id: str) -> int:
        """crc16 as Redis Cluster computes it, so that other languages find it in their Redis client."""
        return binascii.crc_hqx(user_id.encode(), 0) % self.partitions

    def session(self, user_id: str) -> str:
        """
        hash: the active session: id, current_experience, current_location, session_start, last_activity, node,
        connection, device, claims.
        """
        return f"{{p{self.partition(user_id)}}}:player:{user_id}:session"

    def progress(self, key: ProgressKey) -> str:
        """
        hash: copy, version, base, accepted and saved seq per device, and the state as flat fields
        (`protocol.state`).
        """
        return f"{{p{self.partition(key.user_id)}}}:player:{key.user_id}:progress:{key.experience}"

    def pending(self, key: ProgressKey) -> str:
        """list: entries that Postgres does not have yet, oldest first."""
        return f"{{p{self.partition(key.user_id)}}}:player:{key.user_id}:pending:{key.experience}"

    def pushes(self, user_id: str) -> str:
        """list: messages for the player that the client may not have seen yet, the newest last."""
        return f"{{p{self.partition(user_id)}}}:player:{user_id}:pushes"

    def ban(self, user_id: str) -> str:
        """string: the last word about whether this player may play: when it was said, until when, what to tell."""
        return f"{{p{self.partition(user_id)}}}:player:{user_id}:ban"

    def farewell(self, user_id: str) -> str:
        """string: why an operator ended a session of this player, for whoever missed the notice."""
        return f"{{p{self.partition(user_id)}}}:player:{user_id}:farewell"

    def fence(self, user_id: str) -> str:
        """string: after an erase, the time in ms before which a read of Postgres must not be installed."""
        return f"{{p{self.partition(user_id)}}}:player:{erased_name(user_id)}:fence"

    def dirty(self, partition: int) -> str:
        """zset: progress with pending entries by the time in ms it is due; a claim moves it past its lease."""
        return f"{{p{partition}}}:dirty"

    def quarantined(self, partition: int) -> str:
        """zset: progress that Postgres refuses, by the time in s it was put aside; an operator releases them."""
        return f"{{p{partition}}}:quarantined"

    def expiry(self, partition: int) -> str:
        """zset: user ids by the time in ms their session expires."""
        return f"{{p{partition}}}:expiry"

    def of_group(self, key: ProgressKey) -> tuple[str, str, str, str, str]:
        """session, progress, pending, dirty, expiry: what a script about one progress is given, in this order."""
        return _of_group(self.partition(key.user_id), key)


@lru_cache(maxsize=65_536)
def _of_group(partition: int, key: ProgressKey) -> tuple[str, str, str, str, str]:
    tag = f"{{p{partition}}}"
    player = f"{tag}:player:{key.user_id}"
    return (
        f"{player}:session",
        f"{player}:progress:{key.experience}",
        f"{player}:pending:{key.experience}",
        f"{tag}:dirty",
        f"{tag}:expiry",
    )
