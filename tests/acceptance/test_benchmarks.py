"""Tiny runs of the benchmarks on whole installations: they work, and count what is in Postgres."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fixed_rates, resume_storm, saturation, side_by_side, viewer
from benchmarks.accounts import is_supported
from benchmarks.plan import Plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not is_supported(), reason="this system does not tell the CPU time of other processes"),
]


def tiny() -> Plan:
    return Plan(is_quick=True)


async def test_saturation_counts_rows_and_the_cpu_of_everybody() -> None:
    found = await saturation.run(tiny())
    (window,) = found["windows"]
    assert window["rows"] == window["loop"]["acked_in_all"] > 40
    assert all(window["cpu_us_per_update"][kind] > 0 for kind in ("gateway", "redis", "flusher", "postgres", "load"))
    assert found["installation"]["settings"]["handshakes_per_s"] == 5000
    assert found["installation"]["valkey_settings"]["appendfsync"] == "everysec"


async def test_an_open_loop_sends_what_its_schedule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_rates, "RATES", ((2000, 10),))
    found = await fixed_rates.run(tiny())
    (cell,) = found["cells"]
    assert cell["loop"]["sent"] == cell["rows"] == 400
    assert cell["loop"]["latency"]["count"] == 400
    assert cell["loop"]["sent_late"]["p50"] < cell["loop"]["latency"]["p50"]


async def test_everybody_comes_back_hot_and_after_redis_lost_everything() -> None:
    found = await resume_storm.run(tiny())
    hot, wiped = found["storms"]["hot"], found["storms"]["wiped"]
    assert hot["back"]["welcome"] == wiped["back"]["welcome"] == found["returning"]
    assert hot["back"]["counts"]["resumed"] == found["returning"]
    assert wiped["live_all"]["counts"]["resyncs"] > 0
    assert wiped["live_all"]["unacked"] == 0


async def test_a_viewer_is_there_in_every_other_window() -> None:
    found = await viewer.run(tiny())
    assert [window["is_watched"] for window in found["windows"]] == [True, False]
    assert found["loop"]["unacked"] == 0
    assert found["windows"][0]["ops_us"] > found["windows"][1]["ops_us"] > 0
    assert viewer.bound_median([1.0, 1.2, 1.1, 0.9]) >= 1.05


async def test_a_rival_does_the_same_work_and_leaves_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that needs nothing but what Wayhold needs; nothing is installed here."""
    chosen = {"middle": side_by_side.RIVALS["middle"]}
    monkeypatch.setattr(side_by_side, "RIVALS", chosen)
    found = await side_by_side.run(tiny())
    assert found["skipped"] == {}
    for name in ("wayhold", *chosen):
        (turn,) = found["turns"][name]
        assert turn["rows"] == turn["loop"]["acked_in_all"] > 40
        assert found["figures"][f"side_{name}_gateway_us"] > 0
    assert found["figures"]["ratio_middle"] > 0


def test_the_page_is_of_its_result() -> None:
    """docs/benchmarks.md, its tables and charts are made from docs/benchmarks.json; see the module."""
    from benchmarks import write_docs

    assert write_docs.main(["--check"]) == 0, "run: python -m benchmarks.write_docs"


def test_packages_of_the_rivals_are_pinned_and_nothing_says_where_they_come_from() -> None:
    folder = Path(side_by_side.__file__).parent / "rivals"
    package: dict[str, Any] = json.loads((folder / "package.json").read_text())
    assert all(version[0].isdigit() for version in package["dependencies"].values())
    wanted = [line for line in (folder / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert wanted and all("==" in line and "/" not in line for line in wanted)
    assert not [path.name for path in folder.glob("*lock*")]
