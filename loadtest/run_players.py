"""
One process full of simulated players, told what to do by the load test that started it.

Its orders (told_process.py): the plan, `start`, `leave`. Its words: `ready`, `counts` once a second, `played`,
`settled`, `left`, `failed`. Its files: a history of every update (history.py) and one sample a second (tally.py).

Not here: what the counts mean (load_test.py).
"""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.address import find_source_address, raise_file_limit
from loadtest.distribution import parse_distribution
from loadtest.experience import WYLDING_WOODS, Experience, find_experience
from loadtest.game import Game
from loadtest.history import HistoryWriter, now_ms
from loadtest.mud import Mud
from loadtest.muddy_player import MuddyPlayer
from loadtest.phone import Account
from loadtest.player_random import make_random
from loadtest.ramp import Stage, Stay, plan_stays
from loadtest.scenario_choice import DEFAULT, make_scenario
from loadtest.schedule import Schedule
from loadtest.simulation import Player
from loadtest.tally import SamplesWriter, Tally
from loadtest.target import Target
from loadtest.told_process import open_orders, read_order, say
from loadtest.track import read_track
from loadtest.watch import Watch

LEAVES_AT_ONCE_MAX = 50
FILES_PER_PLAYER = 2
FOLDS_PER_S = 10
# Turns of the loop that a process gets to make what was due before the end.
LAST_TURNS_MAX = 10_000


@dataclass(slots=True)
class PlayersPlan:
    """What one process has to do. `first` and `players` choose from the `players_in_all` of all machines."""

    url: str
    secret_hex: str | None
    experience: str
    run_id: str
    first: int
    players: int
    random_seed: int
    history: str
    is_crash_safe: bool
    seconds: float = 15.0
    ramp_s: float = 1.0
    settle_s: float = 90.0
    rate_per_s: float | None = None
    drop_rate: float = 0.0
    offline_rate: float = 0.0
    players_in_all: int = 0
    samples: str = ""
    scenario: str = DEFAULT
    parameters: dict[str, str] = field(default_factory=dict)
    tracks: list[str] = field(default_factory=list)
    mud: dict[str, float] = field(default_factory=dict)
    stages: list[list[Any]] = field(default_factory=list)
    is_even: bool = False
    session_s: str | None = None
    away_s: str | None = None
    think_s: str | None = None
    source_addresses: list[str] = field(default_factory=list)
    ops_url: str | None = None
    ops_token: str | None = None
    # Players whom somebody else has made: the user id and the token of each. Then nothing is known of their past.
    tokens: list[tuple[str, str]] = field(default_factory=list)

    def make_user_id(self, index: int) -> str:
        """
        Every run has players of its own, whatever the seed says: the state of a progress is never empty twice. Except
        where tokens say who plays.
        """
        if self.tokens:
            return self.tokens[index - self.first][0]
        return str(uuid.uuid5(uuid.UUID(self.run_id), f"player {index}"))

    def list_stays(self) -> list[Stay]:
        """When each player of this process comes and goes."""
        in_all = self.players_in_all or self.first + self.players
        stages = [Stage(*stage) for stage in self.stages] or [Stage("linear", in_all, self.ramp_s)]
        stays = plan_stays(in_all, stages, self.random_seed, is_even=self.is_even)
        return stays[self.first : self.first + self.players]


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
    raise_file_limit(plan.players * FILES_PER_PLAYER + 256)
    writer = HistoryWriter(Path(plan.history), is_crash_safe=plan.is_crash_safe)
    samples = SamplesWriter(Path(plan.samples)) if plan.samples else None
    game = _make_game(plan, writer)
    players = [_make_player(plan, index, game) for index in range(plan.first, plan.first + plan.players)]
    # All that lives now lives to the end: looking at it again and again would stop every player at once.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    say("ready")
    start_ms = float((await read_order(orders))["start_ms"])
    ticker = asyncio.create_task(_tell_counts(players, game, samples))
    playing = asyncio.create_task(_play(plan, game, players, start_ms))
    order = asyncio.create_task(read_order(orders))
    try:
        await asyncio.wait([playing, order], return_when=asyncio.FIRST_COMPLETED)
        if order.done():
            order.result()  # raises when stdin ended; an order to leave is a reason to stop playing, too
        else:
            unsettled = playing.result()
            writer.flush()
            if game.failure is not None:
                say("failed", why=game.failure)
            say("settled", unsettled=unsettled)
            await order
        await _limited([player.leave() for player in players])
    finally:
        game.schedule.stop()
        for task in (ticker, playing, order):
            task.cancel()
        writer.close()
        if samples is not None:
            _take_sample(players, game, samples)
            samples.close()
    say("left")


def _make_game(plan: PlayersPlan, writer: HistoryWriter) -> Game:
    tally = Tally()
    watch = Watch(plan.ops_url, plan.ops_token) if plan.ops_url else None
    return Game(
        scenario=make_scenario(plan.scenario, plan.parameters),
        experience=_find_experience(plan.experience),
        tracks=[read_track(Path(file)) for file in plan.tracks],
        schedule=Schedule(tell_late_ms=tally.note_late_ms),
        writer=writer,
        tally=tally,
        find_source=functools.partial(find_source_address, plan.url, plan.source_addresses),
        players=plan.players_in_all or plan.players,
        seconds=plan.seconds,
        settle_s=plan.settle_s,
        rate_per_s=plan.rate_per_s,
        mud=Mud(**plan.mud),
        drop_rate=plan.drop_rate,
        offline_rate=plan.offline_rate,
        session_s=parse_distribution(plan.session_s) if plan.session_s else None,
        away_s=parse_distribution(plan.away_s) if plan.away_s else None,
        think_s=parse_distribution(plan.think_s) if plan.think_s else None,
        watch=watch.look if watch is not None else None,
    )


def _make_player(plan: PlayersPlan, index: int, game: Game) -> Player:
    user_id = plan.make_user_id(index)
    secret = bytes.fromhex(plan.secret_hex) if plan.secret_hex is not None else None
    target = Target(plan.url, None, token=plan.tokens[index - plan.first][1] if plan.tokens else None, secret=secret)
    make_token = functools.partial(target.make_token, user_id)
    account = Account(plan.url, plan.experience, user_id, make_token, is_new=not plan.tokens)
    kind = Player if game.mud == Mud() else MuddyPlayer
    return kind(index, account, make_random(f"{plan.random_seed}/{index}"), game)


def _find_experience(experience_id: str) -> Experience:
    """An experience of which no places are known is played with those of Wylding Woods."""
    found = find_experience(experience_id)
    return found if found is not None and found.waypoints else WYLDING_WOODS


async def _play(plan: PlayersPlan, game: Game, players: list[Player], start_ms: float) -> int:
    """Play to the end, then wait until everything is saved; answers how many players were not in time."""
    game.play_from_ms = start_ms + plan.ramp_s * 1000
    for player, stay in zip(players, plan.list_stays(), strict=True):
        until_ms = start_ms + stay.until_s * 1000 if stay.until_s is not None else None
        player.arrive(start_ms + stay.from_s * 1000, until_ms)
    game.schedule.start(asyncio.get_running_loop())
    while not game.is_over:
        left_s = (game.over_ms - now_ms()) / 1000
        if left_s <= 0:
            break
        await asyncio.sleep(min(0.2, left_s) if game.failure is None else 0)
    # What is due at the last moment is made before the end is called.
    for _ in range(LAST_TURNS_MAX):
        next_ms = game.schedule.find_next_ms()
        if next_ms is None or next_ms > min(now_ms(), game.over_ms):
            break
        await asyncio.sleep(0)
    game.is_over = True
    say("played")
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(player.settle()) for player in players]
    return sum(not task.result() for task in waiting)


async def _limited(work: list[Coroutine[Any, Any, None]]) -> None:
    gate = asyncio.Semaphore(LEAVES_AT_ONCE_MAX)

    async def one(task: Coroutine[Any, Any, None]) -> None:
        async with gate:
            await task

    await asyncio.gather(*(one(task) for task in work), return_exceptions=True)


async def _tell_counts(players: list[Player], game: Game, samples: SamplesWriter | None) -> None:
    loop = asyncio.get_running_loop()
    at_s = loop.time()
    while True:
        for _ in range(FOLDS_PER_S):
            at_s += 1 / FOLDS_PER_S
            await asyncio.sleep(max(0.0, at_s - loop.time()))
            game.tally.fold()
        game.writer.flush()
        _take_sample(players, game, samples)


def _take_sample(players: list[Player], game: Game, samples: SamplesWriter | None) -> None:
    sample = game.tally.take_sample(now_ms(), (player.state for player in players))
    if samples is not None:
        samples.write(sample)
    say("counts", **sample)


if __name__ == "__main__":
    sys.exit(main())
