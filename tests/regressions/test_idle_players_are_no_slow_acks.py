"""
A quiet connection is looked at now and then so that its session lives on; the time since its last frame was counted as
the wait for an ack. With fifty players who walked, the overview said that acks took 11.5 seconds.
"""

from __future__ import annotations

import asyncio

from gateway.sessions.latency import Latency
from gateway.telemetry.metrics import Tally
from tests.unit.sessions.test_committer import Player, Rig


async def test_only_updates_count_as_waits_for_an_ack() -> None:
    rig, tally = Rig(), Tally()
    rig.committer._latency = Latency(tally)
    quiet, busy = Player("quiet"), Player("busy")
    quiet.saved_told = busy.saved_told = 0  # type: ignore[attr-defined]
    running = asyncio.create_task(rig.committer.run())
    rig.enqueue(quiet)
    await rig.until(lambda: bool(quiet.verdicts))
    assert sum(tally.ack_latency.counts) == 0
    busy.add(1)
    rig.enqueue(busy)
    await rig.until(lambda: bool(busy.verdicts))
    assert sum(tally.ack_latency.counts) == 1
    rig.committer.stop()
    await running
