"""What the session machine decides, one action each: its driver carries them out in their order."""

from __future__ import annotations

from typing import Any, NamedTuple


class Send(NamedTuple):
    """Write this frame to the socket."""

    frame: dict[str, Any]


class Abort(NamedTuple):
    """Cut the socket now, without a closing handshake; then say `disconnected`."""

    reason: str


class Hangup(NamedTuple):
    """Close the socket politely; `disconnected` follows, at the latest after an Abort."""

    code: int


class Connect(NamedTuple):
    """
    Open a socket after this wait, with a fresh token if one is asked for; then say `connected` or `disconnected`.
    """

    after_ms: int
    fresh_token: bool


class More(NamedTuple):
    """There is more to send than one go may write: say `writable` when the socket has room."""


class NeedToken(NamedTuple):
    """Get a new token and hand it in with `refresh`."""


class SyncJournal(NamedTuple):
    """Sync the journal; then say `journal_synced`."""


class Forget(NamedTuple):
    """Tell the journal that everything up to `seq` is saved."""

    seq: int


class ResetStream(NamedTuple):
    """Reset the journal to a new device, keeping what lies above `keep_after`; sync it; then say `journal_synced`."""

    keep_after: int
    reason: str


class DropJournal(NamedTuple):
    """The player was erased: drop every update and the device id."""


class Accepted(NamedTuple):
    seq: int


class Voided(NamedTuple):
    seq: int
    code: int
    message: str


class Welcomed(NamedTuple):
    """A session goes on (`resumed`) or a new one began for this `reason`; the state was replaced."""

    resumed: bool
    reason: str | None


class Resynced(NamedTuple):
    reason: str


class Pushed(NamedTuple):
    n: int
    kind: str
    data: Any
    after: int | None


class Answered(NamedTuple):
    """The answer to a query."""

    id: str
    data: Any


class Refused(NamedTuple):
    """An error frame; `id` when it answers a query."""

    code: int
    name: str
    message: str
    id: str | None
    retry_after_ms: int | None


class Left(NamedTuple):
    is_saved: bool


class Suspended(NamedTuple):
    expires_s: float


class Stopped(NamedTuple):
    """
    The machine is CLOSED: with the close code that told it not to come back, or None when it left by itself. `reason`
    says why where the code does not: what would have let it come back.
    """

    code: int | None
    reason: str | None = None


Action = (
    Send
    | Abort
    | Hangup
    | Connect
    | More
    | NeedToken
    | SyncJournal
    | Forget
    | ResetStream
    | DropJournal
    | Accepted
    | Voided
    | Welcomed
    | Resynced
    | Pushed
    | Answered
    | Refused
    | Left
    | Suspended
    | Stopped
)
