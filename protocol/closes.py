"""
The close table: why a gateway ends a connection, and what a client does next.

Promise: a number keeps its meaning for ever and is never reused; the range alone (40xx, 41xx, 42xx) tells a client what
to do with a code it has never met. Codes 1012 to 1014 are not in use: Unity's Mono does not show them to the game.

Not here: errors, which keep the connection (errors.py).
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class CloseCode(IntEnum):
    DRAINING = 4001
    TOO_SLOW = 4002
    HEARTBEAT_LOST = 4003
    OVERLOADED = 4004
    UNAVAILABLE = 4005
    RATE_LIMITED = 4006
    SESSION_ENDED = 4007
    UNAUTHENTICATED = 4101
    TOKEN_EXPIRED = 4102
    HELLO_TIMEOUT = 4103
    REPLACED = 4201
    KICKED = 4202
    BANNED = 4203
    PLAYER_DELETED = 4204
    VERSION_UNSUPPORTED = 4205
    PROTOCOL_ERROR = 4206


class CloseAction(StrEnum):
    """What a client does after a close, known from the range of its code."""

    RESUME = "resume"
    FRESH = "fresh"
    STAY_AWAY = "stay_away"


@dataclass(frozen=True, slots=True)
class CloseInfo:
    meaning: str
    client: str


CLOSES: Final[dict[CloseCode, CloseInfo]] = {
    CloseCode.DRAINING: CloseInfo("this node is going away", "reconnect and resume; another node takes over"),
    CloseCode.TOO_SLOW: CloseInfo("the client did not read what was sent to it", "reconnect with back-off and resume"),
    CloseCode.HEARTBEAT_LOST: CloseInfo("nothing was heard for two heartbeats", "reconnect with back-off and resume"),
    CloseCode.OVERLOADED: CloseInfo("the gateway takes no more players now", "reconnect with back-off and resume"),
    CloseCode.UNAVAILABLE: CloseInfo(
        "a store this player needs does not answer", "reconnect with back-off and resume; the journal keeps every step"
    ),
    CloseCode.RATE_LIMITED: CloseInfo("far too many frames or handshakes", "reconnect with back-off and resume"),
    CloseCode.SESSION_ENDED: CloseInfo(
        "the session is over", "reconnect and say hello without `resume`, with a valid token"
    ),
    CloseCode.UNAUTHENTICATED: CloseInfo("the token is missing or not valid", "get another token, then connect"),
    CloseCode.TOKEN_EXPIRED: CloseInfo("the token ran out and was not refreshed", "get a fresh token, then connect"),
    CloseCode.HELLO_TIMEOUT: CloseInfo("no hello came in time", "connect again and say hello at once"),
    CloseCode.REPLACED: CloseInfo("a newer connection of this player took over", "stay away; the player is elsewhere"),
    CloseCode.KICKED: CloseInfo("an operator ended the connection", "stay away until the player asks to play again"),
    CloseCode.BANNED: CloseInfo("the player may not play", "stay away and say so to the player"),
    CloseCode.PLAYER_DELETED: CloseInfo("the player was erased", "stay away; drop the journal and the device id"),
    CloseCode.VERSION_UNSUPPORTED: CloseInfo("the gateway no longer speaks this version", "stay away; update the app"),
    CloseCode.PROTOCOL_ERROR: CloseInfo("bad frames came again and again", "stay away; the client has a fault"),
}

assert set(CLOSES) == set(CloseCode)
assert all(len(code.name) <= 123 for code in CloseCode), "a close reason must fit into a control frame"

CLOSE_REASON_BYTES_MAX: Final = 123


def close_action(code: int) -> CloseAction:
    """
    What to do after any close, known or not. Outside 41xx and 42xx the answer is to come back with back-off and
    resume: a lost network (1006) and a dying process (1011) look like that, and a resume can do no harm.
    """
    match code // 100:
        case 41:
            return CloseAction.FRESH
        case 42:
            return CloseAction.STAY_AWAY
        case _:
            return CloseAction.RESUME


def close_name(code: int) -> str:
    """The name for a `bye` frame and a close reason; `CLOSE_<code>` for a number that is not ours."""
    try:
        return CloseCode(code).name
    except ValueError:
        return f"CLOSE_{code}"
