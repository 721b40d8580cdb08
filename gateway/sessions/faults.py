"""
The one place that turns what went wrong into what a client is told: exceptions into closes, exceptions into errors.

Promise: the text a client gets is ours, never that of an exception: no paths, no statements, no addresses. One fault
gives an error frame or a close, never both. A fault that we did not expect closes with a code that lets the client
resume: whatever state we mixed up, a new connection does not have it.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from gateway.sessions.tokens import TokenRefused
from persistence.errors import PlayerErased, StoreFull, StoreUnavailable
from protocol.closes import CloseCode
from protocol.errors import ErrorCode

_RETRY_MS = (1_000, 5_000)
"""Those who are sent away together must not come back together."""


class Goodbye(Exception):
    """
    A connection ends with this code; raised where a flow finds that it cannot go on. `message` is an operator's word to
    the player.
    """

    def __init__(self, code: CloseCode, retry_after_ms: int | None = None, message: str = "") -> None:
        super().__init__(code.name)
        self.code = code
        self.retry_after_ms = retry_after_ms
        self.message = message


@dataclass(frozen=True, slots=True)
class Close:
    code: CloseCode
    retry_after_ms: int | None
    is_expected: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Error:
    code: ErrorCode
    message: str
    retry_after_ms: int | None
    is_expected: bool


def close_of(error: BaseException) -> Close:
    """How a connection ends that `error` made impossible."""
    match error:
        case Goodbye():
            return Close(error.code, error.retry_after_ms, True, error.message)
        case TokenRefused():
            code = CloseCode.TOKEN_EXPIRED if error.is_expired else CloseCode.UNAUTHENTICATED
            return Close(code, None, True)
        case PlayerErased():
            return Close(CloseCode.PLAYER_DELETED, None, True)
        case StoreFull():
            return Close(CloseCode.OVERLOADED, retry_after_ms(), True)
        case StoreUnavailable() | TimeoutError() | asyncio.CancelledError():
            return Close(CloseCode.UNAVAILABLE, retry_after_ms(), True)
        case _:
            return Close(CloseCode.UNAVAILABLE, retry_after_ms(), False)


def error_of(error: BaseException) -> Error:
    """What a question is answered that `error` made impossible to answer; the connection stays."""
    match error:
        case TokenRefused():
            return Error(ErrorCode.UNAUTHENTICATED, "the token is not valid", None, True)
        case StoreFull():
            return Error(ErrorCode.OVERLOADED, "the hot store is full", retry_after_ms(), True)
        case StoreUnavailable() | TimeoutError():
            return Error(ErrorCode.UNAVAILABLE, "a store does not answer", retry_after_ms(), True)
        case _:
            return Error(ErrorCode.UNAVAILABLE, "this cannot be answered now", retry_after_ms(), False)


def retry_after_ms() -> int:
    return random.randint(*_RETRY_MS)
