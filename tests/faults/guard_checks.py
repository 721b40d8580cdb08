"""
Small, quick checks of the write path, each aimed at one guard: on a whole tree none finds anything; with the guard
taken out (negative_controls.py) the check that is aimed at it must find something, and says which number rose.

`python -m tests.faults.guard_checks NAME` runs one on the servers of REDIS_URL and DATABASE_URL (both empty) and
prints what it found as one line of JSON.

The names of the numbers are the audit's where they can be (`lost`, `duplicated`, `state_mismatches`), else they say
what happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

from persistence.cold.store import ColdStore
from persistence.errors import PersistenceError
from persistence.hot.shapes import Outcome
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey
from protocol.client.journal import Disk, FileJournal
from protocol.client.player_client import PlayerClient
from tests.faults.proxy import Proxy
from tests.integration.gateway_rig import EXPERIENCE, hello_frame, new_user, run_flusher, run_rig, token
from tests.property.test_write_path_schedules import World, run_schedule
from tests.stores.conftest import StorePlayer, Stores
from tests.waiting import wait_until

SEEDS = 60
REST_S = 6.0
"""How long a client may take to come to rest when nothing is broken any more; it takes a fraction of a second."""

Found = Counter[str]
Check = Callable[["Ground"], Awaitable[Found]]
CHECKS: dict[str, Check] = {}

STEP = {"type": "step", "content_id": "lamp"}
COUNT = [{"op": "incr", "path": "collectibles.steps", "value": 1}]


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


@dataclass(slots=True)
class Ground:
    """Empty servers."""

    redis_url: str
    database_url: str

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[Stores]:
        hot = await HotStore.open(self.redis_url, flush_interval_s=5.0)
        cold = await ColdStore.open(self.database_url, pool_max=4)
        try:
            yield Stores(hot, cold, self.database_url, self.redis_url)
        finally:
            await hot.close()
            await cold.close()

    @asynccontextmanager
    async def world(self, seed: int = 1) -> AsyncIterator[World]:
        """One progress and two devices, step by step, as in the schedules."""
        async with self.stores() as stores:
            connection = await asyncpg.connect(self.database_url)
            try:
                yield World(random.Random(seed), stores, connection)
            finally:
                await connection.close()

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        connection = await asyncpg.connect(self.database_url)
        try:
            return list(await connection.fetch(sql, *args))
        finally:
            await connection.close()


async def count_rows(at: Ground, made: int) -> Found:
    """Rows by what they say: `made` different steps should be there, each once, with a state that says so."""
    rows = await at.fetch("SELECT content_id, count(*) AS n FROM player_progress_events GROUP BY 1")
    found = Counter(lost=max(0, made - len(rows)), duplicated=sum(row["n"] - 1 for row in rows), state_mismatches=0)
    for row in await at.fetch("SELECT state FROM experience_progress"):
        steps = json.loads(row["state"]).get("collectibles", {}).get("steps", 0)
        found["state_mismatches"] += abs(steps - sum(row["n"] for row in rows))
    return +found


async def send(player: StorePlayer, number: int, **fields: Any) -> Any:
    """One step, as the next of its stream."""
    return await player.send(player.make({"type": "step", "content_id": f"{player.device}-{number}"}, COUNT, **fields))


def name_failure(error: BaseException) -> str:
    """What an assertion of the schedules is about, as the number that rose."""
    text = str(error)
    for words, name in (
        ("stored twice", "duplicated"),
        ("out of order", "reordered"),
        ("told saved", "lost"),
        ("never at rest", "never_at_rest"),
        ("thrown away", "discards"),
        ("postgres never forgets", "discards"),
        ("set(stored)", "lost"),
    ):
        if words in text:
            return name
    return "state_mismatches"


# ── random schedules ────────────────────────────────────────────────────────────────────────────────────────────────


async def _schedules(at: Ground, *, with_faults: bool) -> Found:
    async with at.stores() as stores:
        connection = await asyncpg.connect(at.database_url)
        try:
            for seed in range(SEEDS):
                try:
                    await run_schedule(stores, connection, seed, with_faults=with_faults)
                except (AssertionError, asyncpg.PostgresError) as error:
                    return Counter({name_failure(error): 1})
        finally:
            await connection.close()
    return Counter()


@check
async def schedules_with_faults(at: Ground) -> Found:
    return await _schedules(at, with_faults=True)


@check
async def schedules_without_faults(at: Ground) -> Found:
    return await _schedules(at, with_faults=False)


# ── one guard each ──────────────────────────────────────────────────────────────────────────────────────────────────


@check
async def answers_from_another_copy(at: Ground) -> Found:
    """A copy was rebuilt behind a connection's back, and another device went on in it: what the player sees is old."""
    async with at.stores() as stores:
        phone = stores.player()
        await phone.hello()
        await send(phone, 1)
        await stores.flush()
        progress, pending = stores.hot._keys.of_group(phone.key)[1:3]
        await stores.hot._client.delete(progress, pending)
        await phone.hydrate()
        verdict = await send(phone, 2)
        return +Counter(answered_for_another_copy=int(verdict.outcome is Outcome.OK))


@check
async def idle_client_after_rollback(at: Ground) -> Found:
    """Redis is rolled back to an older moment of the same copy under a client that makes nothing any more."""
    async with at.stores() as stores:
        phone = stores.player()
        await phone.hello()
        await send(phone, 1)
        keys = list(stores.hot._keys.of_group(phone.key)[1:3])
        dumps = {key: await stores.hot._client.dump(key) for key in keys}
        await send(phone, 2)
        for key, body in dumps.items():
            await stores.hot._client.restore(key, 0, body, replace=True)
        (verdict,) = await stores.hot.apply_updates([phone.group()])
        if verdict.outcome is Outcome.BEHIND:
            # Told so, the client goes back and sends again.
            progress = await phone.hello_without_hydrate()
            assert progress is not None
            phone.seq = progress.accepted[phone.device]
            await send(phone, 2)
        await stores.flush()
        return await count_rows(at, 2)


@check
async def idle_client_after_loss(at: Ground) -> Found:
    """Redis loses everything under clients that make nothing any more: their heartbeats must notice."""
    async with run_rig(at.redis_url, at.database_url, heartbeat_s=0.2, flush_interval_s=60.0) as rig:
        client = PlayerClient(rig.url, token(new_user()), EXPERIENCE)
        await client.start()
        try:
            await client.event("step", "1", effects=COUNT)
            await client.wait_accepted(1, REST_S)
            await rig.hot._client.flushall()
            await asyncio.sleep(1.0)  # several heartbeats
            async with at.stores() as stores:
                await stores.flush()
        finally:
            await client.stop()
    return await count_rows(at, 1)


@check
async def repeated_update(at: Ground) -> Found:
    """The reply to an update is lost and the client sends it again."""
    async with at.stores() as stores:
        phone = stores.player()
        await phone.hello()
        await send(phone, 1)
        update = phone.make({"type": "step", "content_id": "phone-2"}, COUNT)
        await phone.send(update)
        with suppress(PersistenceError):
            await stores.hot.apply_updates([phone.group(update)])
        await stores.flush()
        return await count_rows(at, 2)


@check
async def replaced_connection_writes(at: Ground) -> Found:
    """A gateway that was frozen wakes up and writes for a connection that another one has replaced."""
    async with at.stores() as stores:
        phone = stores.player()
        await phone.hello()
        await send(phone, 1)
        old = phone.connection
        await phone.hello_without_hydrate()
        assert phone.connection > old
        phone.connection = old
        verdict = await send(phone, 2)
        return +Counter(zombie_writes=verdict.taken)


@check
async def snapshot_that_came_late(at: Ground) -> Found:
    """Two flushers: the older snapshot is written after the newer one was, which proves nothing about the copy."""
    async with at.world() as world:
        phone = world.devices[0]
        await _play(world, phone, 1)
        await world.snapshot()
        await _play(world, phone, 1)
        await world.snapshot()
        older = world.snapshots.pop(0)
        await world.write()
        await _settle_all(world)
        await _play(world, phone, 1)
        world.snapshots = [older]
        await world.write()
        return +Counter(discards=world.thrown_away)


@check
async def hydrate_that_came_late(at: Ground) -> Found:
    """A read of Postgres is installed over a copy that went on meanwhile."""
    async with at.world() as world:
        phone = world.devices[0]
        await _play(world, phone, 1)
        await world.hydrate()
        await _play(world, phone, 1)
        await world.install()
        return +Counter(discards=world.thrown_away)


@check
async def copy_of_another_history(at: Ground) -> Found:
    """An old copy comes back after another one was saved: same versions, other entries."""
    async with at.world() as world:
        phone, tablet = world.devices
        await _play(world, phone, 2)
        await world.keep_hot()
        await world.lose_hot()
        for device in (tablet, phone):
            device.is_connected = False
        await _play(world, tablet, 4)
        await _flush(world)
        await world.old_hot()
        for device in (tablet, phone):
            device.is_connected = False
        await _play(world, phone, 3)
        await _flush(world)
        return await _rest(world)


@check
async def settle_of_another_history(at: Ground) -> Found:
    """A copy is rolled back while its flush is under way and another device goes on in it, then the flush settles."""
    async with at.world() as world:
        phone, tablet = world.devices
        await _connect(world, phone)
        await world.keep_hot()
        await _play(world, phone, 2)
        await world.snapshot()
        while not world.settlements:
            await world.snapshot()
            await world.write()
        await world.old_hot()
        phone.is_connected = False
        await _play(world, tablet, 3)
        await _settle_all(world)
        return await _rest(world)


async def _connect(world: World, device: Any) -> None:
    for _ in range(20):
        if device.is_connected:
            return
        await world.hello(device)
        while world.loads:
            await world.install()
    raise AssertionError("never at rest: a device cannot connect")


async def _play(world: World, device: Any, steps: int) -> None:
    """So many good steps of a device, accepted."""
    for _ in range(steps):
        before = len(world.made)
        while len(world.made) == before or world.made[(device.player.device, device.made)]:
            await world.make(device)
    for _ in range(200):
        await _connect(world, device)
        if device.next_seq > device.made:
            return
        await world.update(device)
    raise AssertionError("never at rest: a device's updates are not accepted")


async def _flush(world: World) -> None:
    await world.snapshot()
    while world.snapshots:
        await world.write()
    await _settle_all(world)


async def _settle_all(world: World) -> None:
    while world.settlements:
        await world.settle()


async def _rest(world: World) -> Found:
    try:
        await world.rest()
        await world.audit()
    except AssertionError as error:
        return Counter({name_failure(error): 1})
    return Counter()


# ── flush ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Died(BaseException):
    """The process is gone."""


@check
async def death_before_the_commit(at: Ground) -> Found:
    async with at.stores() as stores:
        phone = stores.player()
        await phone.hello()
        await send(phone, 1)

        def die(step: str) -> None:
            if step == "written":
                raise Died

        dying = stores.flusher(at_step=die)
        with suppress(Died):
            await dying.flush_due(ahead_s=3600.0)
        await stores.flush()
        return await count_rows(at, 1)


@check
async def whole_backlog(at: Ground) -> Found:
    """Several entries are pending and all are written."""
    async with at.stores() as stores:
        phone = stores.player()
        await phone.hello()
        for number in range(8):
            await send(phone, number)
        await stores.flush()
        return await count_rows(at, 8)


@check
async def backlog_that_waits(at: Ground) -> Found:
    """Postgres is away for a while: what is pending stays."""
    async with at.stores() as stores:
        phone = stores.player()
        await phone.hello()
        for number in range(3):
            await send(phone, number)
        await asyncio.sleep(1.5)
        with suppress(PersistenceError, ValueError, AssertionError):
            await stores.flush()
        return await count_rows(at, 3)


# ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _through_proxy(at: Ground) -> AsyncIterator[tuple[Proxy, str]]:
    """Redis through a link of ours."""
    path = Path(unquote(urlsplit(at.redis_url).path))
    with tempfile.TemporaryDirectory(prefix="wh-guard-", dir="/tmp") as folder:
        proxy = Proxy("valkey", lambda: path)
        await proxy.listen_unix(Path(folder) / "v.sock")
        try:
            yield proxy, f"unix://{folder}/v.sock?db=0"
        finally:
            await proxy.close()


@check
async def reply_that_never_comes(at: Ground) -> Found:
    """A call whose reply is lost is sent once, and given up after a second."""
    async with _through_proxy(at) as (proxy, redis_url):
        hot = await HotStore.open(redis_url)
        try:
            await hot.time_ms()
            proxy.drop("down")
            began = time.monotonic()
            connections = proxy.connections_made
            with suppress(PersistenceError):
                await hot.time_ms()
            waited_s = time.monotonic() - began
            return +Counter(repeated_calls=proxy.connections_made - connections, late=int(waited_s > 1.8))
        finally:
            proxy.heal()
            await hot.close()


@check
async def ack_while_redis_hangs(at: Ground) -> Found:
    """Nothing is acknowledged that Redis has not confirmed."""
    async with (
        _through_proxy(at) as (proxy, redis_url),
        run_rig(redis_url, at.database_url) as rig,
        rig.player() as bare,
    ):
        await bare.accept(1)

        async def is_quiet() -> bool:
            return all(connection.in_flight == 0 for connection in rig.node.connections)

        await wait_until("nothing is under way", is_quiet, REST_S)
        proxy.hang("up")
        await bare.update(2)
        acked = 1
        with suppress(TimeoutError):
            async with asyncio.timeout(0.8):
                while acked < 2:
                    frame = await bare.receive()
                    acked = max(acked, frame["seq"] if frame["t"] == "ack" else 0)
        return +Counter(lost=int(acked >= 2))


# ── hello ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@check
async def hello_after_rollback(at: Ground) -> Found:
    """
    Redis was rolled back while the player was away; Postgres has more than Redis. The client was told of 3 saved steps
    and made a fourth, which Postgres has, too.
    """
    user_id = new_user()
    async with run_rig(at.redis_url, at.database_url, flush_interval_s=60.0) as rig, at.stores() as stores:
        keys = list(rig.hot._keys.of_group(_key(user_id))[1:4])
        async with rig.player(user_id) as bare:
            await bare.accept(1, event={"type": "step", "content_id": "1"}, effects=COUNT)
            dumps = {key: await rig.hot._client.dump(key) for key in keys}
            for seq in (2, 3, 4):
                await bare.accept(seq, event={"type": "step", "content_id": str(seq)}, effects=COUNT)
        await stores.flush()
        for key, body in dumps.items():
            await rig.hot._client.delete(key)
            if body is not None:
                await rig.hot._client.restore(key, 0, body)
        async with rig.bare() as bare:
            await bare.send(hello_frame(user_id, saved=3, made=4))
            frame = await bare.expect("welcome", "stream_reset")
            found: Found = Counter()
            if frame["t"] == "stream_reset":
                # As a client does: what lies above `accepted` and is still in the journal goes on as a new device.
                await bare.send(hello_frame(user_id, device="phone-2", saved=0, made=1))
                await bare.wait_for("welcome")
                await bare.accept(1, event={"type": "step", "content_id": "4"}, effects=COUNT)
                found["stream_resets"] = 1
            elif frame["seq"]["accepted"] < 3:
                found["marks_went_back"] = 3 - frame["seq"]["accepted"]
        await stores.flush()
        if found["stream_resets"]:
            # The rolled back copy was no good; what it took is sent again.
            async with rig.bare() as bare:
                await bare.send(hello_frame(user_id, device="phone-2", saved=0, made=1))
                await bare.wait_for("welcome")
                await bare.accept(1, event={"type": "step", "content_id": "4"}, effects=COUNT)
            await stores.flush()
    return found + await count_rows(at, 4)


@check
async def device_that_forgot(at: Ground) -> Found:
    """A device lost its newest numbers and gives them out again, to other steps."""
    user_id = new_user()
    async with run_rig(at.redis_url, at.database_url, flush_interval_s=60.0) as rig, at.stores() as stores:
        async with rig.player(user_id) as bare:
            for seq in (1, 2, 3):
                await bare.accept(seq, event={"type": "step", "content_id": str(seq)}, effects=COUNT)
        async with rig.bare() as bare:
            await bare.send(hello_frame(user_id, saved=0, made=2))
            frame = await bare.expect("welcome", "stream_reset")
            if frame["t"] == "stream_reset":
                await bare.send(hello_frame(user_id, device="phone-2", saved=0, made=1))
                await bare.wait_for("welcome")
                await bare.accept(1, event={"type": "step", "content_id": "new"}, effects=COUNT)
            else:
                await bare.accept(3, event={"type": "step", "content_id": "new"}, effects=COUNT)
        await stores.flush()
    return await count_rows(at, 4)


@check
async def postgres_that_forgot(at: Ground) -> Found:
    """Postgres loses a commit that a client was told of; the client makes one more step and must get it saved."""
    user_id = new_user()
    async with run_rig(at.redis_url, at.database_url, heartbeat_s=0.3) as rig:
        client = PlayerClient(rig.url, token(user_id), EXPERIENCE)
        await client.start()
        try:
            async with run_flusher(at.redis_url, at.database_url):
                await client.event("step", "1", effects=COUNT)
                await client.wait_saved(1, REST_S)
                await asyncio.sleep(0.3)
            (before,) = await at.fetch("SELECT * FROM experience_progress")
            async with run_flusher(at.redis_url, at.database_url):
                await client.event("step", "2", effects=COUNT)
                await client.wait_saved(2, REST_S)
                await asyncio.sleep(0.3)
            await _forget_after(at, before)
            # A flusher that cannot go on does not end in time, either.
            with suppress(TimeoutError):
                async with run_flusher(at.redis_url, at.database_url):
                    await client.event("step", "3", effects=COUNT)
                    with suppress(TimeoutError):
                        await client.wait_saved(client.made, REST_S)
        finally:
            await client.stop()
    # The second step is what Postgres lost: that is not promised. The third must be there.
    rows = {row["content_id"] for row in await at.fetch("SELECT content_id FROM player_progress_events")}
    return +Counter(lost=len({"1", "3"} - rows))


async def _forget_after(at: Ground, before: Any) -> None:
    """Put the progress back to how it was, as a restore would."""
    await at.fetch("DELETE FROM player_progress_events WHERE version > $1", before["version"])
    await at.fetch("UPDATE device_streams SET last_seq = 1")
    await at.fetch(
        "UPDATE experience_progress SET version = $1, last_entry = $2, state = $3",
        before["version"],
        before["last_entry"],
        before["state"],
    )


def _key(user_id: str) -> ProgressKey:
    return ProgressKey(user_id, EXPERIENCE)


# ── journal ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class FragileDisk(Disk):
    """Knows how much of the file would be there after a power cut."""

    def __init__(self) -> None:
        self.safe_bytes: dict[int, int] = {}

    def sync(self, handle: int) -> None:
        super().sync(handle)
        self.safe_bytes[handle] = os.fstat(handle).st_size


@check
async def power_cut_on_the_phone(at: Ground) -> Found:
    """
    The battery dies right after an update was accepted; the phone comes back, makes more steps than it had lost, and
    only then finds a network.
    """
    user_id = new_user()
    made = 3
    with tempfile.TemporaryDirectory(prefix="wh-guard-") as folder:
        path = Path(folder) / "phone.journal"
        device = str(uuid.uuid4())

        def open_journal(disk: Disk | None = None) -> FileJournal:
            return FileJournal(
                path,
                server="s",
                player=user_id,
                experience=EXPERIENCE,
                device=None if disk is None else device,
                disk=disk,
            )

        async with run_rig(at.redis_url, at.database_url) as rig, run_flusher(at.redis_url, at.database_url):
            disk = FragileDisk()
            journal = open_journal(disk)
            client = PlayerClient(rig.url, token(user_id), EXPERIENCE, journal=journal)
            await client.start()
            for number in range(made):
                await client.event("step", f"before-{number}", effects=COUNT)
            await client.wait_accepted(made, REST_S)
            safe_bytes = max(disk.safe_bytes.values(), default=0)
            await client.stop()
            await journal.close()
            with path.open("r+b") as file:
                file.truncate(safe_bytes)
            journal = open_journal()
            client = PlayerClient(rig.url, token(user_id), EXPERIENCE, journal=journal)
            for number in range(made + 1):
                await client.event("step", f"after-{number}", effects=COUNT)
            await client.start()
            with suppress(TimeoutError):
                await client.wait_saved(client.made, REST_S)
            await client.stop()
            await journal.close()
    return await count_rows(at, 2 * made + 1) + Counter(stream_resets=int(journal.device != device))


# ── running ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def run_check(name: str, ground: Ground, deadline_s: float = 90.0) -> Found:
    async with asyncio.timeout(deadline_s):
        return await CHECKS[name](ground)


def main() -> int:
    ground = Ground(os.environ["REDIS_URL"], os.environ["DATABASE_URL"])
    print(json.dumps(asyncio.run(run_check(sys.argv[1], ground))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
