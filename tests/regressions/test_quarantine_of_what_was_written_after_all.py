"""Progress that stayed in quarantine although nothing of it was refused any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from persistence.flusher.flusher import Flusher
from persistence.hot.shapes import Outcome
from persistence.hot.store import HotStore
from tests.stores.conftest import StorePlayer, Stores, stores  # noqa: F401

ITEM = {"type": "item_collected", "content_id": "lamp"}
POISON = b'"\\u0000"'


def meanwhile(work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Do it while this loop stands still, as if its process were frozen."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work()).result(timeout=20)


async def poisoned(stores: Stores) -> StorePlayer:  # noqa: F811
    player = stores.player()
    await player.hello()
    await player.send(player.make(ITEM))
    await stores.hot._client.hset(stores.hot._keys.progress(player.key), "v:bad", POISON)
    return player


async def flush_mended(stores: Stores, player: StorePlayer) -> int:  # noqa: F811
    """By another process, after the state was mended."""
    hot = await HotStore.open(stores.redis_url)
    flusher = Flusher(hot, stores.database_url)
    try:
        await hot._client.hdel(hot._keys.progress(player.key), "v:bad")
        return await flusher.flush_due(ahead_s=3600.0)
    finally:
        await flusher.close()
        await hot.close()


async def is_playing(stores: Stores, player: StorePlayer) -> bool:  # noqa: F811
    assert await stores.hot.list_quarantined() == []
    return (await player.send(player.make(ITEM))).outcome is Outcome.OK


async def test_flusher_that_was_refused_does_not_put_aside_what_another_wrote_meanwhile(
    stores: Stores,  # noqa: F811
) -> None:
    """
    A flusher was refused a state and stood still before it said so. Another one wrote the progress, whose state had
    changed; the first woke up and put it in quarantine all the same. The player was told 201 until an operator came.
    """
    player = await poisoned(stores)

    def stand_still(step: str) -> None:
        if step == "published":
            meanwhile(lambda: flush_mended(stores, player))

    refused = stores.flusher(at_step=stand_still)
    await refused.flush_due(ahead_s=3600.0)
    await refused.close()
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 1
    assert await is_playing(stores, player)


async def test_quarantine_ends_when_another_flusher_settles_what_was_refused(stores: Stores) -> None:  # noqa: F811
    """
    The other way round: the flusher that was allowed to write stood still between its commit and its settle, and the
    one that was refused was quicker.
    """
    player = await poisoned(stores)
    hot, progress = stores.hot, stores.hot._keys.progress(player.key)
    snapshot = await hot.find_progress(player.key)
    assert snapshot is not None
    version = snapshot.version
    entry: Any = await hot._client.lindex(hot._keys.pending(player.key), -1)

    async def put_aside() -> None:
        other = await HotStore.open(stores.redis_url)
        entry_id = entry.split(b" ")[1].decode()
        assert await other.quarantine(player.key, player.copy, version, entry_id, "22P05: refused")
        await other.close()

    def stand_still(step: str) -> None:
        if step == "committed":
            meanwhile(put_aside)

    await hot._client.hdel(progress, "v:bad")
    allowed = stores.flusher(at_step=stand_still)
    await allowed.flush_due(ahead_s=3600.0)
    await allowed.close()
    assert await is_playing(stores, player)


async def test_quarantine_goes_with_the_copy_that_was_refused(stores: Stores) -> None:  # noqa: F811
    """
    A copy in quarantine was thrown away, and its place in the list of what is put aside stayed for ever: an operator
    saw a progress that nothing was wrong with.
    """
    discarded, unbased, replaced = [await poisoned(stores) for _ in range(3)]
    await stores.flush()
    assert len(await stores.hot.list_quarantined()) == 3
    # Redis and Postgres have gone different ways since.
    await stores.hot.discard_if_diverged(discarded.key, 1, "00" * 16)
    copy = await stores.hot.find_progress(unbased.key)
    assert copy is not None
    await stores.hot.discard_if_base(unbased.key, copy.base_version, copy.base_id)
    await stores.hot._client.hset(stores.hot._keys.progress(replaced.key), "base_id", "00" * 16)
    await replaced.hydrate()
    assert await stores.hot.list_quarantined() == []
    for player in (discarded, unbased, replaced):
        player.seq = 0
        await player.hello()
        assert await is_playing(stores, player)


async def test_mark_of_a_copy_that_is_gone_is_forgotten_with_it(stores: Stores) -> None:  # noqa: F811
    player = await poisoned(stores)
    await stores.flush()
    await stores.hot._client.delete(stores.hot._keys.progress(player.key))
    await stores.hot.forget(player.key)
    assert await stores.hot.list_quarantined() == []
