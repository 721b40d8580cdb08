"""What a process says of itself, and what /readyz makes of several that do."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from gateway.telemetry.health import Readiness
from gateway.telemetry.metrics import forget_process
from gateway.telemetry.node_report import STALE_S, NodeReport, judge_gateways, keep_report, list_reports, write_report

READY = Readiness(True, [])


def report(process: str, readiness: Readiness = READY, at: float = 100.0, pid: int = 7) -> NodeReport:
    return NodeReport(process, pid, f"node-{process}", at, readiness, {"connections": 3})


def test_what_is_written_is_read_back_and_the_newest_of_a_process_counts(tmp_path: Path) -> None:
    write_report(tmp_path, report("gateway-1", at=1.0, pid=1))
    write_report(tmp_path, report("gateway-1", at=2.0, pid=2))
    write_report(tmp_path, report("flusher-1"))
    (tmp_path / "gateway-9_1.node.json").write_text("{ torn")
    found = list_reports(tmp_path)
    assert [(each.process, each.pid) for each in found] == [("flusher-1", 7), ("gateway-1", 2)]
    assert found[1].figures == {"connections": 3} and found[1].readiness == READY


def test_a_dead_process_is_forgotten_with_its_gauges(tmp_path: Path) -> None:
    write_report(tmp_path, report("gateway-1", pid=1))
    forget_process(tmp_path, 1)
    assert list_reports(tmp_path) == []


def test_one_gateway_speaks_for_itself() -> None:
    draining = Readiness(False, ["draining", "degraded: postgres: away"])
    assert judge_gateways([report("gateway-1")], 1, 100.0) == READY
    assert judge_gateways([report("gateway-1", draining)], 1, 100.0) == draining


def test_players_are_taken_while_any_gateway_takes_them_and_reasons_say_whose_they_are() -> None:
    busy = Readiness(False, ["event loop 400 ms late", "degraded: postgres: away"])
    well = Readiness(True, ["degraded: postgres: away"])
    found = judge_gateways([report("gateway-1", busy), report("gateway-2", well)], 2, 100.0)
    assert found == Readiness(True, ["gateway-1: event loop 400 ms late", "degraded: postgres: away"])
    assert not judge_gateways([report("gateway-1", busy), report("gateway-2", busy)], 2, 100.0).is_ready


def test_a_gateway_that_is_not_there_or_stands_still_takes_nobody() -> None:
    assert judge_gateways([], 1, 100.0) == Readiness(False, ["gateway-1 is not running"])
    found = judge_gateways([report("gateway-1")], 1, 100.0 + STALE_S + 1)
    assert found == Readiness(False, ["gateway-1 has said nothing for 6 s"])


async def test_a_changed_readiness_is_written_at_once_and_the_last_word_at_the_end(tmp_path: Path) -> None:
    said = [READY]
    ended = asyncio.Event()
    task = asyncio.create_task(keep_report(tmp_path, "gateway-1", "node", lambda: said[0], dict, ended))

    async def wait_for(readiness: Readiness) -> None:
        async with asyncio.timeout(5):
            while [each.readiness for each in list_reports(tmp_path)] != [readiness]:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.01)

    await wait_for(READY)
    said[0] = Readiness(False, ["draining"])
    await wait_for(said[0])
    said[0] = Readiness(False, ["draining", "redis: away"])
    ended.set()
    await task
    assert list_reports(tmp_path)[0].readiness == said[0]
    assert list_reports(tmp_path)[0].pid == os.getpid()
