"""
The hot store: everything that is asked of Redis, one method for each operation, named as its script.

The operations are in files by what they are about; this class is all of them, and what everybody else holds. What they
promise about answers and deadlines: client.py.

Not here: what an outcome means for a player (gateway.sessions), when to flush (persistence.flusher).
"""

from __future__ import annotations

from persistence.hot.actions import Actions
from persistence.hot.boards import Boards
from persistence.hot.control import Control
from persistence.hot.copies import Copies
from persistence.hot.flush_side import FlushSide
from persistence.hot.playing import Playing
from persistence.hot.presence import Presence
from persistence.hot.sessions import Sessions
from persistence.hot.shapes import PendingTotals, Settlement, SettleOutcome, Snapshot
from persistence.hot.viewing import Viewing

__all__ = ["HotStore", "PendingTotals", "SettleOutcome", "Settlement", "Snapshot"]


class HotStore(Playing, Actions, Sessions, Copies, FlushSide, Presence, Boards, Control, Viewing):
    """One Redis-compatible server. Safe for many tasks of one event loop."""
