"""Checks of the guards in the scripts, and random schedules of everything."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import asyncpg

from persistence.errors import PersistenceError
from persistence.hot.shapes import Outcome
from protocol.client.player_client import PlayerClient
from tests.faults.guard_check import COUNT, REST_S, Found, Ground, check, count_rows, name_failure, send
from tests.integration.gateway_rig import EXPERIENCE, new_user, run_rig, token
from tests.property.test_write_path_schedules import World, run_schedule

SEEDS = 60


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
