"""Where a client's tokens come from, and when the one in hand should be replaced."""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import json
import time
from collections.abc import Awaitable, Callable
from typing import Final

# Past this a provider of tokens counts as failed, and the client tries again later.
TOKEN_WAIT_S: Final = 15.0
# The part of its life after which a token is replaced.
TOKEN_LIFE_USED: Final = 0.8

Token = str | Callable[[], str | Awaitable[str]]


class TokenSource:
    """A token, or a function that makes one. Times are of a clock that only goes forward."""

    __slots__ = ("_life_s", "_of", "_since_s", "_token")

    def __init__(self, token: Token) -> None:
        self._of = token
        self._token: str | None = None
        self._since_s = 0.0
        self._life_s: float | None = None

    @property
    def is_constant(self) -> bool:
        """A plain string: there is no other when it is refused."""
        return isinstance(self._of, str)

    async def get(self, fresh: bool) -> str:
        """
        The token in hand, or a new one if it is `fresh` that is wanted or most of its life is over.

        Raises whatever the function raises; TimeoutError.
        """
        if isinstance(self._of, str):
            return self._of
        is_used_up = self._life_s is not None and time.monotonic() - self._since_s >= self._life_s * TOKEN_LIFE_USED
        if self._token is None or fresh or is_used_up:
            async with asyncio.timeout(TOKEN_WAIT_S):
                token = self._of()
                if inspect.isawaitable(token):
                    token = await token
            self._token = token
            self._since_s = time.monotonic()
            self._life_s = find_token_life_s(token)
        return self._token

    def find_refresh_s(self) -> float | None:
        """How long from now until the token in hand should be replaced; None if never."""
        if self.is_constant or self._life_s is None:
            return None
        return max(1.0, self._life_s * TOKEN_LIFE_USED - (time.monotonic() - self._since_s))


def find_token_life_s(token: str) -> float | None:
    """For how long a JWT is good, read from its own claims without judging them; None if it does not say."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        expires_s, issued_s = float(claims["exp"]), float(claims.get("iat", time.time()))
    except (binascii.Error, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    # By the difference, because the phone's clock may be hours off.
    life_s = expires_s - issued_s
    return life_s if 0 < life_s < 10 * 365 * 86_400 else None
