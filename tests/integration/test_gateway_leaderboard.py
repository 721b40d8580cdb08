"""The `leaderboard` query as a player's client asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from persistence.board import parse_board
from persistence.cold.store import ColdStore
from persistence.leaderboards import Leaderboards
from protocol.errors import ErrorCode
from tests.integration.gateway_rig import Bare, Rig, new_user, run_flusher, run_rig


@pytest.fixture
async def rig(redis_url: str, database_url: str) -> AsyncIterator[Rig]:
    async with run_rig(redis_url, database_url) as running:
        yield running


async def ask(bare: Bare, **args: Any) -> dict[str, Any]:
    await bare.send({"t": "query", "id": "q", "of": "leaderboard", "args": args})
    while True:
        answer = await bare.receive()
        if answer["t"] in ("result", "error"):
            return answer["data"] if answer["t"] == "result" else answer


def walk(metres: float) -> dict[str, Any]:
    return {"type": "waypoint_visited", "content_id": "1_gate", "data": {"distance_traveled": metres}}


async def test_players_see_the_best_and_their_own_place(rig: Rig, redis_url: str, database_url: str) -> None:
    ann, bob, eve = new_user(), new_user(), new_user()
    tools = [{"op": "incr", "path": "collectibles.artist_tools", "value": 3}]
    async with run_flusher(redis_url, database_url), rig.player(ann) as first, rig.player(bob) as second:
        await first.accept(1, event=walk(12.5))
        await second.accept(1, event=walk(30), effects=tools)
        await first.wait_saved(1)
        await second.wait_saved(1)
        best = [{"rank": 1, "user_id": bob, "score": 30}, {"rank": 2, "user_id": ann, "score": 12.5}]
        assert await ask(first, board="distance") == {"rows": best, "me": best[1]}
        assert await ask(second, limit=1) == {"rows": best[:1], "me": best[0]}
        assert await ask(first, board="collectibles.artist_tools") == {
            "rows": [{"rank": 1, "user_id": bob, "score": 3}]
        }
        # What is saved while the board is there shows on it, at the latest when the next save is told.
        await first.accept(2, event=walk(20))
        await first.wait_saved(2)
        await first.accept(3, event=walk(0))
        await first.wait_saved(3)
        assert (await ask(first))["me"] == {"rank": 1, "user_id": ann, "score": 32.5}
        async with rig.player(eve) as third:
            assert "me" not in await ask(third)


async def test_a_board_that_cannot_be_made_now_is_said_so_and_one_that_is_there_answers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig.player() as bare:
        assert await ask(bare) == {"rows": []}
        away = Leaderboards(rig.hot, await ColdStore.open("postgresql://wayhold@127.0.0.1:1/wayhold"))
        monkeypatch.setattr(rig.node, "boards", away)
        assert await ask(bare) == {"rows": []}
        refused = await ask(bare, board="completion")
        assert refused["code"] == ErrorCode.UNAVAILABLE and refused["id"] == "q" and refused["retry_after_ms"] > 0
        await away.close()


@pytest.mark.parametrize("board", ["Distance", "", "a.", ".a", "9a", "a" * 65, "a." + "b" * 129, "a.\n", "a b", 7])
async def test_what_can_be_no_counter_is_no_board(rig: Rig, board: Any) -> None:
    async with rig.player() as bare:
        assert (await ask(bare, board=board))["code"] == ErrorCode.INVALID_MESSAGE


@pytest.mark.parametrize("board", ["a" * 64 + "." + "b" * 128, "collectibles.a.b c «d»", "completion"])
async def test_whatever_the_frame_lets_through_is_a_board(rig: Rig, board: str) -> None:
    assert parse_board(board).name == board
    async with rig.player() as bare:
        assert await ask(bare, board=board) == {"rows": []}
