"""
An operator's edits race a player who makes 50 updates a second, while flushers die at every step and Redis forgets
everything between accept and save: nothing is lost or done twice on either side, and the client's state is that of the
server.

A failing seed is printed; `WAYHOLD_SEED=n pytest …` runs it again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from gateway.sessions.action_sweeper import ActionSweeper
from persistence.actions.shapes import Action
from persistence.errors import PersistenceError
from persistence.flusher.flusher import STEPS, Flusher
from persistence.hot.store import HotStore
from persistence.player_progress import PlayerProgress
from protocol.client.journal import MemoryJournal
from protocol.client.player_client import PlayerClient
from protocol.client.state_mirror import StateMirror
from tests.integration.gateway_rig import EXPERIENCE, Rig, new_user, run_rig, token

SECONDS = 3.0
UPDATES_PER_S = 50
ACTIONS_PER_S = 15


class Mirror(StateMirror):
    """Counts what reached it."""

    def __init__(self, journal: MemoryJournal) -> None:
        super().__init__(journal)
        self.pushes = self.resyncs = 0

    def on_push(self, n: int, kind: str, data: Any, after: int | None) -> None:
        self.pushes += 1
        super().on_push(n, kind, data, after)

    def on_resync(self, reason: str) -> None:
        self.resyncs += 1


class Died(BaseException):
    """A flusher that was killed: nothing of ours may catch it."""


async def flush_and_die(redis_url: str, database_url: str, rng: random.Random, ended: asyncio.Event) -> None:
    """Flushers one after the other; each dies after some step of some flush."""
    while not ended.is_set():
        hot = await HotStore.open(redis_url, flush_interval_s=0.2)
        step, patience = rng.choice(STEPS), rng.randrange(1, 4)

        def die(at: str, step: str = step) -> None:
            nonlocal patience
            if at == step and not ended.is_set():
                patience -= 1
                if patience == 0:
                    raise Died

        flusher = Flusher(hot, database_url, at_step=die)
        with suppress(Died):
            await flusher.run(ended, final_flush_s=1.0)
        await flusher.close()
        await hot.close()


async def forget(rig: Rig, rng: random.Random, ended: asyncio.Event) -> None:
    while not ended.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), rng.uniform(0.5, 1.2))
            return
        await rig.hot._client.flushall()


async def play(client: PlayerClient, rng: random.Random, ended: asyncio.Event) -> None:
    number = 0
    while not ended.is_set():
        number += 1
        effects: list[dict[str, Any]] = [
            {"op": "incr", "path": "steps.player", "value": 1},
            {"op": "set", "path": "title", "value": f"player {number}"},
            {"op": rng.choice(["add", "remove"]), "path": "inventory", "value": rng.choice("abc")},
        ]
        if rng.random() < 0.05:
            effects.append({"op": "add", "path": "steps", "value": "void: it is a group"})
        await client.update({"type": "step", "content_id": str(number)}, effects)
        await asyncio.sleep(1 / UPDATES_PER_S)


async def operate(desk: PlayerProgress, user_id: str, rng: random.Random, ended: asyncio.Event) -> list[str]:
    """Actions as fast as an excited operator can; returns the ids of those that were written down."""
    asked: list[str] = []
    while not ended.is_set():
        effects: list[dict[str, Any]] = [
            {"op": "incr", "path": "steps.operator", "value": 1},
            {"op": "set", "path": "title", "value": f"operator {len(asked)}"},
            {"op": rng.choice(["add", "remove"]), "path": "inventory", "value": rng.choice("abc")},
        ]
        if rng.random() < 0.1:
            effects.append({"op": "incr", "path": "title", "value": 1})
        ticket = await desk.edit_state(user_id, EXPERIENCE, effects)
        asked.append(ticket.id)
        await asyncio.sleep(1 / ACTIONS_PER_S)
    return asked


@asynccontextmanager
async def playing(rig: Rig, user_id: str) -> AsyncIterator[tuple[PlayerClient, Mirror]]:
    journal = MemoryJournal("phone")
    mirror = Mirror(journal)
    client = PlayerClient(rig.url, lambda: token(user_id), EXPERIENCE, journal=journal, listener=mirror)
    await client.start()
    try:
        await client.wait_connected(10)
        yield client, mirror
    finally:
        await client.stop()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("forgets", [False, True], ids=["flushers die", "and Redis forgets"])
async def test_edits_that_race_updates_are_neither_lost_nor_doubled(
    redis_url: str, database_url: str, forgets: bool
) -> None:
    seed = int(os.environ.get("WAYHOLD_SEED", random.randrange(1_000_000)))
    print(f"WAYHOLD_SEED={seed} repeats it")
    rng = random.Random(seed)
    user_id = new_user()
    faults_end, play_ends, operator_ends = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with (
        run_rig(redis_url, database_url) as rig,
        run_rig(redis_url, database_url) as elsewhere,
        playing(rig, user_id) as (client, mirror),
        asyncio.timeout(100),
    ):
        # The operator's console is on another node than the player.
        desk = PlayerProgress(
            elsewhere.hot, elsewhere.cold, caller="ann", role="operator", hydrate=elsewhere.node.hydrator
        )
        flushing = asyncio.create_task(flush_and_die(redis_url, database_url, rng, faults_end))
        forgetting = asyncio.create_task(forget(rig, rng, faults_end) if forgets else faults_end.wait())
        player = asyncio.create_task(play(client, rng, play_ends))
        operator = asyncio.create_task(operate(desk, user_id, rng, operator_ends))
        sweepers = [ActionSweeper(rig.node), ActionSweeper(elsewhere.node)]
        for _ in range(round(SECONDS / 0.2)):
            await asyncio.sleep(0.2)
            with suppress(PersistenceError):
                await rng.choice(sweepers).sweep(older_than_s=0.1)
        play_ends.set()
        operator_ends.set()
        await player
        asked = await operator
        faults_end.set()
        await asyncio.gather(flushing, forgetting)

        # Everything comes to rest: no faults, a flusher that lives, the sweep.
        quiet = asyncio.Event()
        hot = await HotStore.open(redis_url, flush_interval_s=0.1)
        flushing = asyncio.create_task(Flusher(hot, database_url).run(quiet, final_flush_s=1.0))
        await client.wait_accepted(client.made, 20)
        ended = await settle(desk, sweepers[0], asked)
        await client.wait_saved(client.made, 20)
        answered = await client.query("state")
        async with asyncio.timeout(10):
            while mirror.state != answered["state"]:  # noqa: ASYNC110 - the last push may be on its way
                await asyncio.sleep(0.02)
        quiet.set()
        await flushing
        await hot.close()
        assert mirror.pushes, "the race did not happen"
        assert bool(mirror.resyncs) is forgets, "without a loss nothing is told whole"
        await audit(database_url, user_id, client, ended, answered["state"])


async def settle(desk: PlayerProgress, sweeper: ActionSweeper, asked: list[str]) -> list[Action]:
    """Until every action has ended."""
    while True:
        with suppress(PersistenceError):
            await sweeper.sweep(older_than_s=0)
        ended = [await desk.journal.find(action_id) for action_id in asked]
        assert all(action is not None for action in ended)
        if all(action is not None and action.state != "requested" for action in ended):
            return [action for action in ended if action is not None]
        await asyncio.sleep(0.05)


async def audit(
    database_url: str, user_id: str, client: PlayerClient, actions: list[Action], state: dict[str, Any]
) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        (row,) = await connection.fetch(
            "SELECT p.id, p.state::text AS state FROM experience_progress p"
            " JOIN player_profiles f ON f.id = p.player_id WHERE f.user_id = $1",
            user_id,
        )
        events = await connection.fetch(
            "SELECT device_id, seq, session_id FROM player_progress_events WHERE experience_progress_id = $1"
            " ORDER BY version",
            row["id"],
        )
    finally:
        await connection.close()
    own = [event["seq"] for event in events if event["device_id"] == "phone"]
    operators = [event["seq"] for event in events if event["device_id"] == "ops"]
    assert own == sorted(set(own)) and operators == sorted(set(operators)), "doubled, or out of order"
    assert [action.ops_seq for action in actions] == list(range(1, len(actions) + 1))
    done = [action for action in actions if action.state == "done"]
    assert operators == [action.ops_seq for action in done]
    assert [str(event["session_id"]) for event in events if event["device_id"] == "ops"] == [one.id for one in done]
    stored = json.loads(row["state"])
    assert stored == state
    assert stored["steps"] == {"player": len(own), "operator": len(done)}
    assert len(own) > client.made * 0.8 and client.made - len(own) < client.made * 0.2
