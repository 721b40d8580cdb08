"""The head and the holder of a hot copy: what lets an update pass without a look at the session."""

from __future__ import annotations

from typing import Any

import pytest

from persistence.hot.head import unpack_head
from persistence.hot.shapes import Outcome
from tests.stores.conftest import StorePlayer, Stores

STEP = {"type": "step", "content_id": "lamp"}
COUNT = [{"op": "incr", "path": "collectibles.steps", "value": 1}]
HEAD_NAMES = ("version", "base_version", "offset", "base_offset", "state_fields", "state_bytes")


async def get_fields(stores: Stores, player: StorePlayer) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = await stores.hot._client.hgetall(stores.hot._keys.progress(player.key))
    return found


async def make_early(stores: Stores, player: StorePlayer) -> None:
    """As the first version kept it: numbers in fields of their own, and no holder."""
    progress = stores.hot._keys.progress(player.key)
    head = unpack_head(await stores.hot._client.hget(progress, "head"))
    await stores.hot._client.hdel(progress, "head", "holder")
    await stores.hot._client.hset(progress, mapping=dict(zip(HEAD_NAMES, head[:6], strict=True)))


async def test_a_whole_copy_fits_the_compact_encoding(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(STEP, COUNT))
    progress = stores.hot._keys.progress(player.key)
    assert await stores.hot._client.object("encoding", progress) == b"listpack"
    fields = await get_fields(stores, player)
    assert list(fields)[:4] == [b"holder", b"head", b"accepted:phone", b"saved:phone"]
    assert fields[b"holder"].decode() == f"{player.copy} {player.session_id}"
    assert unpack_head(fields[b"head"]).connection == player.connection


@pytest.mark.parametrize("asks", ["update", "hello", "leave", "flush", "hydrate", "count"])
async def test_a_copy_of_the_first_version_is_taken_over_with_all_that_is_pending(stores: Stores, asks: str) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(STEP, COUNT), player.make(STEP, COUNT))
    before = unpack_head((await get_fields(stores, player))[b"head"])
    await make_early(stores, player)
    if asks == "update":
        assert (await player.send()).outcome is Outcome.OK
    elif asks == "hello":
        assert await player.hello_without_hydrate() is not None
    elif asks == "leave":
        await player.leave()
    elif asks == "hydrate":
        await player.hydrate()
    elif asks == "count":
        assert (await stores.hot.count_pending()).updates == 3
    await stores.flush()
    rows = await stores.fetch("SELECT seq FROM player_progress_events ORDER BY seq")
    assert [row["seq"] for row in rows] == [1, 2]
    after = unpack_head((await get_fields(stores, player))[b"head"])
    assert after.version == after.base_version >= before.version
    assert (after.state_fields, after.state_bytes) == (before.state_fields, before.state_bytes)
    verdict = await player.send(player.make(STEP, COUNT))
    assert verdict.outcome is (Outcome.SESSION_ENDED if asks == "leave" else Outcome.OK)


async def test_a_session_that_ended_is_noticed_although_its_copy_was_held(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.leave()
    assert (await get_fields(stores, player))[b"holder"] == b""
    assert (await player.send(player.make(STEP))).outcome is Outcome.SESSION_ENDED


async def test_a_connection_that_was_replaced_is_fenced_though_the_session_goes_on(stores: Stores) -> None:
    old = stores.player()
    await old.hello()
    new = stores.player(user_id=old.key.user_id)
    new.session_id = old.session_id
    await new.hello_without_hydrate()
    assert (await old.send(old.make(STEP))).outcome is Outcome.FENCED
    assert (await new.send(new.make(STEP))).outcome is Outcome.OK
    assert (await old.send()).outcome is Outcome.FENCED


async def test_a_session_elsewhere_is_not_taken_from_under_its_progress(stores: Stores) -> None:
    here = stores.player("wylding-woods")
    await here.hello()
    there = stores.player("other-woods", user_id=here.key.user_id)
    await there.hydrate()
    assert await there.hello_without_hydrate() is None
    assert (await here.send(here.make(STEP))).outcome is Outcome.OK


async def test_quarantine_is_noticed_and_its_end_too(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make(STEP))
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None
    assert await stores.hot.quarantine(player.key, progress.copy, progress.version, "", "refused")
    refused = player.make(STEP)
    assert (await player.send(refused)).outcome is Outcome.QUARANTINED
    assert (await player.send()).outcome is Outcome.OK
    assert await stores.hot.release_quarantine(player.key)
    assert (await player.send(refused)).outcome is Outcome.OK
    assert (await get_fields(stores, player))[b"holder"] != b""


async def test_activity_is_written_at_its_own_pace_and_never_makes_a_session(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    keys = stores.hot._keys
    session, progress = keys.session(player.key.user_id), keys.progress(player.key)
    before = await stores.hot._client.hget(session, "last_activity")
    await player.send(player.make(STEP))
    assert await stores.hot._client.hget(session, "last_activity") == before
    await set_active_ms(stores, player, int(before) - 60_000)
    await stores.hot._client.hset(session, "last_activity", int(before) - 60_000)
    await player.send()
    assert int(await stores.hot._client.hget(session, "last_activity")) >= int(before)
    assert unpack_head(await stores.hot._client.hget(progress, "head")).active_ms >= int(before)
    # However the session went: an update after its time for a look does not bring a part of it back.
    await set_active_ms(stores, player, 0)
    await stores.hot._client.delete(session)
    assert (await player.send(player.make(STEP))).outcome is Outcome.SESSION_ENDED
    assert not await stores.hot._client.exists(session)


async def set_active_ms(stores: Stores, player: StorePlayer, active_ms: int) -> None:
    from persistence.hot import head

    progress = stores.hot._keys.progress(player.key)
    known: Any = unpack_head(await stores.hot._client.hget(progress, "head"))._replace(active_ms=active_ms)
    await stores.hot._client.hset(progress, "head", head._HEAD.pack(*known))
