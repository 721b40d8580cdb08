"""
Who may open a socket: caps on sockets in all and per address, and on handshakes per second.

Promise: these refuse by HTTP 503 before a WebSocket exists, because they are for floods only. What a player must be
able
to read (a bad token, an overloaded store) is said later by `bye` and a close code.

Not here: what a connection may do once it is open (gateway.sessions).
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable

from gateway.sessions.token_bucket import TokenBucket

HANDSHAKES_BURST_S = 2.0
"""A node that was just started takes this many seconds' worth of handshakes at once."""

UNLIKELY_FACTOR = 1.1
"""Past the cap times this a socket is dropped without an answer: answering costs memory that we do not have."""


class Admission:
    """Counts sockets. `enter` and `leave` come in pairs, for every socket that was ever made."""

    def __init__(
        self,
        *,
        connections_max: int,
        connections_per_address_max: int,
        handshakes_per_s: float,
        clock: Callable[[], float],
        random_source: random.Random | None = None,
    ) -> None:
        self._connections_max = connections_max
        self._per_address_max = connections_per_address_max
        self._clock = clock
        self._random = random_source or random.Random()
        self._handshakes = TokenBucket(handshakes_per_s, max(1.0, handshakes_per_s * HANDSHAKES_BURST_S), clock())
        self._by_address: dict[str, int] = {}
        self.connections = 0

    def enter(self, address: str) -> bool:
        """Count a socket; False when there are so many that it should be dropped without a word."""
        self.connections += 1
        self._by_address[address] = self._by_address.get(address, 0) + 1
        return self.connections <= self._connections_max * UNLIKELY_FACTOR + 10

    def leave(self, address: str) -> None:
        self.connections -= 1
        left = self._by_address.get(address, 1) - 1
        if left > 0:
            self._by_address[address] = left
        else:
            self._by_address.pop(address, None)

    def find_refusal(self, address: str) -> str | None:
        """
        Why a handshake from this address is refused now, as a flood is; None when it may go on. Past the cap of all
        sockets a hello is told so in words that a client can read.
        """
        # A unix socket has no address: whoever may open it is local and trusted.
        if address and self._by_address.get(address, 0) > self._per_address_max:
            return "too many connections from this address"
        if not self._handshakes.take(1, self._clock()):
            return "too many handshakes"
        return None

    def retry_after_s(self) -> int:
        """Spread over some seconds, or all who were refused come back together."""
        return 1 + self._random.randrange(5)

    @property
    def is_nearly_full(self) -> bool:
        """At 95 % a load balancer should look elsewhere."""
        return self.connections >= self._connections_max * 0.95


def address_of(peername: object) -> str:
    """
    What one address is for the caps: an IPv4 address, the /64 of an IPv6 one (one host has as many as it likes), ""
    for a unix socket.
    """
    if not isinstance(peername, tuple) or not peername:
        return ""
    host = str(peername[0]).partition("%")[0]
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
