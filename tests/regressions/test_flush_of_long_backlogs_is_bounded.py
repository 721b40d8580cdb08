"""After an outage a flush took on far more than its bound, and never got through."""

from __future__ import annotations

from persistence.flusher.flusher import FlushBounds
from tests.stores.conftest import Stores, stores  # noqa: F401


async def test_many_long_backlogs_are_written_in_bounded_transactions(stores: Stores) -> None:  # noqa: F811
    """
    The bound of a batch was looked at only after every 32 progress, however long their backlogs had grown while
    Postgres was away. One transaction could hold 160,000 entries instead of 5,000, ran into its time-out and was tried
    again as it was.
    """
    players = [stores.player() for _ in range(12)]
    for player in players:
        await player.hello()
        await player.send(*[player.make({"type": "seen"}) for _ in range(100)])
    flusher = stores.flusher(bounds=FlushBounds(entries_max=250))
    await flusher.flush_due(ahead_s=3600.0)
    await flusher.close()
    assert sum(report.updates for report in stores.reports) == 1_200
    assert max(report.updates for report in stores.reports) <= 250


async def test_backlog_longer_than_a_batch_is_written_alone(stores: Stores) -> None:  # noqa: F811
    """
    A progress is written whole or not at all, so one that is past the bound by itself must still be taken. A bound that
    left it out would leave it out for ever.
    """
    player, other = stores.player(), stores.player()
    for one in (player, other):
        await one.hello()
        await one.send(*[one.make({"type": "seen"}) for _ in range(100)])
    flusher = stores.flusher(bounds=FlushBounds(entries_max=20))
    await flusher.flush_due(ahead_s=3600.0)
    await flusher.close()
    assert [report.updates for report in stores.reports] == [100, 100]
