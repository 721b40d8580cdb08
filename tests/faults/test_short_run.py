"""`make faults` in small: two rounds with the faults that find the most."""

from __future__ import annotations

import random

import pytest

from tests.faults.kinds import KINDS
from tests.faults.players import Crowd
from tests.faults.rig import RigPlan, run_rig
from tests.faults.run import FaultRun, RunReport, deal

QUICK = (
    "gateway killed",
    "flusher killed after snapshot_taken",
    "flusher killed after written",
    "flusher killed after committed",
    "valkey killed",
    "postgres backend killed",
    "FLUSHALL",
    "valkey restarted without its data",
    "reply of COMMIT lost",
    "redis reply lost",
    "link players–gateway reset",
    "link gateway–valkey cut",
    "link flusher–postgres cut",
    "exception in a handler: verdict",
)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_faults_under_load_lose_nothing_and_double_nothing() -> None:
    seed = random.randrange(2**32)
    report = RunReport(seed)
    kinds = [kind for kind in KINDS if kind.name in QUICK]
    assert len(kinds) == len(QUICK)
    crowd = Crowd(players=40, rate_per_s=5.0, seconds=14.0, ramp_s=1.0, settle_s=40.0)
    async with run_rig(RigPlan()) as rig:
        run = FaultRun(rig, report, crowd, kinds=kinds)
        await run.run_round(returns=True)
        await run.run_round(returns=False)
        discards = rig.count("wayhold_discards_total")
    report.lines()  # the table is made of whatever happened
    assert report.is_ok, "\n".join([*report.lines(), report.last_line(), f"discards {discards}"])
    assert report.kills >= 8, report.last_line()


def test_schedule_comes_from_the_seed_alone() -> None:
    def first(seed: int) -> list[str]:
        deck = deal(random.Random(seed))
        return [next(deck).name for _ in range(200)]

    assert first(7) == first(7) != first(8)
    assert set(first(7)) <= {kind.name for kind in KINDS}


def test_every_kind_comes_up() -> None:
    deck = deal(random.Random(3))
    assert {next(deck).name for _ in range(500)} == {kind.name for kind in KINDS}
