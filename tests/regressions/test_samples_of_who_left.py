"""
Whoever left while the store was asked was followed until the step was saved, of which a gateway hears nothing when the
player is gone. After 32 of them it measured no `saved` any more, and held their connections for ever.
"""

from __future__ import annotations

import asyncio
from functools import partial

from gateway.sessions.connection import Phase
from gateway.sessions.latency import SAMPLES_MAX, Latency
from gateway.telemetry.metrics import Tally
from tests.unit.sessions.test_committer import Player, Rig


def _has_heard(player: Player) -> bool:
    return bool(player.verdicts)


async def test_who_left_meanwhile_is_not_followed() -> None:
    rig, tally = Rig(), Tally()
    rig.committer._latency = latency = Latency(tally)

    def leave(player: Player, _: object) -> None:
        player.phase = Phase.ENDED
        latency.forget(player)  # type: ignore[arg-type]

    running = asyncio.create_task(rig.committer.run())
    for number in range(SAMPLES_MAX + 1):
        player = Player(str(number))
        player.saved_told = 0  # type: ignore[attr-defined]
        player.add(1)
        if number < SAMPLES_MAX:
            rig.store.answers.append(partial(leave, player))
        rig.enqueue(player)
        await rig.until(partial(_has_heard, player))
    latency.note_saved(player, 1, 1.0)  # type: ignore[arg-type]
    assert sum(tally.saved_latency.counts) == 1
    assert not latency._following
    rig.committer.stop()
    await running
