"""
Queries: what a player may read, and that is the player's own. `state`, `inventory` and `visited` show what is accepted
(the hot copy), `profile`, `history` and `leaderboard` what is saved (Postgres).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.sessions.connection import Connection
from gateway.sessions.leaderboard import answer_leaderboard
from persistence.errors import StoreUnavailable
from protocol.frames import Query, QueryArgs
from protocol.limits import QUERY_LIMIT_MAX
from protocol.state import document

if TYPE_CHECKING:
    from gateway.sessions.node import Node

HISTORY_LIMIT = 20

T = TypeVar("T")


class BadQuery(Exception):
    """The peer's fault: arguments that fit no answer."""


async def answer_query(connection: Connection, query: Query) -> dict[str, Any]:
    """
    The `data` of a result.

    Raises:
        BadQuery, StoreUnavailable
    """
    if query.of == "leaderboard":
        return await answer_leaderboard(connection, query.args)
    node = connection.node
    gate = node.cold_questions if query.of in _COLD else node.questions
    async with gate.hold(is_live=True):
        return await _ANSWERS[query.of](node, connection, query.args)


async def _state(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    progress = _found(node, connection, await node.hot.read_progress(connection.key))
    return {"state": document(progress.fields), "version": progress.version}


async def _inventory(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    return {"items": _found(node, connection, await node.hot.find_members(connection.key, "inventory"))}


async def _visited(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    if args.waypoint is not None:
        is_member = await node.hot.has_member(connection.key, "visited_waypoints", args.waypoint)
        return {"visited": _found(node, connection, is_member)}
    members = await node.hot.find_members(connection.key, "visited_waypoints")
    return {"waypoints": _found(node, connection, members)}


async def _profile(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    return await node.cold.find_profile(connection.key.user_id) or {}


async def _history(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    user_id, experience = connection.key
    try:
        page = await node.progress.list_history(
            user_id,
            experience,
            limit=min(args.limit or HISTORY_LIMIT, QUERY_LIMIT_MAX),
            cursor=args.cursor or None,
            event_type=args.type,
            content_id=args.content_id,
            since_ms=args.since,
            until_ms=args.until,
        )
    except ValueError as refused:
        raise BadQuery(f"args.{refused}") from None
    return {"events": page.events, "cursor": page.cursor}


def _found(node: Node, connection: Connection, found: T | None) -> T:
    """What a look at the hot copy gave. Its player is there, so a copy that is gone is not read past: it is rebuilt."""
    node.note_read(found is not None)
    if found is None:
        # The next heartbeat or update finds the same and rebuilds it.
        node.committer.enqueue(connection)
        raise StoreUnavailable("redis", "answer_query", "the copy is being rebuilt")
    return found


_COLD = frozenset({"profile", "history"})
"""Asked of Postgres."""

_ANSWERS: dict[str, Callable[[Node, Connection, QueryArgs], Awaitable[dict[str, Any]]]] = {
    "state": _state,
    "inventory": _inventory,
    "visited": _visited,
    "profile": _profile,
    "history": _history,
}
