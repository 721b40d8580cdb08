"""A fault of ours while a player is told what is saved, or is answered late."""

from __future__ import annotations

import pytest

from gateway.sessions.connection import Connection
from gateway.sessions.node import Node
from persistence.hot.shapes import SavedNotice
from tests.integration.gateway_rig import new_user, run_flusher, run_rig


async def test_fault_in_a_notice_costs_one_connection_and_not_the_node(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Notices of all players are read by one service of the node. An exception about one of them ended the service, and
    so the whole process with every player on it.
    """
    tell_saved = Node._tell_saved
    victim = new_user()

    def fails_for_one(node: Node, connection: Connection, notice: SavedNotice) -> None:
        if notice.key.user_id == victim:
            raise TypeError("a bug")
        tell_saved(node, connection, notice)

    monkeypatch.setattr(Node, "_tell_saved", fails_for_one)
    async with (
        run_rig(redis_url, database_url) as rig,
        run_flusher(redis_url, database_url),
        rig.player(victim) as hit,
        rig.player() as other,
    ):
        await hit.accept(1)
        assert await hit.close_code() == 4005
        await other.accept(1)
        await other.wait_for("saved")
        assert not rig.node.broken.is_set()


async def test_fault_in_a_late_pong_costs_one_connection_and_not_the_node(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_pings = Connection.answer_pings
    victim = new_user()

    def fails_for_one(connection: Connection, saved: int | None) -> None:
        if connection.key.user_id == victim:
            raise TypeError("a bug")
        answer_pings(connection, saved)

    monkeypatch.setattr(Connection, "answer_pings", fails_for_one)
    async with run_rig(redis_url, database_url) as rig, rig.player(victim) as hit, rig.player() as other:
        rig.node.players[victim].pings = [1]
        rig.node.await_pong(rig.node.players[victim], 0.0)
        assert await hit.close_code() == 4005
        await other.accept(1)
        assert not rig.node.broken.is_set()
