"""
The values that travel between the gateway and the hot store: what is asked of a script and what it answers.

Every script outcome is a word here, so that the one place that turns outcomes into frames and closes can be a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, NewType

from persistence.ban import Ban
from persistence.hot.head import Head, find_head
from persistence.hot.known_fields import KnownFields
from persistence.progress_key import ProgressKey

VoidNote = tuple[int, int, str]
"""A void update: (seq, error code, message)."""


class HotUpdate(NamedTuple):
    """
    One update on its way into the hot store.

    `ops` are flat operations as `protocol.effects.compile_update` makes them. `body` is opaque to Redis
    (`protocol.entry`). `void` is set when the gateway already knows that the update has no effect; then `ops` is empty.
    """

    seq: int
    entry_id: str
    body: bytes
    ops: Sequence[tuple[Any, ...]]
    void: tuple[int, str] | None = None


GroupHeader = NewType("GroupHeader", bytes)
"""Whose updates they are, packed once for a connection: `HotStore.make_header`."""


class UpdateGroup(NamedTuple):
    """
    Updates of one connection, in order; none at all is a heartbeat (the same comparisons, nothing written but
    activity). `told` is the highest seq that the connection was told is accepted. `known` is what the connection knows
    of its fields: read, and brought up to date by the answer.
    """

    header: GroupHeader
    told: int
    updates: Sequence[HotUpdate]
    durable: bool = False
    known: KnownFields | None = None


class Outcome(IntEnum):
    """What a script found. Everything but OK (and the accepted part before a GAP or FULL) changed nothing."""

    OK = 0
    GAP = 1  # an update beyond accepted + 1: the updates before it were taken
    MISSING = 2  # no copy of this progress is hot: hydrate
    DIFFERENT_COPY = 3  # another copy than the one this connection knows: resync
    BEHIND = 4  # the hot seq is behind what this connection was told: hydrate, then resync
    FENCED = 5  # a higher connection number holds the session: close 4201
    SESSION_ENDED = 6  # the progress is here, its session is not: close 4007
    FULL = 7  # too much pending in this progress: error 202, the updates before it were taken
    QUARANTINED = 8  # Postgres refuses this progress: error 201
    NO_DEVICE = 9  # this stream is not loaded: `install_device` first
    CHANGED = 10  # the session is not the one that was looked at: look again
    ACTIVE = 11  # the session was used since it was looked at: it does not end
    ERASED = 12  # the token is from before the player was erased: close 4204
    BANNED = 13  # the player may not play now: close 4203


class GroupVerdict(NamedTuple):
    """
    The answer to one group. `accepted` and `saved` are of this stream, `version` is the progress's newest entry.
    `voids` lists those among the group's updates that are void (repeated ones too, while they are unsaved).
    """

    outcome: Outcome
    accepted: int
    version: int
    saved: int
    taken: int  # how many updates became entries (effective and void)
    repeated: int
    voids: Sequence[VoidNote] = ()


@dataclass(slots=True)
class HotSession:
    """The active session of a player as Redis holds it. Times are Redis TIME in ms."""

    user_id: str
    id: str
    experience: str
    device: str
    node: str
    connection: int
    started_ms: int
    last_activity_ms: int
    claims: str  # JSON of what the token allowed, so that a resume needs no fresh token


@dataclass(slots=True)
class HotProgress:
    """A whole hot copy, read at one instant. `fields` are the flat fields of `protocol.state`."""

    copy: str
    row_id: str
    version: int
    base_version: int
    base_id: str
    accepted: dict[str, int]
    saved: dict[str, int]
    voids: dict[str, list[VoidNote]]
    fields: dict[str, bytes]
    quarantine: str


@dataclass(slots=True)
class SessionEntry:
    """A session start or end on its way into `pending`: `body` as `protocol.entry.encode_session_body` makes it."""

    entry_id: str
    body: bytes


@dataclass(slots=True)
class OpenSession:
    """
    Take or start a session for a connection.

    `seen` is (id, connection) of the session that `find_session` showed, or None if there was none: if another one is
    there now the answer is CHANGED. `session_id` equal to the seen id resumes it; another id ends the seen session with
    `end_entry` and starts the new one with `start_entry`. The new connection number is
    max(Redis TIME in ms, stored + 1, `connection_min`). A `restore` re-creates a session that Redis forgot with exactly
    the number `connection_min`, and is FENCED when a higher one is there. `token_ms` is when the token that was shown
    was issued at the latest, None for a resume without one: one from before an erase of this player is ERASED.

    `takes`: nobody has looked. The session `session_id` is resumed, whatever its connection, if it is the one that is
    there, and keeps when it started (`started_ms` is not used); else the answer is CHANGED and shows what is there.
    """

    key: ProgressKey
    device: str
    node: str
    session_id: str
    started_ms: int
    claims: str
    connection_min: int
    seen: tuple[str, int] | None
    start_entry: SessionEntry | None
    end_entry: SessionEntry | None
    restore: bool = False
    token_ms: int | None = None
    takes: bool = False


@dataclass(slots=True)
class SessionOpened:
    """
    OK with everything a welcome needs; any other outcome carries no progress. `pushed` messages were sent in this
    session so far, `push_offset` of them do not count for the client. `session` is what is there, when one that
    `takes` was answered CHANGED.
    """

    outcome: Outcome
    connection: int = 0
    progress: HotProgress | None = None
    pushed: int = 0
    push_offset: int = 0
    started_ms: int = 0
    session: HotSession | None = None
    ban: Ban | None = None


@dataclass(slots=True)
class EndSession:
    """
    End the session `session_id` of `key`. `last_activity_ms` guards an expiry (ACTIVE when it moved on),
    `connection` guards a leave (FENCED when a higher number holds the session); None checks nothing. `is_rowless`:
    Postgres was asked and has no such progress, so without a hot copy the session ends and nothing is written.
    """

    key: ProgressKey
    session_id: str
    entry: SessionEntry
    last_activity_ms: int | None = None
    connection: int | None = None
    is_rowless: bool = False


@dataclass(slots=True)
class SessionEnd:
    """OK: ended; `version` is the end's entry: the session is in Postgres once `saved_version` reaches it."""

    outcome: Outcome
    version: int = 0


@dataclass(slots=True)
class SavedNotice:
    """Published to the node that owns the player when a flush has settled."""

    key: ProgressKey
    saved_version: int
    saved: dict[str, int]  # device → seq


@dataclass(slots=True)
class ErasedNotice:
    """Published to every node when a player is erased: their sockets are closed."""

    user_id: str


class ActionOutcome(IntEnum):
    """What `apply_action` found. Everything but APPLIED changed nothing."""

    APPLIED = 0
    REPEATED = 1  # this number was taken before, by this action or by another node that issued it
    MISSING = 2  # no copy of this progress is hot: hydrate
    OTHER_ROW = 3  # the copy is of another row: the player was erased and has started anew
    NO_DEVICE = 4  # the stream `ops` is not loaded: `install_device` first
    EARLIER_MISSING = 5  # a number below was never taken here: issue the earlier ones first
    QUARANTINED = 6  # Postgres refuses this progress: later
    FENCED = 7  # the player is being erased


@dataclass(slots=True)
class HotAction:
    """
    One action on its way into the hot store. `body` and `ops` as those of an update; `void` is set when it is known
    already that it has no effect. `push` is what the player gets, if the player is there.
    """

    key: ProgressKey
    row_id: str
    seq: int
    entry_id: str
    body: bytes
    ops: list[tuple[Any, ...]]
    push: bytes
    void: tuple[int, str] | None = None
    durable: bool = False
    expects: dict[str, str | None] = field(default_factory=dict)
    """Fields of the copy and what they must hold (None: not be there), else it has no effect."""


@dataclass(slots=True)
class ActionVerdict:
    """
    The answer to one action. `accepted` is of the stream `ops`, `version` the progress's newest entry (its own, when
    APPLIED). `void` says why it has no effect.
    """

    outcome: ActionOutcome
    accepted: int = 0
    version: int = 0
    void: tuple[int, str] | None = None
    push: int = 0
    """Its number among the session's messages; 0: the player is not there."""
    before: dict[str, str | None] | None = None
    """What the fields that it touches held, when this call has applied it."""


@dataclass(slots=True)
class HotPush:
    """
    A message for a player. `n` counts the messages of the session, as Redis does; `id` tells this one from others.
    `after` and `version` say where a change of the state fell: behind which seq of the session's device, as which
    entry of the progress; None for others.
    """

    n: int
    id: str
    after: int | None
    version: int | None
    body: bytes


@dataclass(slots=True)
class KeptPushes:
    """
    What is kept of a session's messages behind a number: `pushed` in all, `offset` is what the client's count is behind
    ours, `pushes` may begin later than was asked for.
    """

    pushed: int
    offset: int
    pushes: list[HotPush]


@dataclass(slots=True)
class PushNotice:
    """Published to the node that holds a player when there is a message for them."""

    user_id: str
    session_id: str
    push: HotPush


@dataclass(slots=True)
class CloseNotice:
    """
    Published to the node that holds a player whom an operator sends away: the connection of this session closes with
    this code, and the player is told why.
    """

    user_id: str
    session_id: str
    farewell: Farewell


@dataclass(frozen=True, slots=True)
class Farewell:
    """Why an operator ended a session: the close code and what the player is told."""

    code: int
    message: str = ""
    retry_after_ms: int | None = None


@dataclass(slots=True)
class DrainNotice:
    """Published to a node that an operator empties (`is_on`), or lets take players again."""

    is_on: bool


@dataclass(slots=True)
class MissedNotices:
    """The channel was away: what was published meanwhile is not coming."""


@dataclass(slots=True)
class PendingTotals:
    """What Postgres does not have yet, over all players."""

    progress: int
    updates: int
    bytes: int
    oldest_s: float


@dataclass(slots=True)
class Snapshot:
    """A progress whole at one instant, as a flush sees it: the hash and the entries as they lie in Redis."""

    key: ProgressKey
    hash: dict[bytes, bytes]
    entries: list[bytes]

    @property
    def head(self) -> Head:
        return find_head(self.hash)


@dataclass(slots=True)
class Settlement:
    """
    What Postgres has of a progress after a commit: its newest entry there, how far each stream got, void notes that
    are over.
    """

    key: ProgressKey
    version: int
    entry_id: str
    saved: dict[str, int]
    voids: list[str]


@dataclass(slots=True)
class SettleOutcome:
    is_settled: bool
    left: int
    node: str
