"""The values that travel between the cold store and those who hydrate or read from it."""

from __future__ import annotations

from dataclasses import dataclass

from persistence.ban import Ban
from persistence.progress_key import ProgressKey


@dataclass(slots=True)
class ColdProgress:
    """
    A progress as Postgres holds it, read in one statement.

    `row_id` and `last_entry` are 32 hex digits; entry 0 of a progress has its row id. `device_seq` is the saved seq of
    the device that was asked for, 0 when Postgres never heard of it. `session_ended` answers for the session that was
    asked for. `erased_ms`: when an earlier player of this id was erased, 0 if never: older tokens do not count.
    `ban`: the player may not play.
    """

    key: ProgressKey
    row_id: str
    version: int
    last_entry: str
    state_json: str
    kinds_json: str
    device: str
    device_seq: int
    session_ended: bool = False
    erased_ms: int = 0
    ban: Ban | None = None


@dataclass(frozen=True, slots=True)
class ColdQuestion:
    """
    Which progress is wanted, for which of its devices, and whether which session has ended. A hello with a token
    `creates` what is missing and says when the token was issued (seconds since 1970): that decides whether a tombstone
    refuses it.
    """

    key: ProgressKey
    device: str
    session_id: str | None = None
    creates: bool = False
    token_issued_at: float | None = None


@dataclass(frozen=True, slots=True)
class HistoryFilter:
    """
    Which events of a player are wanted. `since_ms` is the first moment that counts, `until_ms` the first that no longer
    does, both ms since 1970 and compared with when the event happened; None: everything.
    """

    event_type: str | None = None
    content_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class HistoryPlace:
    """Where a page over all experiences ends: its last event."""

    timestamp_ms: int
    row_id: str
    version: int


EVERYTHING = HistoryFilter()
