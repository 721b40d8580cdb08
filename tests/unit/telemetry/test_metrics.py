"""The table of metrics, plain counting, and one page out of several processes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.telemetry.metrics import METRICS, Publisher, Tally, forget_process, wipe_metrics_dir


def values(page: bytes) -> dict[str, float]:
    lines = [line for line in page.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_names_that_others_rely_on_are_there() -> None:
    names = {metric.name for metric in METRICS}
    assert {
        "player_progress_cache_hit_rate",
        "player_progress_write_latency_seconds",
        "active_players_total",
        *(f"wayhold_updates_{word}_total" for word in ("accepted", "saved", "void", "repeated")),
        *(f"wayhold_pending_{word}" for word in ("updates", "bytes")),
        "wayhold_oldest_pending_seconds",
        *(f"wayhold_flush_{word}" for word in ("duration_seconds", "batch_updates")),
        *(f"wayhold_{word}" for word in ("connections", "sessions", "dead_letters")),
        *(f"wayhold_{word}_total" for word in ("hydrates", "resyncs", "resumes", "stream_resets", "discards")),
        *(f"wayhold_{word}_total" for word in ("errors", "closes")),
    } <= names


def test_every_number_of_a_tally_is_a_metric_and_back() -> None:
    fields = {field.name for field in dataclasses.fields(Tally)}
    assert fields == {metric.tally_field for metric in METRICS if metric.kind != "derived"}


def test_what_was_counted_is_published_once() -> None:
    tally = Tally()
    publisher = Publisher(tally)
    tally.updates_accepted += 3
    tally.errors[103] += 2
    tally.connections = 5
    for latency_s in (0.0005, 0.02, 0.02, 99.0):
        tally.write_latency.observe(latency_s)
    publisher.publish()
    publisher.publish()
    tally.updates_accepted += 1
    publisher.publish()
    found = values(publisher.render())
    assert found["wayhold_updates_accepted_total"] == 4
    assert found['wayhold_errors_total{code="103"}'] == 2
    assert found["wayhold_connections"] == 5
    assert found["player_progress_write_latency_seconds_count"] == 4
    assert found['player_progress_write_latency_seconds_bucket{le="0.001"}'] == 1
    assert found['player_progress_write_latency_seconds_bucket{le="0.025"}'] == 3
    assert found["player_progress_write_latency_seconds_sum"] == pytest.approx(99.0405)


def test_the_hit_rate_is_computed_from_its_counters() -> None:
    tally = Tally()
    tally.hot_lookups.update(hello=3, read=1)
    tally.hot_hits.update(hello=2, read=1)
    publisher = Publisher(tally)
    publisher.publish()
    assert values(publisher.render())["player_progress_cache_hit_rate"] == 0.75


def test_gauges_are_looked_at_before_each_publishing() -> None:
    tally = Tally()

    def refresh() -> None:
        tally.connections = (tally.connections or 0) + 1

    publisher = Publisher(tally, refresh)
    publisher.publish()
    publisher.publish()
    assert values(publisher.render())["wayhold_connections"] == 2


PROCESS = """
from gateway.telemetry.metrics import Publisher, Tally
tally = Tally(updates_accepted=2, connections=3, pending_updates=7)
tally.closes[4003] += 1
tally.write_latency.observe(0.1)
publisher = Publisher(tally)
publisher.publish()
"""


def test_processes_add_up_and_a_dead_one_leaves_its_counters(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    wipe_metrics_dir(directory)
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(directory)}

    def run(code: str) -> tuple[int, bytes]:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        return process.pid, out

    dead, _ = run(PROCESS)
    forget_process(directory, dead)
    _pid, page = run(PROCESS + "import sys; sys.stdout.buffer.write(publisher.render())")
    found = values(page)
    assert found["wayhold_updates_accepted_total"] == 4
    assert found['wayhold_closes_total{code="4003"}'] == 2
    assert found["wayhold_connections"] == 3
    assert found["wayhold_pending_updates"] == 7
    assert found["player_progress_write_latency_seconds_count"] == 2
    wipe_metrics_dir(directory)
    assert list(directory.iterdir()) == []
