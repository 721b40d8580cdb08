"""
Queries: what a player may read. `state`, `inventory` and `visited` show what is accepted (the hot copy), `profile`,
`history` and `leaderboard` what is saved (Postgres).

Leaderboards are not kept yet: the answer is an empty board, which a client can show, and not an error, which it would
have to repeat for ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gateway.sessions.connection import Connection
from persistence.errors import StoreUnavailable
from persistence.hot.shapes import HotProgress
from protocol.frames import Query, QueryArgs
from protocol.limits import QUERY_LIMIT_MAX
from protocol.state import document

if TYPE_CHECKING:
    from gateway.sessions.node import Node

HISTORY_LIMIT = 20


class BadQuery(Exception):
    """The peer's fault: arguments that fit no answer."""


async def answer_query(connection: Connection, query: Query) -> dict[str, Any]:
    """
    The `data` of a result.

    Raises:
        BadQuery, StoreUnavailable
    """
    async with connection.node.questions.hold(is_live=True):
        return await _ANSWERS[query.of](connection.node, connection, query.args)


async def _state(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    progress = await _get_progress(node, connection)
    return {"state": document(progress.fields), "version": progress.version}


async def _inventory(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    return {"items": _members(await _get_progress(node, connection), "inventory")}


async def _visited(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    progress = await _get_progress(node, connection)
    if args.waypoint is not None:
        return {"visited": f"m:visited_waypoints.{args.waypoint}" in progress.fields}
    return {"waypoints": _members(progress, "visited_waypoints")}


async def _profile(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    return await node.cold.find_profile(connection.key.user_id) or {}


async def _history(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    cursor = None
    if args.cursor:
        if not args.cursor.isascii() or not args.cursor.isdigit() or len(args.cursor) > 18:
            raise BadQuery("args.cursor: must be one that an earlier result gave")
        cursor = int(args.cursor)
    limit = min(args.limit or HISTORY_LIMIT, QUERY_LIMIT_MAX)
    events, following = await node.cold.list_history(connection.key, limit, cursor)
    return {"events": events, "cursor": None if following is None else str(following)}


async def _leaderboard(node: Node, connection: Connection, args: QueryArgs) -> dict[str, Any]:
    return {"rows": []}


async def _get_progress(node: Node, connection: Connection) -> HotProgress:
    progress = await node.hot.find_progress(connection.key)
    if progress is None:
        # The next heartbeat or update finds the same and rebuilds it.
        node.committer.enqueue(connection)
        raise StoreUnavailable("redis", "find_progress", "the copy is being rebuilt")
    return progress


def _members(progress: HotProgress, name: str) -> list[str]:
    prefix = f"m:{name}."
    return sorted(field[len(prefix) :] for field in progress.fields if field.startswith(prefix))


_ANSWERS: dict[str, Callable[[Node, Connection, QueryArgs], Awaitable[dict[str, Any]]]] = {
    "state": _state,
    "inventory": _inventory,
    "visited": _visited,
    "profile": _profile,
    "history": _history,
    "leaderboard": _leaderboard,
}
