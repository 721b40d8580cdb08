"""A session that is resumed without a look at it first: only the one that is meant, and it keeps when it started."""

from __future__ import annotations

import uuid

from persistence.hot.shapes import OpenSession, Outcome, SessionOpened
from persistence.progress_key import ProgressKey
from tests.stores.conftest import StorePlayer, Stores


async def take(player: StorePlayer, session_id: str, experience: str | None = None) -> SessionOpened:
    key = player.key if experience is None else ProgressKey(player.key.user_id, experience)
    return await player.hot.open_session(
        OpenSession(
            key=key,
            device=player.device,
            node="node-2",
            session_id=session_id,
            started_ms=0,
            claims="{}",
            connection_min=0,
            seen=None,
            start_entry=None,
            end_entry=None,
            takes=True,
        )
    )


async def test_session_that_is_there_is_taken_with_a_higher_number_and_its_own_start(stores: Stores) -> None:
    player = stores.player()
    progress = await player.hello()
    before = await stores.hot.find_session(player.key.user_id)
    assert before is not None
    taken = await take(player, player.session_id)
    assert taken.outcome is Outcome.OK and taken.connection > before.connection
    assert taken.started_ms == before.started_ms
    assert taken.progress is not None and taken.progress.version == progress.version
    after = await stores.hot.find_session(player.key.user_id)
    assert after is not None and (after.started_ms, after.node) == (before.started_ms, "node-2")


async def test_any_other_session_is_shown_and_left_alone(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    before = await stores.hot.find_session(player.key.user_id)
    for taken in (
        await take(player, str(uuid.uuid4())),
        await take(player, player.session_id, experience="west-of-house"),
    ):
        assert taken.outcome is Outcome.CHANGED and taken.session == before
    assert await stores.hot.find_session(player.key.user_id) == before


async def test_no_session_is_made_where_none_is(stores: Stores) -> None:
    player = stores.player()
    await player.hydrate()
    taken = await take(player, player.session_id)
    assert (taken.outcome, taken.session) == (Outcome.CHANGED, None)
    assert await stores.hot.find_session(player.key.user_id) is None
