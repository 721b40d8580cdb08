"""
One process full of players of a fault run (plain_player.py), with journals in files or in memory, every update with a
counter in it, everything they do and are told in a crash-safe history.

Its orders (loadtest/told_process.py): the plan, `start`, `race`, `leave`. Its words: `ready`, `counts` five times a
second, `played`, `settled`, `left`.

Not here: what is done to the servers meanwhile (kinds.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path

import uvloop
from websockets.asyncio.client import connect

from loadtest.experience import WYLDING_WOODS
from loadtest.history import HistoryWriter, now_ms
from loadtest.storyline import Story, StoryStep
from loadtest.tally import Tally
from loadtest.target import Target
from loadtest.told_process import open_orders, read_order, say
from protocol.client.journal import FileJournal, Journal, MemoryJournal
from protocol.client.player_client import PlayerClient
from protocol.closes import CloseCode
from protocol.codec import MSGPACK
from tests.faults.plain_player import Habits, PlainPlayer

COUNTS_EVERY_S = 0.2
RACERS = 8
OPEN_AGAIN_S = 0.3


@dataclass(slots=True)
class PlayersPlan:
    """What one process of players has to do."""

    url: str
    secret: str
    run_id: str
    first: int
    players: int
    random_seed: int
    history: str
    journals: str | None
    """A folder for journals in files; None for journals in memory."""
    habits: dict[str, float]

    def make_user_id(self, index: int) -> str:
        return str(uuid.uuid5(uuid.UUID(self.run_id), f"player {index}"))


class CountingStory(Story):
    """The load test's story, with a counter in each update: a step that counts twice shows in the state."""

    def next_step(self) -> StoryStep:
        step = super().next_step()
        effects = [*(step.effects or ()), {"op": "incr", "path": "records.steps", "value": 1}]
        return StoryStep(step.event, effects, step.is_durable, step.past_s, step.expected_code)


class StubbornPlayer(PlainPlayer):
    """A player who opens the app again when another device has taken the session."""

    def on_stopped(self, code: int) -> None:
        if code == CloseCode.REPLACED:
            self.task = asyncio.create_task(self._open_again())

    async def _open_again(self) -> None:
        await asyncio.sleep(OPEN_AGAIN_S)
        await self.client.stop()
        with contextlib.suppress(RuntimeError):  # it is running: the story was quicker
            await self.client.start()


class Players:
    """All players of this process."""

    def __init__(self, plan: PlayersPlan) -> None:
        self.plan = plan
        self.tally = Tally()
        self.writer = HistoryWriter(Path(plan.history), is_crash_safe=True)
        self.target = Target(plan.url, None, secret=plan.secret.encode())
        self.players = [self._make(index) for index in range(plan.first, plan.first + plan.players)]

    def _make(self, index: int) -> PlainPlayer:
        plan = self.plan
        rng = random.Random(f"{plan.random_seed}/{index}")
        user_id = plan.make_user_id(index)
        self.writer.add_player(index, user_id, WYLDING_WOODS.experience_id)
        journal: Journal = MemoryJournal()
        if plan.journals is not None:
            path = Path(plan.journals) / f"player-{index}.journal"
            journal = FileJournal(path, server=plan.url, player=user_id, experience=WYLDING_WOODS.experience_id)
        return StubbornPlayer(
            index,
            lambda listener: PlayerClient(
                plan.url,
                lambda: self.target.make_token(user_id),
                WYLDING_WOODS.experience_id,
                journal=journal,
                listener=listener,
                random=rng,
            ),
            CountingStory(WYLDING_WOODS, rng),
            rng,
            Habits(**plan.habits),
            self.writer,
            self.tally,
        )

    async def play(self, start_ms: float) -> int:
        """Everybody's whole story, then until all is saved; answers how many players were not in time."""
        async with asyncio.TaskGroup() as group:
            for player in self.players:
                group.create_task(player.play(start_ms))
        say("played")
        settled = await asyncio.gather(*(player.settle() for player in self.players))
        return sum(not is_settled for is_settled in settled)

    def list_failures(self) -> list[str]:
        """Clients that ended of an exception: none ever may."""
        failures = []
        for player in self.players:
            task = player.client._run_task
            if task is not None and task.done() and not task.cancelled() and (error := task.exception()) is not None:
                failures.append("".join(traceback.format_exception(error)[-4:]))
        return failures

    async def race(self, count: int) -> None:
        """A second installation with the same device id says hello, several times at once, for some players."""
        chosen = [player for player in self.players if player.client.connected][:count]
        await asyncio.gather(
            *(self._say_hello(player) for player in chosen for _ in range(RACERS)), return_exceptions=True
        )

    async def _say_hello(self, player: PlainPlayer) -> None:
        user_id = self.plan.make_user_id(player.index)
        hello = {
            "t": "hello",
            "token": self.target.make_token(user_id),
            "experience": WYLDING_WOODS.experience_id,
            "device": player.client.device,
            "at": int(now_ms()),
            "made": 1_000_000_000,
            "saved": 0,
        }
        async with asyncio.timeout(3):
            async with connect(
                self.plan.url, subprotocols=[MSGPACK.subprotocol], compression=None, close_timeout=0.2
            ) as racer:
                await racer.send(MSGPACK.encode(hello))
                await racer.recv()

    async def tell_counts(self) -> None:
        while True:
            await asyncio.sleep(COUNTS_EVERY_S)
            self.tally.fold()
            clients = [player.client for player in self.players]
            say(
                "counts",
                made=self.tally.made,
                accepted=self.tally.accepted,
                saved=self.tally.saved,
                unaccepted=sum(client.pending for client in clients),
                unsaved=sum(client.made - client.saved for client in clients),
                connected=sum(client.connected for client in clients),
                errors=sum(self.tally.errors.values()),
            )


async def _run() -> None:
    orders = await open_orders()
    players = Players(PlayersPlan(**await read_order(orders)))
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    say("ready")
    start_ms = float((await read_order(orders))["start_ms"])
    tasks = {
        asyncio.create_task(players.tell_counts(), name="counts"),
        asyncio.create_task(_settle(players, start_ms), name="play"),
    }
    while (order := await read_order(orders))["order"] != "leave":
        if order["order"] == "race":
            tasks.add(asyncio.create_task(players.race(order["players"]), name="race"))
    await asyncio.gather(*(player.leave() for player in players.players), return_exceptions=True)
    for task in tasks:
        task.cancel()
    players.writer.close()
    say("left")


async def _settle(players: Players, start_ms: float) -> None:
    try:
        say("settled", unsettled=await players.play(start_ms), failures=players.list_failures())
    except Exception as error:
        say("settled", unsettled=len(players.players), failure=repr(error))
        raise


def main() -> int:
    uvloop.run(_run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
