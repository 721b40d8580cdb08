"""
The error table: every code an `error` frame or a void update can carry.

Promise: a number keeps its meaning for ever and is never reused; the range alone (1xx, 2xx, 3xx) tells a client what
to do with a code it has never met. `docs/protocol.md` repeats this table and a test keeps the two equal.

Not here: closes (closes.py), and which fault leads to which code (frames.py, codec.py, effects.py, the gateway).
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class ErrorCode(IntEnum):
    BAD_FRAME = 100
    UNKNOWN_TYPE = 101
    INVALID_MESSAGE = 102
    SEQUENCE_GAP = 103
    NOT_IN_SESSION = 104
    TOO_LARGE = 105
    INVALID_EFFECT = 106
    RATE_LIMITED = 200
    UNAVAILABLE = 201
    OVERLOADED = 202
    UNAUTHENTICATED = 300
    FORBIDDEN = 301


class ErrorAction(StrEnum):
    """What a client does with an error, known from the hundreds of its code."""

    DO_NOT_REPEAT = "do_not_repeat"
    REPEAT_LATER = "repeat_later"
    NOT_ALLOWED = "not_allowed"


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    meaning: str
    client: str


ERRORS: Final[dict[ErrorCode, ErrorInfo]] = {
    ErrorCode.BAD_FRAME: ErrorInfo(
        "the frame is not one map in this connection's codec, or it has no readable `t`",
        "if the frame held one update, send that seq again as a skip; if a batch, send its updates one by one",
    ),
    ErrorCode.UNKNOWN_TYPE: ErrorInfo(
        "no client frame has this `t` in this version of the protocol",
        "do without that frame type on this gateway",
    ),
    ErrorCode.INVALID_MESSAGE: ErrorInfo(
        "a field is missing, of the wrong type or out of its bounds",
        "mend the code that built the frame; a batch is sent again as single updates",
    ),
    ErrorCode.SEQUENCE_GAP: ErrorInfo(
        "an update skipped a number; `expected` is the one that must come next",
        "go back and send from `expected` on: the one 1xx after which a client repeats",
    ),
    ErrorCode.NOT_IN_SESSION: ErrorInfo(
        "something other than hello came before `welcome`, or hello came twice",
        "say hello once, wait for `welcome`, then send the rest",
    ),
    ErrorCode.TOO_LARGE: ErrorInfo(
        "a frame, an update, a value or the state it would make is past its bound",
        "if the frame held one update, send that seq again as a skip; if a batch, send smaller ones",
    ),
    ErrorCode.INVALID_EFFECT: ErrorInfo(
        "an effect cannot be done: bad op, path or value, or the path is of another kind",
        "nothing to send: the update is void; mend the code that made it",
    ),
    ErrorCode.RATE_LIMITED: ErrorInfo(
        "this client sends faster than the gateway allows",
        "wait `retry_after_ms`, then send again from the first number without an ack",
    ),
    ErrorCode.UNAVAILABLE: ErrorInfo(
        "a store behind the gateway does not answer",
        "wait `retry_after_ms`, then send again from the first number without an ack",
    ),
    ErrorCode.OVERLOADED: ErrorInfo(
        "too much of this progress, or of all of them, is accepted and not yet saved",
        "wait `retry_after_ms`, then send again from the first number without an ack",
    ),
    ErrorCode.UNAUTHENTICATED: ErrorInfo(
        "the token is missing, broken or expired",
        "get a fresh token and send it with `refresh`",
    ),
    ErrorCode.FORBIDDEN: ErrorInfo(
        "this player may not do that",
        "do not ask again",
    ),
}

assert set(ERRORS) == set(ErrorCode)

ERROR_MESSAGE_CHARS_MAX: Final = 200


def error_action(code: int) -> ErrorAction:
    """What to do with any error code, known or not. Outside 2xx and 3xx nothing is ever repeated blindly."""
    match code // 100:
        case 2:
            return ErrorAction.REPEAT_LATER
        case 3:
            return ErrorAction.NOT_ALLOWED
        case _:
            return ErrorAction.DO_NOT_REPEAT


class FrameError(Exception):
    """
    The peer's fault: a frame that cannot be taken. It becomes one `error` frame and keeps the connection.

    `seq` and `id` name the update or query it was about, as far as they could be read.
    """

    def __init__(self, code: ErrorCode, message: str, seq: int | None = None, id: str | None = None) -> None:
        self.code = code
        self.message = message[:ERROR_MESSAGE_CHARS_MAX]
        self.seq = seq
        self.id = id
        super().__init__(f"{code.name}: {self.message}")


class VoidUpdate(Exception):
    """
    An update that can be read and is next in line, but has no effect. It uses up its seq and is never an error frame.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        self.code = code
        self.message = message[:ERROR_MESSAGE_CHARS_MAX]
        super().__init__(f"{code.name}: {self.message}")
