"""
How a player's connections ended is written some seconds later. Of a player who was erased in between nothing was
written, unless the player had started anew by then: the devices of the life that was erased came back for thirty days.
"""

from __future__ import annotations

import time

from persistence.erase import erase_player
from tests.integration.gateway_rig import new_user, run_rig, token
from tests.stores.conftest import Stores


async def test_connections_from_before_an_erase_are_not_written_for_the_life_after_it(
    redis_url: str, database_url: str
) -> None:
    async with run_rig(redis_url, database_url) as rig:
        user_id = new_user()
        old = token(user_id, iat=int(time.time()) - 60)
        async with rig.player(user_id, device="lost phone", token=old) as bare:
            await bare.accept(1)
        async with rig.player(user_id, device="old phone", token=old) as bare:
            await bare.accept(1)
            await erase_player(rig.hot, database_url, user_id)
            assert await bare.close_code() == 4204
        async with rig.player(user_id, device="new phone") as bare:
            await bare.accept(1)
        other = new_user()
        async with rig.player(other) as bare:
            await bare.accept(1)
        await rig.node.connection_log.write()
        stores = Stores(rig.hot, rig.cold, database_url, redis_url)
        rows = await stores.fetch("SELECT user_id::text, device_id FROM player_connections")
        devices = {(row["user_id"], row["device_id"]) for row in rows}
        assert (user_id, "old phone") not in devices and (user_id, "lost phone") not in devices
        assert devices >= {(user_id, "new phone"), (other, "phone")}
