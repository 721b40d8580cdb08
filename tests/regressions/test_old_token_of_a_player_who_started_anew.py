"""A token from before an erase, with the device of the player who started anew after it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from persistence.cold.store import ColdStore
from persistence.erase import erase_player
from tests.integration.gateway_rig import hello_frame, new_user, run_rig, token


def note_calls(cold: ColdStore) -> list[str]:
    """What this store asks of Postgres from now on."""
    calls: list[str] = []
    call = cold._call

    async def noted(operation: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
        calls.append(operation)
        return await call(operation, work)

    cold._call = noted  # type: ignore[method-assign, assignment]
    return calls


async def test_old_token_is_refused_also_where_postgres_is_not_asked(redis_url: str, database_url: str) -> None:
    """
    A hello whose session and progress are in Redis reads nothing from Postgres, so nobody looked at the tombstone. An
    old token with the device of the player who had started anew was welcomed, although it must be refused for ever.
    """
    async with run_rig(redis_url, database_url) as rig:
        user_id = new_user()
        old = token(user_id, iat=int(time.time()) - 60)
        async with rig.player(user_id, device="old phone", token=old) as bare:
            await bare.accept(1)
        await erase_player(rig.hot, database_url, user_id)
        async with rig.player(user_id, device="new phone") as bare:
            await bare.accept(1)
            resume = bare.resume()
        calls = note_calls(rig.cold)
        for fields in ({}, {"resume": resume}):
            async with rig.bare() as bare:
                await bare.send(hello_frame(token=old, device="new phone", made=1, **fields))
                assert await bare.close_code() == 4204
        # Whoever has a newer token, or the session itself, plays on.
        for fields in ({"resume": resume}, {"token": token(user_id)}):
            async with rig.bare() as bare:
                await bare.send(hello_frame(device="new phone", made=1, **fields))
                assert (await bare.receive())["t"] == "welcome"
        assert calls == []


async def test_copy_that_was_rebuilt_knows_of_the_erase_too(redis_url: str, database_url: str) -> None:
    async with run_rig(redis_url, database_url) as rig:
        user_id = new_user()
        old = token(user_id, iat=int(time.time()) - 60)
        await erase_player(rig.hot, database_url, user_id)
        async with rig.player(user_id) as bare:
            await bare.accept(1)
            await rig.hot._client.flushall()
            await bare.send({"t": "ping", "at": 1})
            await bare.wait_for("resync")
        async with rig.bare() as bare:
            await bare.send(hello_frame(token=old, made=1))
            assert await bare.close_code() == 4204
