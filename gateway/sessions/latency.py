"""
How long players wait: from a frame to its ack, from an ack to its `saved`. Samples, so that it costs next to nothing.

Of each call of the hot store the connection that waited longest is looked at, and at most `SAMPLES_MAX` updates at once
are followed until they are saved. Percentiles of these lean to the slow side, which is the side to hear about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.telemetry.metrics import Tally

if TYPE_CHECKING:
    from gateway.sessions.connection import Connection

SAMPLES_MAX = 32


class Latency:
    """One per node."""

    __slots__ = ("_following", "_tally")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._following: dict[Connection, tuple[int, float]] = {}

    def note_answer(self, connection: Connection, accepted: int, now: float) -> None:
        """The store has answered; `connection` was the first in the call."""
        self._tally.ack_latency.observe(now - connection.looked_at)
        following = self._following
        if (
            len(following) < SAMPLES_MAX
            and connection not in following
            and accepted > connection.saved_told
            and connection.is_open  # else it is forgotten already, and nobody would tell it what is saved
        ):
            following[connection] = (accepted, now)

    def note_saved(self, connection: Connection, seq: int, now: float) -> None:
        sample = self._following.get(connection)
        if sample is not None and seq >= sample[0]:
            del self._following[connection]
            self._tally.saved_latency.observe(now - sample[1])

    def forget(self, connection: Connection) -> None:
        self._following.pop(connection, None)
