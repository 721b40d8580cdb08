"""
The drill of the one row that costs accepted updates: everything in Redis is lost, and the devices with it.

Players are SIGKILLed and their journals deleted; in the same moment Valkey is killed and its files are. Nobody is left
who could send anything again. What was accepted and is not in Postgres afterwards is counted, player by player: all of
it must be younger than one flush interval and one flush. What players had been told is saved must be there.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence

from gateway.sessions.tokens import make_token
from loadtest.experience import WYLDING_WOODS
from loadtest.history import now_ms
from persistence.flusher.flusher import POLL_S
from protocol.client.player_client import PlayerClient
from tests.faults.fault import Scene, database
from tests.faults.hot_faults import ValkeyEmptied
from tests.faults.players import Crowd, PlayerProcesses
from tests.faults.rig import Rig, RigPlan, run_rig

DUE_STEP_S = 0.25
"""What is due is rounded up to this, so that neighbours share a transaction (`apply_updates`)."""

MARGIN_S = 0.5
"""Two cores for players, gateways, flushers and servers: somebody has to wait for a processor."""


async def redis_and_device_lost(players: int = 100, rate: float = 4.0, seconds: float = 12.0) -> str:
    """Redis's data and every device with it, at once: what was accepted within the last flush interval is gone."""
    plan = RigPlan(flush_interval_s=1.0)
    crowd = Crowd(players, rate, seconds + 30, ramp_s=1.0, drop_rate=0.0, offline_rate=0.0)
    async with run_rig(plan) as rig:
        crowd_processes = PlayerProcesses(rig, crowd, 4)
        await crowd_processes.start()
        await crowd_processes.play_for(seconds)
        fault = ValkeyEmptied(Scene(rig, random.Random(4), crowd_processes))
        await crowd_processes.kill()
        crowd_processes.delete_journals()
        lost_ms = now_ms()
        await fault.inject()
        await fault.heal()
        await rig.wait_nothing_pending()
        histories = crowd_processes.histories()
        streams = await _read_streams(rig)
        slowest_flush_s = rig.highest_bucket("wayhold_flush_duration_seconds")
        discards = rig.count("wayhold_discards_total")
        await _play_on(rig, histories[0].user_id)

    accepted, lost_ages_s, per_player, saved_lost = 0, [], [], 0
    for history in histories:
        lost = 0
        for stream in history.streams.values():
            last_seq = streams.get((history.user_id, stream.device), 0)
            for step in stream.steps:
                accepted += step.accepted_ms is not None
                if step.seq <= last_seq:
                    continue
                saved_lost += step.saved_ms is not None
                if step.accepted_ms is not None:
                    lost += 1
                    lost_ages_s.append((lost_ms - step.accepted_ms) / 1000)
        per_player.append(lost)
    bound_s = plan.flush_interval_s + DUE_STEP_S + POLL_S + slowest_flush_s + MARGIN_S
    line = (
        f"{players} players and Redis lost together: of {accepted} accepted updates {len(lost_ages_s)} are gone, "
        f"at most {max(per_player)} of one player, the oldest {max(lost_ages_s, default=0.0):.2f} s before it "
        f"(flush interval {plan.flush_interval_s:g} s, slowest flush ≤ {slowest_flush_s:g} s, bound {bound_s:.2f} s); "
        f"saved and gone {saved_lost}"
    )
    assert lost_ages_s, f"nothing was on its way, so nothing is shown; {line}"
    assert max(lost_ages_s) <= bound_s, line
    assert saved_lost == 0, line
    assert not discards, f"discards {discards}; {line}"
    return line


async def _read_streams(rig: Rig) -> dict[tuple[str, str], int]:
    """How far each stream is in Postgres: (user id, device) → seq."""
    async with database(rig) as connection:
        rows: Sequence[tuple[uuid.UUID, str, int]] = await connection.fetch(
            "SELECT f.user_id, d.device_id, d.last_seq FROM device_streams d"
            " JOIN experience_progress p ON p.id = d.experience_progress_id"
            " JOIN player_profiles f ON f.id = p.player_id"
        )
    return {(str(user_id), device): last_seq for user_id, device, last_seq in rows}


async def _play_on(rig: Rig, user_id: str) -> None:
    """The player with a new phone goes on from what is saved."""
    token = make_token(rig.secret.encode(), user_id, 600)
    client = PlayerClient(rig.play_url, token, WYLDING_WOODS.experience_id)
    await client.start()
    try:
        await client.wait_saved(await client.event("item_collected", "a new phone"), 15)
    finally:
        await client.stop()
