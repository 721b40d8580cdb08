"""The drills that are quick enough for every test run, with fewer players; `make faults` runs them all in full."""

from __future__ import annotations

import pytest

from tests.faults import drills


@pytest.mark.slow
async def test_valkey_without_its_data_stops_nobody_for_five_seconds() -> None:
    await drills.valkey_emptied(players=60, seconds=8.0)


@pytest.mark.slow
async def test_journal_of_three_days_arrives_once_and_in_order_through_two_kills_and_a_power_cut() -> None:
    await drills.offline_for_days(updates=900)


@pytest.mark.slow
async def test_erase_at_a_step_of_a_flush_leaves_nothing_and_nothing_returns() -> None:
    await drills.erase_everywhere(("snapshot_taken", "written", "committed"))


@pytest.mark.slow
async def test_poison_holds_up_nobody_else() -> None:
    await drills.poison()


@pytest.mark.slow
async def test_redis_and_device_lost_together_cost_at_most_one_flush_interval_and_one_flush() -> None:
    await drills.redis_and_device_lost(players=30, seconds=1.5)
