"""A profile with as many achievements as it may have lost some for new ones."""

from __future__ import annotations

import json

from tests.stores.conftest import Stores, stores  # noqa: F401


async def test_profile_full_of_achievements_keeps_those_it_has(stores: Stores) -> None:  # noqa: F811
    """
    The bound of 10,000 cut the union wherever the plan of the query put its end. New achievements whose names sort
    first pushed out old ones.
    """
    player = stores.player()
    await player.hello()
    await stores.flush()
    held = [f"m{number:05d}" for number in range(9_999)]
    await stores.fetch(
        "UPDATE player_profiles SET stats = jsonb_build_object('achievements', $1::jsonb)", json.dumps(held)
    )
    unlocked = [{"type": "achievement_unlocked", "content_id": name} for name in ("b", "a", "z", "m00007")]
    await player.send(*[player.make(event) for event in unlocked])
    await stores.flush()
    rows = await stores.fetch("SELECT stats -> 'achievements' AS names FROM player_profiles")
    assert json.loads(rows[0]["names"]) == ["a", *held]
