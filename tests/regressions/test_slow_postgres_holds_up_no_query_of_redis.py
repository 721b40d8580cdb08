"""
All queries of a node went through one gate of three. While analytics kept Postgres busy, histories took their time in
there, and players waited seconds for an inventory that Redis knows in half a millisecond.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.sessions.node import COLD_QUESTIONS_WIDTH
from tests.integration.gateway_rig import run_rig


async def test_slow_postgres_holds_up_no_query_of_redis(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_rig(redis_url, database_url) as rig, rig.player() as patient, rig.player() as other:
        asked, go_on = asyncio.Semaphore(0), asyncio.Event()

        async def slowly(user_id: str) -> dict[str, Any]:
            asked.release()
            await go_on.wait()
            return {}

        monkeypatch.setattr(rig.node.cold, "find_profile", slowly)
        for number in range(COLD_QUESTIONS_WIDTH):
            await patient.send({"t": "query", "id": str(number), "of": "profile"})
        async with asyncio.timeout(5):
            for _ in range(COLD_QUESTIONS_WIDTH):
                await asked.acquire()
        await patient.send({"t": "query", "id": "mine", "of": "inventory"})
        assert (await patient.wait_for("result"))["id"] == "mine"
        await other.send({"t": "query", "id": "theirs", "of": "state"})
        assert (await other.wait_for("result"))["id"] == "theirs"
        go_on.set()
        for _ in range(COLD_QUESTIONS_WIDTH):
            await patient.wait_for("result")
