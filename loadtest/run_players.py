"""
One process full of simulated players, told what to do by the load test that started it.

Its orders (told_process.py): the plan, `start`, `leave`. Its words: `ready`, `counts` once a second, `settled`, `left`.

Not here: what the counts mean (command.py).
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import uuid
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest.experience import WYLDING_WOODS, Experience, find_experience
from loadtest.history import HistoryWriter
from loadtest.player import Counts, Habits, SimulatedPlayer
from loadtest.report import percentile
from loadtest.storyline import Story
from loadtest.target import Target
from loadtest.told_process import open_orders, read_order, say
from protocol.client.player_client import PlayerClient

# A gateway bounds the connections from one address; loopback has sixteen million of them (on Linux, without asking).
PLAYERS_PER_ADDRESS_MAX = 500
LEAVES_AT_ONCE_MAX = 50


@dataclass(slots=True)
class PlayersPlan:
    """What one process has to do."""

    url: str
    token: str | None
    secret_hex: str | None
    experience: str
    run_id: str
    first: int
    players: int
    random_seed: int
    history: str
    is_crash_safe: bool
    habits: dict[str, float]

    def make_user_id(self, index: int) -> str:
        """Every run has players of its own, whatever the seed says: the state of a progress is never empty twice."""
        return str(uuid.uuid5(uuid.UUID(self.run_id), f"player {index}"))


def main() -> int:
    try:
        import uvloop
    except ImportError:  # Windows
        asyncio.run(_run())
    else:
        uvloop.run(_run())
    return 0


async def _run() -> None:
    orders = await open_orders()
    plan = PlayersPlan(**await read_order(orders))
    writer = HistoryWriter(Path(plan.history), is_crash_safe=plan.is_crash_safe)
    counts = Counts()
    players = [_make_player(plan, index, writer, counts) for index in range(plan.first, plan.first + plan.players)]
    # All that lives now lives to the end: looking at it again and again would stop every player at once.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    say("ready")
    start_ms = float((await read_order(orders))["start_ms"])
    ticker = asyncio.create_task(_tell_counts(players, writer, counts))
    game = asyncio.create_task(_play(players, start_ms))
    order = asyncio.create_task(read_order(orders))
    try:
        await asyncio.wait([game, order], return_when=asyncio.FIRST_COMPLETED)
        if order.done():
            order.result()  # raises when stdin ended; an order to leave is a reason to stop playing, too
        else:
            unsettled = game.result()
            writer.flush()
            say("settled", unsettled=unsettled)
            await order
        await _limited([player.leave() for player in players])
    finally:
        for task in (ticker, game, order):
            task.cancel()
        writer.close()
    say("left")


def _make_player(plan: PlayersPlan, index: int, writer: HistoryWriter, counts: Counts) -> SimulatedPlayer:
    rng = random.Random(f"{plan.random_seed}/{index}")
    experience = _find_experience(plan.experience)
    user_id = plan.make_user_id(index)
    secret = bytes.fromhex(plan.secret_hex) if plan.secret_hex is not None else None
    target = Target(plan.url, None, token=plan.token, secret=secret)
    writer.add_player(index, user_id, plan.experience)
    return SimulatedPlayer(
        index,
        lambda listener: PlayerClient(
            plan.url,
            lambda: target.make_token(user_id),
            plan.experience,
            listener=listener,
            random=rng,
            source_address=_find_source_address(plan.url, index),
        ),
        Story(experience, rng),
        rng,
        Habits(**plan.habits),
        writer,
        counts,
    )


def _find_experience(experience_id: str) -> Experience:
    """An experience of which no places are known is played with those of Wylding Woods."""
    found = find_experience(experience_id)
    return found if found is not None and found.waypoints else WYLDING_WOODS


def _find_source_address(url: str, index: int) -> tuple[str, int] | None:
    if index < PLAYERS_PER_ADDRESS_MAX or sys.platform != "linux" or urlsplit(url).hostname != "127.0.0.1":
        return None
    block = index // PLAYERS_PER_ADDRESS_MAX
    return f"127.0.{block // 250}.{1 + block % 250}", 0


async def _play(players: list[SimulatedPlayer], start_ms: float) -> int:
    """Play all stories, then wait until everything is saved; answers how many players were not in time."""
    async with asyncio.TaskGroup() as group:
        for player in players:
            group.create_task(player.play(start_ms))
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(player.settle()) for player in players]
    return sum(not task.result() for task in waiting)


async def _limited(work: list[Coroutine[Any, Any, None]]) -> None:
    gate = asyncio.Semaphore(LEAVES_AT_ONCE_MAX)

    async def one(task: Coroutine[Any, Any, None]) -> None:
        async with gate:
            await task

    await asyncio.gather(*(one(task) for task in work), return_exceptions=True)


async def _tell_counts(players: list[SimulatedPlayer], writer: HistoryWriter, counts: Counts) -> None:
    while True:
        await asyncio.sleep(1)
        writer.flush()
        latencies_ms, counts.latencies_ms = sorted(counts.latencies_ms), []
        counts.connected = sum(player.client.connected for player in players)
        said = asdict(counts) | {
            "latencies_ms": None,
            "ack_p50_ms": percentile(latencies_ms, 0.5) if latencies_ms else 0.0,
            "ack_p99_ms": percentile(latencies_ms, 0.99) if latencies_ms else 0.0,
        }
        say("counts", **said)


if __name__ == "__main__":
    sys.exit(main())
