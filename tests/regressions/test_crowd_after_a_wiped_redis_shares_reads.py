"""
After Redis had lost its data, 5,000 players who came back were read from Postgres one by one, six at a time: the last
was welcome after 40 s, and whoever had waited 8 s was sent away and came again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from persistence.cold.shapes import ColdQuestion
from tests.integration.gateway_rig import new_user, run_flusher, run_rig
from tests.integration.test_gateway_sessions import flush_all

PLAYERS = 30


async def test_crowd_that_comes_back_to_a_wiped_redis_shares_reads_and_everybody_finds_their_progress(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_ids = [new_user() for _ in range(PLAYERS)]
    async with run_rig(redis_url, database_url) as rig:
        resumes: dict[str, Any] = {}

        async def play(user_id: str) -> None:
            async with rig.player(user_id) as bare:
                await bare.accept(1)
                await bare.wait_saved(1)
                resumes[user_id] = bare.resume()
                bare.abort()

        async with run_flusher(redis_url, database_url):
            await asyncio.gather(*map(play, user_ids))
        await flush_all(redis_url)

        reads: list[int] = []
        find_many = rig.node.cold.find_many

        async def counted(questions: Sequence[ColdQuestion]) -> Any:
            reads.append(len(questions))
            return await find_many(questions)

        async def one_by_one(*_: Any) -> Any:
            raise AssertionError("everybody has rows")

        monkeypatch.setattr(rig.node.cold, "find_many", counted)
        monkeypatch.setattr(rig.node.cold, "open_progress", one_by_one)

        async def come_back(user_id: str) -> dict[str, Any]:
            async with rig.bare() as bare:
                return await bare.hello(user_id=user_id, resume=resumes[user_id], made=1, saved=1)

        for welcome in await asyncio.gather(*map(come_back, user_ids)):
            assert welcome["seq"] == {"accepted": 1, "saved": 1}
            assert welcome["state"]["visited_waypoints"] == ["w1"]
    assert sum(reads) == PLAYERS, "each is read once"
    assert len(reads) <= PLAYERS / 2
