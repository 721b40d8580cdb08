"""Reports of earlier runs: what got worse is told and exits 1; shards add up to the run they are parts of."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.compare import compare
from loadtest.merge import merge
from loadtest.percentiles import Histogram, sum_histograms
from loadtest.report_document import read_latencies
from loadtest.report_flags import add_report_arguments, read_report_options, run_about_reports
from loadtest.report_html import render
from loadtest.series import read_series
from loadtest.target import TargetRefused
from tests.unit.loadtest.invented_run import invent_document
from tests.unit.loadtest.test_report import read_page


def run(*flags: str) -> tuple[int, list[str]]:
    parser = argparse.ArgumentParser()
    add_report_arguments(parser)
    said: list[str] = []
    return run_about_reports(read_report_options(parser.parse_args(flags)), said.append), said


def write(tmp_path: Path, name: str, **facts: Any) -> str:
    file = tmp_path / name
    file.write_text(json.dumps(invent_document(tmp_path / "run", **facts)))
    return str(file)


def test_the_same_run_twice_is_not_worse(tmp_path: Path) -> None:
    first = write(tmp_path, "a.json")
    code, said = run("--compare", first, first)
    assert code == 0 and said[-1] == "compare: ok worse=0 better=0"


def test_a_slower_run_is_worse_and_its_page_says_so(tmp_path: Path) -> None:
    first, second = write(tmp_path, "a.json"), write(tmp_path, "b.json", slower_ms=8.0, seed=2)
    page, out = tmp_path / "compared.html", tmp_path / "compared.json"
    code, said = run("--compare", first, second, "--report", str(page), "--json", str(out))
    assert code == 1 and said[-1].startswith("compare: FAILED worse=")
    worse = {line.split()[0] for line in said if line.endswith("worse")}
    assert {"ack_p50_ms", "ack_p90_ms"} <= worse and "accepted_per_s" not in worse
    paired = next(line for line in said if "ack p50 ms, second by second: +" in line)
    assert paired.endswith("higher in 30 of 30"), paired
    assert "The second run is worse" in " ".join(read_page(page.read_text()).text)
    assert json.loads(out.read_text())["figures"]["ack_p50_ms"]["by"] > 7.5
    code, said = run("--compare", second, first)
    assert code == 0 and "better=0" not in said[-1]
    assert run("--compare", first, second, "--worse-percent", "1000")[0] == 0


def test_a_second_run_that_failed_by_itself_fails_the_comparison(tmp_path: Path) -> None:
    first, second = write(tmp_path, "a.json"), write(tmp_path, "b.json", lost=1)
    code, said = run("--compare", first, second)
    assert code == 1 and "  the second run is not ok by itself" in said


def test_a_figure_that_is_gone_is_worse_only_where_that_says_something(tmp_path: Path) -> None:
    first, second = invent_document(tmp_path), invent_document(tmp_path)
    first["figures"] |= {"late_acks": 0, "gateway_cpu_us_per_update": 90.0}
    second["figures"] |= {"late_acks": None, "gateway_cpu_us_per_update": None}
    assert compare(first, second).is_ok
    second["figures"]["settled_s"] = None
    assert [one.name for one in compare(first, second).worse] == ["settled_s"]


def test_what_makes_two_runs_hard_to_compare_is_noted(tmp_path: Path) -> None:
    comparison = compare(invent_document(tmp_path), invent_document(tmp_path, players=20))
    assert "players differs: 40 and 20" in comparison.notes


def test_shards_add_up(tmp_path: Path) -> None:
    parts = [
        invent_document(tmp_path / str(i), seed=i, shard=f"{i}/3", lost=int(i == 2), players=10 * i) for i in (1, 2, 3)
    ]
    merged = merge(parts, ["a", "b", "c"])
    assert merged["figures"]["players"] == 60 and merged["figures"]["accepted"] == 60 * 30
    assert merged["figures"]["lost"] == 1 and not merged["verdict"]["ok"]
    assert merged["verdict"]["reasons"] == ["b: lost: 1"]
    assert [finding["kind"] for finding in merged["findings"]] == ["lost"]
    assert merged["closes"] == {"1006": 6, "4001": 9}
    whole = sum_histograms(read_latencies(part)["ack"] for part in parts)
    assert read_latencies(merged)["ack"] == whole
    assert merged["figures"]["ack_p99_ms"] == whole.percentile_us(99) / 1000
    points = {point.at_s: point for point in read_series(merged["series"]).points}
    assert points[10].counts["made"] == 60 and points[10].states is not None and points[10].states["connected"] == 60
    assert "3 players" not in render(merged) and "60 players" in render(merged)


def test_shards_of_machines_that_began_at_other_times_are_matched_by_the_clock(tmp_path: Path) -> None:
    early, late = (invent_document(tmp_path, shard=f"{i}/2") for i in (1, 2))
    late["series"]["start_ms"] += 7_000
    points = {point.at_s: point for point in read_series(merge([early, late], ["a", "b"])["series"]).points}
    assert points[3].counts["made"] == 40 and points[10].counts["made"] == 80 and points[33].counts["made"] == 40


def test_a_missing_shard_makes_the_verdict_bad_and_is_named(tmp_path: Path) -> None:
    merged = merge([invent_document(tmp_path, shard="1/3"), invent_document(tmp_path, shard="3/3")], ["a", "b"])
    assert merged["verdict"]["reasons"] == ["shard 2/3 is missing"] and not merged["verdict"]["ok"]


@pytest.mark.parametrize(("shards", "said"), [(("1/2", "1/2"), "there twice"), (("1/2", "2/3"), "different tests")])
def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path, shards: tuple[str, str], said: str) -> None:
    with pytest.raises(TargetRefused, match=said):
        merge([invent_document(tmp_path, shard=shard) for shard in shards], ["a", "b"])


def test_merging_writes_a_report_and_obeys_thresholds(tmp_path: Path) -> None:
    files = [write(tmp_path, f"{i}.json", shard=f"{i}/2") for i in (1, 2)]
    page, out = tmp_path / "all.html", tmp_path / "all.json"
    code, said = run("--merge", *files, "--report", str(page), "--json", str(out), "--fail-if", "ack_p50_ms > 1000")
    assert code == 0 and said[-1].startswith("audit: ok offered=2400 accepted=2400 ")
    read_page(page.read_text())
    code, said = run("--merge", str(out), "--fail-if", "ack_p50_ms > 1")
    assert code == 1 and any(line.startswith("  fail-if ack_p50_ms > 1: it is ") for line in said)


def test_flags_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path, "a.json")
    for flags in (
        ("--compare", first, first, "--merge", first),
        ("--compare", first, first, "--fail-if", "lost > 0"),
        ("--merge", first, "--report", str(tmp_path)),
        ("--merge", first, "--json", "/none/at/all.json"),
        ("--late-ack-ms", "0"),
    ):
        with pytest.raises(TargetRefused, match="--"):
            run(*flags)


def test_a_damaged_report_is_refused(tmp_path: Path) -> None:
    document = invent_document(tmp_path)
    document["latencies"]["ack"] = Histogram([1]).encode()[:-9]
    with pytest.raises(TargetRefused):
        merge([document, document], ["a", "b"])
