"""Checks of a hello after somebody forgot."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

from persistence.progress_key import ProgressKey
from protocol.client.player_client import PlayerClient
from tests.faults.guard_check import COUNT, REST_S, Found, Ground, check, count_rows
from tests.integration.gateway_rig import EXPERIENCE, hello_frame, new_user, run_flusher, run_rig, token


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
