"""
Messages that a player did not ask for: an operator's edit of the state, words to be shown.

Promise: the pushes of a session reach its client once each and in order, on whatever node and connection the player is,
and one that changed the state comes before the ack of any update that was accepted after it. So a client that keeps
what is not acknowledged in a list knows where an edit belongs: behind `after`, before all of that list that is above
it.

A notice brings each push as soon as it is there. Notices may be lost, and other connections may overtake them; the
version in every verdict tells: when it has grown by more than this connection's own updates, somebody else has
written, and the ack waits until Redis was asked for pushes. What cannot be told in order any more is told whole, by a
resync.

Not here: keeping and numbering (persistence.hot, `append_push`), what is pushed and when (persistence.actions).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gateway.sessions.connection import Connection, Phase
from gateway.telemetry.logs import get_logger
from persistence.errors import PersistenceError
from persistence.hot.shapes import GroupVerdict, HotPush, PushNotice
from protocol import frames
from protocol.values import parse_json

if TYPE_CHECKING:
    from gateway.sessions.node import Node

IDS_KEPT = 64
"""As many as Redis keeps: an older notice cannot be told from one that a forgetful Redis numbered anew."""

LOOK_AT_ONCE = 200
LOOK_TRIES = 5
LOOK_PAUSE_S = 0.5

log = get_logger("pushes")


class PushFeed:
    """What one connection has had of its session's messages. Most connections never get one, and have no feed."""

    __slots__ = (
        "again",
        "held",
        "ids",
        "is_fetching",
        "is_lost",
        "n",
        "offset",
        "takes_what_is_left",
        "trimmed",
        "versions",
    )

    def __init__(self, n: int = 0, offset: int = 0) -> None:
        self.n = n  # the newest that this connection was sent, as Redis counts
        self.offset = offset  # what the client's count is behind
        self.trimmed = offset  # up to which the client has said that it has seen them
        # Edits that were sent and that no verdict has known of yet: version → whether one should have.
        self.versions: dict[int, bool] = {}
        self.ids: dict[int, str] = {}  # of the newest that were sent: a notice may come after the same push was fetched
        self.held: list[Callable[[], None]] = []  # acks that wait for pushes
        self.is_fetching = False
        self.again = False  # something came while it was being fetched
        self.is_lost = False  # Redis forgot, or the client missed more than is kept: a resync must come
        self.takes_what_is_left = False  # this client does not say what it has seen


# ── coming and going ────────────────────────────────────────────────────────────────────────────────────────────────


def begin(connection: Connection, pushed: int, offset: int, seen: int | None) -> None:
    """A connection was welcomed to a session in which `pushed` messages were sent so far."""
    connection.feed = None
    if not pushed and not seen:
        return
    feed = connection.feed = PushFeed(pushed if seen is None else seen + offset, offset)
    if seen is None:
        feed.n = offset
        feed.takes_what_is_left = True
    if feed.n > pushed:
        _lose(connection, feed)
    elif feed.n < pushed:
        _fetch(connection, feed)


async def reset(connection: Connection) -> tuple[int, int] | None:
    """
    Before a resync, after which the client counts from 1: from behind what it was sent. Returns (messages of the
    session, offset), or None for a session that never had any.
    """
    feed = connection.feed
    if feed is None:
        return None
    node = connection.node
    return await node.hot.reset_pushes(connection.key.user_id, connection.session_id, feed.n)


def begin_again(connection: Connection, counted: tuple[int, int] | None) -> None:
    """A resync was sent. What came meanwhile comes after it."""
    before = connection.feed
    connection.feed = None
    if before is None and counted is None:
        return
    pushed, offset = counted if counted is not None else (0, 0)
    feed = connection.feed = PushFeed(offset, offset)
    if pushed > offset or (before is not None and before.again):
        _fetch(connection, feed)


def note_seen(connection: Connection, seen: int) -> None:
    """The client has handled them: they need not be kept."""
    feed = connection.feed
    if feed is not None and feed.trimmed < seen + feed.offset <= feed.n:
        feed.trimmed = seen + feed.offset
        connection.node.start_query(connection, _trim(connection, feed.trimmed))


# ── sending ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def take_notice(connection: Connection, notice: PushNotice) -> None:
    """There is a message for this player; perhaps of a session that is over."""
    if connection.session_id != notice.session_id:
        return
    feed = connection.feed
    if feed is None:
        feed = connection.feed = PushFeed()
    push = notice.push
    if connection.phase is not Phase.PLAYING:
        feed.again = True
        return  # a resync is coming, and what was missed comes after it
    if feed.is_fetching:
        feed.again = True
    elif push.n == feed.n + 1:
        _send(connection, feed, push)
    elif push.n > feed.n:
        _fetch(connection, feed)
    elif push.n in feed.ids and feed.ids[push.n] != push.id:
        _lose(connection, feed)


def _send(connection: Connection, feed: PushFeed, push: HotPush) -> None:
    told: dict[str, Any] = parse_json(push.body)
    data = told["data"]
    if push.version is not None:
        data["version"] = push.version
        if push.version > connection.version:
            feed.versions[push.version] = False
    feed.n = push.n
    feed.ids[push.n] = push.id
    feed.ids.pop(push.n - IDS_KEPT, None)
    connection.send(frames.push(push.n - feed.offset, told["kind"], data, push.after))


# ── before an ack ───────────────────────────────────────────────────────────────────────────────────────────────────


def must_wait(connection: Connection, verdict: GroupVerdict, answer: Callable[[], None]) -> bool:
    """
    Asked of every verdict whose version did not grow as this connection's own updates let it grow, and of every one
    for a connection that has had pushes. False: the pushes that it was sent explain the version. True: `answer` is
    called once the missing ones were sent, or never, because a resync comes.
    """
    feed = connection.feed
    if feed is None:
        feed = connection.feed = PushFeed()
    if feed.held:
        feed.held.append(answer)
        return True
    grown = verdict.version - connection.version - verdict.taken
    sent = sum(1 for version in feed.versions if connection.version < version <= verdict.version)
    if feed.is_lost or grown < 0 or _is_forgotten(connection, feed, verdict.version):
        # Entries are gone that this connection knew of: Redis has forgotten, and its next writer would hide it.
        connection.node.start_recovery(connection, "behind")
        return True
    if grown == sent:
        if sent:
            feed.versions = {version: due for version, due in feed.versions.items() if version > verdict.version}
        return False
    feed.held.append(answer)
    if not feed.is_fetching:
        _fetch(connection, feed)
    return True


def _is_forgotten(connection: Connection, feed: PushFeed, version: int) -> bool:
    """
    Whether the store no longer knows of an edit that was sent. A call that was under way when the edit was made does
    not know of it either; the one after that does. There is one call at a time, so the second that does not is the
    proof.
    """
    for sent, is_due in feed.versions.items():
        if sent > version:
            if is_due:
                return True
            feed.versions[sent] = True
            connection.node.committer.enqueue(connection)
    return False


# ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fetch(connection: Connection, feed: PushFeed) -> None:
    feed.is_fetching = True
    connection.node.start_query(connection, _fetch_missing(connection, feed))


async def _fetch_missing(connection: Connection, feed: PushFeed) -> None:
    """Ask Redis for what is missing, send it, then what has waited for it."""
    node = connection.node
    try:
        while True:
            feed.again = False
            kept = await node.hot.list_pushes(connection.key.user_id, connection.session_id, feed.n)
            if connection.feed is not feed or connection.phase not in (Phase.PLAYING, Phase.LEAVING):
                return
            if kept is None:
                break  # the session is over; the next verdict says so
            first = kept.pushed - len(kept.pushes) + 1
            if kept.pushed < feed.n or (first > feed.n + 1 and not feed.takes_what_is_left):
                _lose(connection, feed)
                return
            for push in kept.pushes:
                _send(connection, feed, push)
            feed.takes_what_is_left = False
            if not feed.again:
                break
    except Exception as error:
        if isinstance(error, PersistenceError):
            log.info("pushes_not_read", progress=connection.key.member, error=str(error))
        else:
            log.error("pushes_not_read", progress=connection.key.member, exc_info=True)
        if connection.feed is feed and connection.phase is Phase.PLAYING:
            _lose(connection, feed)
        return
    finally:
        feed.is_fetching = False
    held, feed.held = feed.held, []
    for answer in held:
        answer()


async def _trim(connection: Connection, upto: int) -> None:
    try:
        await connection.node.hot.trim_pushes(connection.key.user_id, connection.session_id, upto)
    except PersistenceError as error:
        log.debug("trim_failed", error=str(error))


def _lose(connection: Connection, feed: PushFeed) -> None:
    """What is missing cannot be told in order. The next look at the store finds it so, and it comes at once."""
    feed.is_lost = True
    feed.held.clear()
    connection.version = -1
    connection.node.committer.enqueue(connection)


async def look_again(node: Node) -> None:
    """The channel of notices was away: ask for everybody what was missed. Bounded: a few hundred at once."""
    for attempt in range(LOOK_TRIES):
        try:
            await _look_once(node)
            return
        except PersistenceError as error:
            log.info("look_for_pushes_failed", error=str(error), attempt=attempt)
            await asyncio.sleep(LOOK_PAUSE_S)


async def _look_once(node: Node) -> None:
    playing = [connection for connection in node.players.values() if connection.phase is Phase.PLAYING]
    for first in range(0, len(playing), LOOK_AT_ONCE):
        some = playing[first : first + LOOK_AT_ONCE]
        counts = await node.hot.count_pushes([(c.key.user_id, c.session_id) for c in some])
        for connection, pushed in zip(some, counts, strict=True):
            if not pushed or connection.phase is not Phase.PLAYING:
                continue
            feed = connection.feed
            if feed is None:
                feed = connection.feed = PushFeed()
            if pushed > feed.n and not feed.is_fetching:
                _fetch(connection, feed)
