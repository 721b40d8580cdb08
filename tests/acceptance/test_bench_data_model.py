"""A tiny run of `make bench-data-model` on a whole installation; it finds its own figures in the database."""

from __future__ import annotations

import json
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accounts import is_supported
from benchmarks.data_model.__main__ import PARTS, SETTINGS, WORKLOAD, Bench
from benchmarks.data_model.report import show_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not is_supported(), reason="benchmarks need Linux"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's tmp_path: as root, Postgres runs as somebody else and must be able to pass through.
    path = Path(tempfile.mkdtemp(prefix="wh-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def test_all_three_tables_are_measured_and_the_database_is_kept(folder: Path) -> None:
    workload: dict[str, Any] = tomllib.loads(WORKLOAD.read_text())
    workload["stored"] |= {"players": 60, "events": 1200}
    workload["active"] |= {"players": 10, "updates_per_s": 100, "queries_per_s": 50, "seconds": 1, "fewer_seconds": 0.5}
    workload["api"]["calls_per_s"] = 50
    workload["analytics"]["questions_per_s"] = 20
    workload["cache"] |= {"hour_s": 3, "minutes": 0.06, "active_players": 5, "visit_s": 1, "reads_per_s": 50}
    workload["storage"] |= {"players": 20}
    settings = {**SETTINGS, "flush_interval_s": 0.2, "drain_s": 0.0}
    found: dict[str, Any] = {"workload": workload}
    await Bench(workload, folder / "kept", settings=settings).run(PARTS, found)

    operations = found["operations"]
    assert operations["socket"]["times"]["event"]["count"] == 100
    assert operations["socket"]["unanswered"] == operations["socket"]["voids"] == 0
    # 20 updates before the API was asked, 100 after that, and what the API logged; in half a second of each before.
    logged = sum(
        times["count"]
        for part in ("api_fewer", "api")
        for name, times in operations[part]["times"].items()
        if name.startswith("event")
    )
    assert operations["stored_events"] == 1200 + 20 + 50 + 50 + 100 + logged
    assert {"state", "inventory", "visited"} <= set(operations["socket"]["times"])
    for part in ("came", "socket", "api", "analytics"):
        assert operations[part]["errors"] == {}

    kinds = found["cache"]["kinds"]
    assert kinds["active"]["hits"] == kinds["active"]["reads"] > 0
    assert kinds["inactive"]["hits"] == 0 < kinds["inactive"]["reads"]
    assert found["cache"]["hellos"]["lookups"] > 0

    assert found["storage"]["events_per_player"] == 50
    assert found["storage"]["redis"]["settled"]["bytes"]["progress"] > 500
    assert "Check waypoint visited" in show_report(found)

    assert json.loads((folder / "kept.json").read_text())["fill"] == found["fill"]
