"""The report: one page that fetches nothing, says what was found, and can be made again from its JSON."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtest.figures import FIGURES
from loadtest.report_document import read_document
from loadtest.report_html import render
from loadtest.series import POINTS_MAX, Point, Series, make_series, read_series
from loadtest.target import TargetRefused
from tests.unit.loadtest.invented_run import START_MS, invent_document, invent_histories

VOID_TAGS = {"meta"}
EMPTY_TAGS = {"path", "rect"}


class Tags(HTMLParser):
    """Every tag is closed in turn; what would be fetched is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag in ("link", "img", "iframe", "object"):
            self.fetched.append(tag)
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in EMPTY_TAGS

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_page(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def test_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    page = render(invent_document(tmp_path, lost=2))
    assert read_page(page).fetched == []
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_page_says_what_was_found_with_player_device_seq_and_times(tmp_path: Path) -> None:
    document = invent_document(tmp_path, lost=2)
    text = " ".join(read_page(render(document)).text)
    assert "This run failed" in text and "lost: 2" in text
    for finding in document["findings"]:
        assert finding["player"] in text and finding["device"] in text
    assert "was accepted, but has no row <of its own>" in text  # read back: it had been escaped
    for said in ("kill gateway-1", "freeze <postgres>", "DRAINING", "UNAVAILABLE", *FIGURES):
        assert said in text, said


def test_a_good_run_says_so(tmp_path: Path) -> None:
    text = " ".join(read_page(render(invent_document(tmp_path))).text)
    assert "Nothing is lost, nothing is there twice" in text and "Findings" not in text


def test_every_chart_is_drawn_for_wide_and_for_narrow_screens_with_its_values(tmp_path: Path) -> None:
    page = render(invent_document(tmp_path))
    charts = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(charts) == 8
    for chart in charts:
        assert chart.count("<svg") == 2 and 'class="wide"' in chart and 'class="narrow"' in chart
    data = [json.loads(points.replace("&quot;", '"')) for points in re.findall(r'data-points="([^"]*)"', page)]
    assert len(data) == 6
    assert all(len(values) == len(one["x"]) for one in data for _, values in one["rows"])


def test_a_run_without_samples_and_answers_still_has_a_page() -> None:
    from loadtest.findings import AuditReport
    from loadtest.report_document import make_document

    facts = {"play_s": 1.0, "audit": AuditReport().as_dict(), "closes": {}, "errors": {}}
    document = make_document(facts, [], AuditReport(), Series(START_MS), {})
    text = " ".join(read_page(render(document)).text)
    assert "nothing was measured" in text and "too little was answered" in text


def test_figures_are_those_of_the_run(tmp_path: Path) -> None:
    figures = invent_document(tmp_path, players=40, seconds=30)["figures"]
    assert figures.keys() == FIGURES.keys()
    assert (figures["players"], figures["accepted"], figures["resumes"], figures["closes"]) == (40, 1200, 4, 7)
    # One answer is 2.5 s late in the pause, most take 3.3 ms or so.
    assert 2.5 < figures["ack_p50_ms"] < 5 < 1000 < figures["ack_p99_ms"] <= figures["ack_max_ms"] < 2600
    assert figures["connected_max"] == 40 and figures["playing_min"] == 38
    assert figures["tool_cpu_us_per_update"] == 95.5 and figures["gateway_cpu_us_per_update"] is None


def test_series_counts_every_update_once_in_the_second_it_was_due(tmp_path: Path) -> None:
    invent_document(tmp_path, players=10, seconds=20)
    series = make_series(invent_histories(10, 20), tmp_path, START_MS)
    assert [point.counts.get("made", 0) for point in series.points if 0 <= point.at_s < 20] == [10] * 20
    assert sum(point.latencies["ack"].count for point in series.points) == 10 * 20 - 4  # four were made offline
    assert sum(point.counts.get("resumes", 0) for point in series.points) == 2 * 5
    assert [mark.what for mark in series.marks] == ["kill gateway-1", "freeze <postgres>"]


def test_a_process_that_says_twice_in_a_second_who_plays_counts_once(tmp_path: Path) -> None:
    """The last sample of a process comes within the second of the one before; its players stood there twice."""
    for process in range(2):
        samples = [{"at_ms": START_MS + at_ms, "connected": 7, "playing": 7} for at_ms in (1000, 2000, 2300)]
        file = tmp_path / f"samples-{process}.jsonl"
        file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    series = make_series([], tmp_path, START_MS)
    assert [point.states for point in series.points] == [{"connected": 14, "playing": 14}] * 2


def test_series_of_a_long_run_is_thinned_and_loses_nothing() -> None:
    series = Series(START_MS, 1, [Point(at_s, {"made": 2}) for at_s in range(-10, 4000)]).thinned()
    assert len(series.points) <= POINTS_MAX and series.step_s == 10
    assert sum(point.counts["made"] for point in series.points) == 2 * 4010
    assert [point.at_s for point in series.points[:3]] == [-10, 0, 10]


def test_series_is_read_as_it_was_written(tmp_path: Path) -> None:
    document = invent_document(tmp_path)
    assert read_series(document["series"]).as_dict() == document["series"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"figures": {}, "format": 99}', "nonsense"])
def test_a_file_that_is_no_report_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "some.json"
    file.write_text(text)
    with pytest.raises(TargetRefused, match=r"some\.json"):
        read_document(file)
    with pytest.raises(TargetRefused, match=r"gone\.json"):
        read_document(tmp_path / "gone.json")
