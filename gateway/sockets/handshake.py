"""
The HTTP side of a player socket: which upgrade requests are answered how.

Promise: a well-formed upgrade of the play path is always accepted, whatever subprotocol it offers, because game engines
and browsers cannot see an HTTP refusal. Raw refusals are for floods (503), wrong paths (404) and foreign origins (403),
and for what is no WebSocket handshake at all (the library's 400, 405, 426, 431, 505).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from protocol.codec import SUBPROTOCOLS

PLAY_PATH = "/v1/play"

SECRET_PARAMETERS = frozenset({"token", "access_token", "jwt"})
"""Tokens travel in frames: in a URL they end up in logs, so a client that sends one learns at once not to."""


@dataclass(frozen=True, slots=True)
class Origins:
    """Which browser origins may connect. A client that is no browser sends none, and its token is what counts."""

    is_any: bool
    allowed: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Origins:
        """Comma-separated; `*` for any; empty for those of the gateway's own host."""
        names = {name.strip().rstrip("/").lower() for name in text.split(",") if name.strip()}
        return cls("*" in names, frozenset(names - {"*"}))

    def allows(self, origin: str, host: str) -> bool:
        """Exact, never by prefix or suffix: an attacker chooses the rest of the name."""
        if self.is_any:
            return True
        origin = origin.lower()
        if self.allowed:
            return origin in self.allowed
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and bool(host) and parts.netloc == host.lower()


def find_refusal(request: Request, protocol: ServerProtocol, origins: Origins) -> Response | None:
    """The answer to a request that is refused before the library looks at it."""
    path, _, query = request.path.partition("?")
    if path != PLAY_PATH:
        return protocol.reject(HTTPStatus.NOT_FOUND, f"Players connect to {PLAY_PATH}.\n")
    if query and SECRET_PARAMETERS & {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}:
        return protocol.reject(HTTPStatus.BAD_REQUEST, "Tokens travel in the hello frame, never in the URL.\n")
    named = request.headers.get_all("Origin")
    # More than one is refused by the library as a malformed request.
    if len(named) == 1 and not origins.allows(named[0], _first(request.headers.get_all("Host"))):
        return protocol.reject(HTTPStatus.FORBIDDEN, "This origin may not connect.\n")
    return None


def refuse_flood(protocol: ServerProtocol, reason: str, retry_after_s: int) -> Response:
    response = protocol.reject(HTTPStatus.SERVICE_UNAVAILABLE, f"Refused: {reason}.\n")
    response.headers["Retry-After"] = str(retry_after_s)
    return response


def select_subprotocol(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The best of ours that the client offers; none is no failure but the JSON dialect."""
    for name in SUBPROTOCOLS:
        if name in offered:
            return Subprotocol(name)
    return None


def _first(values: Sequence[str]) -> str:
    return values[0] if values else ""
