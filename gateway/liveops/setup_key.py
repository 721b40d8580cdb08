"""The key of the link that a first start prints: it makes the first operator, once, and soon."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable


class SetupKey:
    """`until_s`: seconds since 1970. An empty key opens nothing."""

    def __init__(self, key: str, until_s: float, *, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._until_s = until_s
        self._clock = clock

    def opens(self, given: str) -> bool:
        if self._key and self._clock() >= self._until_s:
            self.end()
        return bool(self._key) and secrets.compare_digest(given.encode(), self._key.encode())

    def end(self) -> None:
        """It has done its work: no copy of it, in a log or a history, is of use any more."""
        self._key = ""
