"""A flusher that dies after any of its steps: the next one makes everything right, once."""

from __future__ import annotations

import pytest

from persistence.flusher.flusher import STEPS
from tests.stores.conftest import Stores

WAYPOINT = {"type": "waypoint_visited", "content_id": "8_inter_gravity_car", "data": {"distance_traveled": 1.5}}


class Died(BaseException):
    """The process is gone: nothing that comes after this runs, no handler of an ordinary error either."""


@pytest.mark.parametrize("step", STEPS)
async def test_dying_after_a_step_loses_nothing_and_doubles_nothing(stores: Stores, step: str) -> None:
    players = [stores.player() for _ in range(3)]
    for player in players:
        await player.hello()
        await player.send(player.make(WAYPOINT), player.make(WAYPOINT))
    reached = []

    def die(at: str) -> None:
        reached.append(at)
        if at == step:
            raise Died

    dying = stores.flusher(at_step=die)
    with pytest.raises(Died):
        await dying.flush_due(ahead_s=3600.0)
    assert reached == list(STEPS[: STEPS.index(step) + 1])
    for player in players:
        await player.send(player.make(WAYPOINT))
    while await stores.flush():
        pass
    rows = await stores.fetch("SELECT experience_progress_id, seq FROM player_progress_events ORDER BY 1, version")
    assert [row["seq"] for row in rows] == [1, 2, 3] * 3
    totals = await stores.fetch("SELECT total_distance_meters, total_experiences_played FROM player_profiles")
    assert [tuple(total) for total in totals] == [(4.5, 1)] * 3
    assert sum(report.discards for report in stores.reports) == 0
