"""What becomes of figures: verdicts, tables, charts; and a part that fails does not take the others along."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from array import array
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.accounts import CpuAccounts, is_supported, read_cpu_s, read_memory
from benchmarks.bars import BARS, Bar, list_rows
from benchmarks.charts import draw_bars, draw_ranges
from benchmarks.load import describe
from benchmarks.measure import by_kind, per_update
from benchmarks.plan import Plan
from benchmarks.write_docs import fill_page

PAGE = "".join(
    f"# {name}\n<!-- {name}: from the result -->\nlast time\n<!-- end -->\n"
    for name in ("bars", "machine", "side by side", "rates", "all figures")
)


def result(**parts: Any) -> dict[str, Any]:
    return {
        "began_at": "2026-01-01T00:00:00Z",
        "machine": {"processor": "P", "cores": 2, "memory_gib": 4, "system": "S"},
        "versions": {"wayhold": "abc", "python": "3"},
        "pinning": "not pinned",
        "minutes": 1,
        "is_quick": False,
        "parts": parts,
    }


def test_a_bar_knows_on_which_side_it_is() -> None:
    low = Bar("p", "f", "about", "µs", 16, 12)
    assert [low.judge(value) for value in (12, 12.1, 16, 16.1)] == ["ok, stretch", "ok", "ok", "missed"]
    high = Bar("p", "f", "about", "/s", 100, 200, is_at_most=False)
    assert [high.judge(value) for value in (200, 199, 100, 99)] == ["ok, stretch", "ok", "ok", "missed"]


def test_every_bar_is_of_a_part_that_exists() -> None:
    assert {bar.part for bar in BARS} <= set(command.PARTS)
    assert len({bar.figure for bar in BARS}) == len(BARS)


def test_what_was_not_measured_has_no_verdict() -> None:
    assert list_rows({}) == []
    page = fill_page(PAGE, result())
    assert page.count("| – | not measured |") == len(BARS)
    assert "last time" not in page


def test_the_page_is_the_same_when_it_is_made_twice() -> None:
    found = result(saturation={"figures": {"saturation_gateway_us": 14.2}, "others_cores": 0.1})
    page = fill_page(PAGE, found)
    assert "| ≤ 16 µs | 12 | 14.2 | ok |" in page
    assert fill_page(page, found) == page


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="rates"):
        fill_page(PAGE.replace("rates", "elsewhere"), result())


def test_charts_are_well_formed_whatever_the_labels() -> None:
    rows = [("<a & b>", {"x": 1.0, "y": 2.0}), ("none", {"x": 0.0})]
    for chart in (draw_bars("t < u", "µs", rows), draw_ranges("t", "ms", rows), draw_bars("empty", "µs", [])):
        ElementTree.fromstring(chart)


def test_quantiles_are_of_everything_that_was_counted() -> None:
    found = describe(array("d", (number / 1000 for number in range(1000, 0, -1))))
    assert found == {"count": 1000, "p50": 501.0, "p90": 901.0, "p99": 991.0, "p999": 1000.0, "max": 1000.0}
    assert describe(array("d")) is None


@pytest.mark.skipif(not is_supported(), reason="this system does not tell the CPU time of other processes")
def test_accounts_are_those_of_the_process_itself() -> None:
    """Half a second of CPU in a child, and one that only sleeps: the kernel tells them apart."""
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ntime.sleep(60)"
    busy = subprocess.Popen([sys.executable, "-I", "-c", work], stdout=subprocess.PIPE)
    lazy = subprocess.Popen(
        [sys.executable, "-I", "-c", "print(1, flush=True); import time; time.sleep(60)"], stdout=-1
    )
    try:
        before = CpuAccounts(time.monotonic(), {"busy": 0.0, "lazy": 0.0})
        for process in (busy, lazy):
            assert process.stdout is not None and process.stdout.readline()
        used = CpuAccounts.take({"busy": busy.pid, "lazy": lazy.pid}).since(before)
        assert 0.3 <= used["busy"] < 3
        assert used["lazy"] < used["busy"]
        assert read_memory(busy.pid).rss_bytes > 1 << 20
    finally:
        for process in (busy, lazy):
            process.kill()
            process.communicate()
    assert read_cpu_s(busy.pid) == 0.0


def test_cpu_is_divided_by_rows_and_the_supervisor_is_part_of_the_gateway() -> None:
    before = CpuAccounts(0.0, {"supervisor": 1.0, "gateway-1": 2.0, "valkey": 3.0, "flusher-1": 1.0})
    after = CpuAccounts(1.0, {"supervisor": 1.1, "gateway-1": 2.9, "valkey": 3.5, "flusher-1": 1.0})
    assert per_update(before, after, 100_000) == {"gateway": 10.0, "redis": 5.0, "flusher": 0.0}
    assert set(by_kind({"gateway-1": 1, "gateway-2": 1, "postgres": 1})) == {"gateway", "postgres"}


def test_a_process_that_was_started_again_spoils_the_account() -> None:
    with pytest.raises(AssertionError, match="started again"):
        CpuAccounts(1.0, {"gateway-1": 0.1}).since(CpuAccounts(0.0, {"gateway-1": 5.0}))


def test_a_part_that_fails_is_named_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(plan: Plan) -> dict[str, Any]:
        raise RuntimeError("no such luck")

    async def work(plan: Plan) -> dict[str, Any]:
        return {"figures": {"saturation_gateway_us": 20.0}}

    monkeypatch.setattr(command, "PARTS", {"first": ("fails", fail), "second": ("works", work)})
    code = command.main(["--json", str(tmp_path / "result.json")])
    shown = capsys.readouterr().out
    assert code == 1
    assert "FAILED first: RuntimeError: no such luck" in shown
    assert "20  missed" in shown
    parts = json.loads((tmp_path / "result.json").read_text())["parts"]
    assert parts["second"]["figures"] == {"saturation_gateway_us": 20.0}


@pytest.mark.parametrize("arguments", [["nothing-of-the-kind"], ["--minutes", "0"]])
def test_what_cannot_be_run_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
