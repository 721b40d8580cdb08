"""Who an erase had removed from the active players, and a frozen gateway put back for half an hour."""

from __future__ import annotations

import time

from persistence.erase import erase_player
from tests.stores.conftest import Stores, stores  # noqa: F401


async def test_gateway_that_stood_still_during_an_erase_brings_nobody_back(stores: Stores) -> None:  # noqa: F811
    """
    A gateway told Redis who was heard and looked at no fence. One that was frozen while its player was erased said so
    when it woke up: the user id of an erased player was in Redis for another 30 minutes.
    """
    player, other = stores.player(), stores.player()
    await player.hello()
    await other.hello()
    experience = player.key.experience
    heard = {experience: [(one.key.user_id, one.connection) for one in (player, other)]}
    await stores.hot.note_active_players(heard)
    assert await stores.hot.count_active_players(experience) == 2
    await erase_player(stores.hot, stores.database_url, player.key.user_id)
    await stores.hot.note_active_players(heard)
    assert await stores.hot.count_active_players(experience) == 1

    # With a newer token and a new device the player starts anew, and is active again.
    again = stores.player(user_id=player.key.user_id, device="tablet")
    started_ms = await stores.hot.time_ms()
    assert (
        await stores.hot.install(await stores.cold.open_progress(again.key, "tablet", time.time() + 2), started_ms)
    )[0]
    assert await again.hello_without_hydrate() is not None
    await stores.hot.note_active_players({experience: [(again.key.user_id, again.connection)]})
    assert await stores.hot.count_active_players(experience) == 2


async def test_more_players_than_one_call_takes_are_all_noted(stores: Stores) -> None:  # noqa: F811
    await stores.hot.note_active_players({"wylding-woods": [(f"player {number}", number) for number in range(2_345)]})
    assert await stores.hot.count_active_players("wylding-woods") == 2_345
