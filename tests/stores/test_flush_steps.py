"""A flusher that dies after any of its steps: the next one makes everything right, once."""

from __future__ import annotations

import asyncio
import time

import pytest

from persistence.errors import StoreUnavailable
from persistence.flusher.flusher import STEPS, FlushBounds
from tests.stores.conftest import Stores
from tests.waiting import wait_until

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


async def test_lanes_share_the_work_and_write_everything_once(stores: Stores) -> None:
    players = [stores.player() for _ in range(30)]
    for player in players:
        await player.hello()
        await player.send(player.make(WAYPOINT), player.make(WAYPOINT))
    flusher = stores.flusher(bounds=FlushBounds(progress_max=4), lanes=3)
    stop = asyncio.Event()
    running = asyncio.create_task(flusher.run(stop))
    for player in players:
        await stores.hot.make_due(player.key)

    async def is_saved() -> bool:
        return (await stores.hot.count_pending()).updates == 0

    try:
        await wait_until("all lanes together have saved everything", is_saved)
    finally:
        stop.set()
        assert await running
    rows = await stores.fetch("SELECT experience_progress_id, seq FROM player_progress_events ORDER BY 1, version")
    assert [row["seq"] for row in rows] == [1, 2] * 30
    assert sum(report.updates for report in stores.reports) == 60


async def test_a_lane_that_fails_leaves_its_work_to_the_others(stores: Stores) -> None:
    """A connection that ends under one lane costs that flush; what it had claimed is given back and written."""
    players = [stores.player() for _ in range(12)]
    for player in players:
        await player.hello()
        await player.send(player.make(WAYPOINT))
    failures = 2

    def break_off(step: str) -> None:
        nonlocal failures
        if step == "events_written" and failures:
            failures -= 1
            raise StoreUnavailable("postgres", "a test", "cut off")

    flusher = stores.flusher(bounds=FlushBounds(progress_max=2), lanes=2, at_step=break_off)
    with pytest.raises(StoreUnavailable):
        await flusher.flush_due(ahead_s=10.0)
    while await flusher.flush_due(ahead_s=10.0):
        pass
    await flusher.close()
    rows = await stores.fetch(
        "SELECT count(*) AS n, count(DISTINCT experience_progress_id) AS p FROM player_progress_events"
    )
    assert tuple(rows[0]) == (12, 12) and not failures


async def test_time_of_writing_leaves_out_what_redis_took(stores: Stores) -> None:
    """Both histograms had the same time once: a slow Redis looked like a slow Postgres."""
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))

    def be_slow(at: str) -> None:
        until = time.monotonic() + 0.2
        while at == "snapshot_taken" and time.monotonic() < until:
            pass

    assert await stores.flusher(at_step=be_slow).flush_due(ahead_s=3600.0) == 1
    (report,) = stores.reports
    assert 0 < report.write_s <= report.duration_s - 0.2
