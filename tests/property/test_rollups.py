"""
Rollups equal a brute-force recomputation from the events, at any moment between two flushes: whoever flushed, died,
lost its memory, refused events, replayed them, erased players or computed the rollups anew in between.

A failing seed is printed; `WAYHOLD_SEED=n pytest …` runs it alone, `WAYHOLD_SCHEDULES=n` runs more.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence.dead_letters import DeadLetters
from persistence.erase import erase_player
from persistence.flusher.flusher import STEPS, FlushBounds
from persistence.flusher.levels import LevelRule
from persistence.flusher.rollups import time_spent_ms
from persistence.hot.shapes import Outcome
from persistence.verify import verify
from protocol.values import canonical_json
from tests.property.made_values import values
from tests.property.rollup_truth import check_playtime, list_rollup_drift
from tests.servers import Servers
from tests.stores.conftest import StorePlayer, Stores, stores  # noqa: F401

SCHEDULES = int(os.environ.get("WAYHOLD_SCHEDULES", "5"))
DAY_MS = 86_400_000
TYPES = (
    "waypoint_visited",
    "item_collected",
    "quest_started",
    "achievement_unlocked",
    "experience_completed",
    "danced",
)
SPENT: tuple[Any, ...] = (45, 0.0005, 12.3456, 86_400, 86_400.001, -1, "45", True, None, [45], {"time_spent": 45}, 0)


class Died(BaseException):
    """The process is gone: no handler of an ordinary error runs."""


class World:
    """Some players in two experiences, and everything that may happen to what they did."""

    def __init__(self, rng: random.Random, at: Stores, connection: Any) -> None:
        self.rng, self.stores, self.postgres = rng, at, connection
        self.now_ms = int(time.time() * 1000)
        self.players: list[StorePlayer] = []
        self.is_picky = False

    async def arrive(self) -> None:
        player = self.stores.player(self.rng.choice(("woods", "harbour")))
        if len(self.players) < 6:
            self.players.append(player)
            await self._say_hello(player)

    async def play(self) -> None:
        if not self.players:
            return
        player = self.rng.choice(self.players)
        updates = [player.make(*self._make_step(), at_ms=self._some_time()) for _ in range(self.rng.randrange(1, 6))]
        if (await player.send(*updates)).outcome is not Outcome.OK:
            await self._say_hello(player)

    async def flush(self) -> None:
        flusher = self.stores.flusher(bounds=FlushBounds(progress_max=3), lanes=self.rng.randrange(1, 4))
        try:
            await flusher.flush_due(ahead_s=self.rng.choice((7.0, 3600.0)))
        finally:
            await flusher.close()

    async def flush_twice_at_once(self) -> None:
        await asyncio.gather(self.flush(), self.flush())

    async def die(self) -> None:
        step = self.rng.choice(STEPS)

        def die(at: str) -> None:
            if at == step:
                raise Died

        flusher = self.stores.flusher(at_step=die)
        try:
            await flusher.flush_due(ahead_s=3600.0)
        except Died:
            pass
        finally:
            await flusher.close()

    async def lose_redis(self) -> None:
        await self.stores.hot._client.flushall()

    async def become_picky(self) -> None:
        """From now on Postgres refuses some events, or takes them again."""
        await self.postgres.execute("ALTER TABLE player_progress_events DROP CONSTRAINT IF EXISTS picky")
        if not self.is_picky:
            await self.postgres.execute(
                "ALTER TABLE player_progress_events ADD CONSTRAINT picky CHECK (content_id <> 'refused') NOT VALID"
            )
        self.is_picky = not self.is_picky

    async def replay(self) -> None:
        async with DeadLetters(self.stores.database_url) as letters:
            ids = [letter.id for letter in await letters.list_newest(10)]
            if ids:
                await letters.replay(self.rng.sample(ids, self.rng.randrange(1, len(ids) + 1)))

    async def drop_a_letter(self) -> None:
        async with DeadLetters(self.stores.database_url) as letters:
            await letters.drop([letter.id for letter in await letters.list_newest(1)])

    async def erase(self) -> None:
        if self.players:
            player = self.players.pop(self.rng.randrange(len(self.players)))
            await erase_player(self.stores.hot, self.stores.database_url, player.key.user_id)

    async def rebuild(self) -> None:
        first_day = datetime.fromtimestamp(self._some_time() / 1000, UTC).date()
        await self.postgres.execute("SELECT rebuild_rollups($1)", first_day)

    async def check(self) -> None:
        assert await list_rollup_drift(self.postgres) == []
        await check_playtime(self.postgres)

    async def verify(self) -> None:
        """States, totals, levels, sessions and all the rest that follows from events."""
        findings = await verify(self.stores.database_url, levels=LevelRule(), experiences={})
        assert [findings.first[check] for check, count in findings.counts.items() if count] == []

    def _some_time(self) -> int:
        return self.now_ms - self.rng.choice((0, 1_000, 30_000, DAY_MS, 3 * DAY_MS)) - self.rng.randrange(DAY_MS // 8)

    def _make_step(self) -> tuple[Any, Any]:
        if self.rng.random() < 0.2:
            return None, [{"op": "incr", "path": "collectibles.steps", "value": 1}]
        content = self.rng.choice(("attic", "cellar", "roof", "refused"))
        data = {"time_spent": self.rng.choice(SPENT)} if self.rng.random() < 0.7 else {"note": '"time_spent":5,'}
        return {"type": self.rng.choice(TYPES), "content_id": content, "data": data}, None

    async def _say_hello(self, player: StorePlayer) -> None:
        progress = await player.hello()
        player.seq = progress.accepted[player.device]


STEPS_OF_A_DAY = ["play"] * 8 + ["flush"] * 4 + ["arrive"] * 2 + ["flush_twice_at_once", "die", "die", "lose_redis"]
STEPS_OF_A_DAY += ["become_picky", "replay", "replay", "drop_a_letter", "erase", "rebuild"]


async def run_schedule(at: Stores, connection: Any, seed: int) -> None:
    world = World(random.Random(seed), at, connection)
    for _ in range(2):
        await world.arrive()
    for _ in range(35):
        await getattr(world, world.rng.choice(STEPS_OF_A_DAY))()
        await world.check()
    await world.verify()
    if world.is_picky:
        await world.become_picky()
    for last in (world.flush, world.flush, world.replay, world.replay):
        await last()
        await world.check()
    await world.verify()


@pytest.mark.timeout(300)
async def test_rollups_equal_the_events_after_every_step_of_any_schedule(stores: Stores) -> None:  # noqa: F811
    seeds = [int(os.environ["WAYHOLD_SEED"])] if "WAYHOLD_SEED" in os.environ else list(range(SCHEDULES))
    connection = await asyncpg.connect(stores.database_url)
    try:
        for seed in seeds:
            try:
                async with asyncio.timeout(60):
                    await run_schedule(stores, connection, seed)
            except BaseException as error:
                error.add_note(f"seed {seed}: WAYHOLD_SEED={seed} repeats it")
                raise
    finally:
        await connection.close()


async def test_check_of_rollups_notices_each_kind_of_drift(stores: Stores) -> None:  # noqa: F811
    """The brute force that the schedules rely on finds what is wrong by one."""
    player = stores.player()
    await player.hello()
    await player.send(player.make({"type": "danced", "content_id": "roof", "data": {"time_spent": 2}}))
    await stores.flush()
    connection = await asyncpg.connect(stores.database_url)
    try:
        assert await list_rollup_drift(connection) == []
        for table, change in (
            ("content_hours", "events = events + 1"),
            ("content_hours", "time_spent_ms = time_spent_ms - 1"),
            ("content_player_days", "first_at = first_at + interval '1 ms'"),
            ("experience_hours", "playtime_ms = playtime_ms + 1"),
            ("player_days", "day = day - 1"),
        ):
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"UPDATE {table} SET {change}")
            assert await list_rollup_drift(connection), (table, change)
            await transaction.rollback()
    finally:
        await connection.close()


async def test_rebuild_beside_flushers_is_exact(stores: Stores) -> None:  # noqa: F811
    players = [stores.player() for _ in range(20)]
    for player in players:
        await player.hello()
        await player.send(player.make({"type": "danced", "content_id": "roof", "data": {"time_spent": 2}}))
    flusher = stores.flusher(bounds=FlushBounds(progress_max=2))
    connection = await asyncpg.connect(stores.database_url)

    async def flush_all() -> None:
        while await flusher.flush_due(ahead_s=3600.0):
            pass

    try:
        flushing = asyncio.create_task(flush_all())
        for _ in range(5):
            await connection.execute("SELECT rebuild_rollups()")
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                assert await list_rollup_drift(connection) == []
        await flushing
        assert await list_rollup_drift(connection) == []
    finally:
        await flusher.close()
        await connection.close()
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 20


@pytest.fixture(scope="module")
def sql_time_spent(servers: Servers) -> Any:
    """`time_spent_ms` of the schema, as a plain function."""
    url = servers.create_database()
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(url))

    def ask(data_json: bytes) -> int | None:
        found: int | None = loop.run_until_complete(
            connection.fetchval("SELECT time_spent_ms($1::jsonb)", data_json.decode())
        )
        return found

    yield ask
    loop.run_until_complete(connection.close())
    loop.close()
    servers.drop_database(url)


spent_values = st.one_of(
    st.floats(-1, 90_000), st.integers(-2, 90_000), st.floats(0, 1), st.decimals(0, 100, places=4).map(float), values
)


@given(st.dictionaries(st.sampled_from(["time_spent", "time", 'a"time_spent":1']), spent_values, max_size=3))
def test_flush_and_schema_read_the_same_time_spent(sql_time_spent: Any, data: dict[str, Any]) -> None:
    data_json = canonical_json(data)
    assert time_spent_ms(data_json) == sql_time_spent(data_json)


def test_time_spent_is_a_number_of_seconds_of_a_day_at_most() -> None:
    for text, expected in (
        ('{"time_spent":45}', 45_000),
        ('{"a":"x","time_spent":0.0005}', 1),
        ('{"time_spent":86400}', 86_400_000),
        ('{"time_spent":86400.001}', None),
        ('{"time_spent":-1}', None),
        ('{"time_spent":"45"}', None),
        ('{"inner":{"time_spent":45}}', None),
        ('{"note":"\\"time_spent\\":5,"}', None),
        ('[{"op":"set","path":"time_spent","value":1}]', None),
        ("{}", None),
    ):
        assert time_spent_ms(text.encode()) == expected, text
    assert timedelta(milliseconds=time_spent_ms(b'{"time_spent":1.5}') or 0) == timedelta(seconds=1.5)
