"""
What a node needs to know about sessions, and the bounds that no operator should have to think about.

Not here: where values come from (gateway.app.settings); the bounds of the wire (protocol.limits).
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.limits import WINDOW

HEARTBEATS_MISSED_MAX = 2
"""A phone's radio may lose one ping; two in a row and it is gone."""

OPEN_DEADLINE_S = 8.0
"""A hello is answered by then, if only by a goodbye: below the client's own patience of ten."""

OPEN_ATTEMPTS_MAX = 8
"""
How often a hello looks again after something changed under it. Each time somebody else made progress, so eight is a
crowd.
"""

RECOVER_DEADLINE_S = 30.0
"""How long a live connection waits for its copy to be rebuilt before it is told to come back."""

LEAVE_DEADLINE_S = 10.0
"""A `left` comes by then, saved or not."""

OUTAGE_DEADLINE_S = 30.0
"""
How long connections are kept while Redis does not answer. A restart on a big log file fits; longer, and another node
may be better.
"""

PONG_DEADLINE_S = 0.5
"""
A ping is answered by then without a look at the hot copy. With the timer's step it stays below the second that is
promised.
"""

BAD_FRAMES_MAX = 20
BAD_FRAMES_PERIOD_S = 60.0
"""So many bad frames in so long: the client has a fault, and coming back will not mend it."""

FRAMES_PER_S_MAX = 2_000
"""Frames of any kind from one connection. The rate of updates is limited far below; this only ends floods."""

QUEUE_BYTES_MAX = 1 << 20
"""Updates of one connection waiting for Redis; past it reading stops, as past the window."""

QUERIES_MAX = 4
"""Queries of one connection under way at once."""

EVENT_AGE_MAX_MS = 90 * 86_400_000
EVENT_AHEAD_MAX_MS = 5 * 60_000
"""What an event may claim about when it happened: an offline walk of weeks, but not a stuck clock."""

# A ping must be answered while its sender still waits for it.
assert PONG_DEADLINE_S < 1.0
# A hello that waits for a store must end before the client gives up and comes again, doubling the load.
assert OPEN_DEADLINE_S < 10.0


@dataclass(frozen=True, slots=True)
class SessionRules:
    """The operator's choices. `node` names this process: unique, and the same as long as it lives."""

    node: str
    heartbeat_s: float = 20.0
    hello_timeout_s: float = 10.0
    session_expiry_s: float = 3600.0
    window: int = WINDOW
    gather_s: float = 0.0
    updates_per_s: float = 100.0
    updates_burst: int = 2_000
    drain_s: float = 10.0
    connections_max: int = 20_000
    redis_high_water_share: float = 0.8

    @property
    def silence_s(self) -> float:
        """How long a connection may say nothing."""
        return self.heartbeat_s * HEARTBEATS_MISSED_MAX
