"""Rows of new players are made a few at a time: what becomes of a place when whoever asked for it has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from gateway.sessions.hydrator import WIDTH, Hydrator
from gateway.telemetry.metrics import Tally
from persistence.progress_key import ProgressKey


class Stores:
    """Redis and Postgres as far as `make` uses them; Postgres answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.made: list[str] = []
        self.may_make = asyncio.Event()

    async def time_ms(self) -> int:
        return 1

    async def open_progress(self, key: ProgressKey, device: str, issued_at: float | None) -> Any:
        self.asked.append(key.user_id)
        await self.may_make.wait()
        self.made.append(key.user_id)
        return key

    async def install(self, cold: Any, read_started_ms: int) -> tuple[bool, int]:
        return True, 0


def start(stores: Stores, count: int) -> list[asyncio.Task[Any]]:
    hydrator = Hydrator(cast(Any, stores), cast(Any, stores), Tally(), lambda: 0.0)
    keys = [ProgressKey(str(number), "woods") for number in range(count)]
    return [asyncio.create_task(hydrator.make(key, "phone", 1.0)) for key in keys]


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 - turns of the loop are what is waited for
            await asyncio.sleep(0)


async def test_who_has_gone_before_its_turn_is_made_nothing() -> None:
    """The rows of all who had given up were made first, while those who still waited gave up behind them."""
    stores = Stores()
    tasks = start(stores, WIDTH + 2)
    await until(lambda: len(stores.asked) == WIDTH)
    tasks[WIDTH].cancel()
    stores.may_make.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers].count(asyncio.CancelledError) == 1
    assert stores.made == [str(number) for number in range(WIDTH + 2) if number != WIDTH]


async def test_what_has_begun_keeps_its_place_until_it_is_done_also_when_nobody_waits_for_it() -> None:
    stores = Stores()
    tasks = start(stores, WIDTH + 1)
    await until(lambda: len(stores.asked) == WIDTH)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]], timeout=5)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(stores.asked) == WIDTH
    stores.may_make.set()
    await asyncio.gather(*tasks[1:])
    assert stores.made == [str(number) for number in range(WIDTH + 1)]
