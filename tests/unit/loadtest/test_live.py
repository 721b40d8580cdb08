"""What is seen of a run: the same figures on a terminal, as lines, or not at all; and what one process samples."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.history import HistoryWriter, read_histories
from loadtest.live import LineView, Moment, QuietView, TerminalView, open_view
from loadtest.percentiles import Histogram
from loadtest.recording import Recording
from loadtest.server_meter import ServerMeter, Use, find_cpu_s
from loadtest.tally import SamplesWriter, Tally
from protocol.codec import MSGPACK


def moment(at_s: float = 30.0) -> Moment:
    counts: dict[str, Any] = {
        **dict.fromkeys(("playing", "connecting", "offline", "stopped"), 0),
        "playing": 4950,
        "suspended": 12,
        "connecting": 38,
        "connected": 4962,
        "made": 90000,
        "accepted": 89950,
        "saved": 88000,
        "resumes": 120,
        "welcomes": 5120,
        "connects_failed": 31,
        "errors": {202: 3},
        "closes": {1006: 100, 4001: 20, 4999: 1},
    }
    latency = Histogram([1000.0 * number for number in range(1, 101)])
    servers = {"gateway": Use(12.0, 0.83, 180 << 20), "supervisor": Use(1.0, 0.01, 30 << 20)}
    return Moment(at_s, 180.0, 5000, counts, 3000, 2990, latency, latency, Histogram([60_000.0]), servers, Use(9, 0.6))


def test_the_terminal_shows_players_latencies_codes_servers_and_the_time_left() -> None:
    from rich.console import Console

    screen = io.StringIO()
    view = TerminalView("5000 players, ar-walk", Console(file=screen, width=120, force_terminal=False))
    view.note("killed gateway-1 (pid 7)", 12.3)
    view.show(moment())
    view.close()
    text = screen.getvalue()
    for part in (
        "12.3 s  killed gateway-1 (pid 7)",
        "playing 4950  suspended 12  connecting 38  of 5000",
        "3000/s made  2990/s accepted",
        "120 of 5120 welcomes, 31 connections that failed",
        "p50 50.0 ms  p90 90.0 ms  p99 99.0 ms  max 100.0 ms",
        "202 OVERLOADED×3",
        "1006×100  4001 DRAINING×20  4999×1",
        "83 % of a core, 180 MiB",
        "0:30 of 3:00, 2:30 left",
        "late p99 60.0 ms",
    ):
        assert part in text, (part, text)
    assert "supervisor" not in text


def test_elsewhere_a_second_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(open_view("", is_quiet=False), LineView)
    LineView().show(moment())
    line = capsys.readouterr().out
    assert line.startswith(
        "  30.0 s  players 4962/5000  made 90000 (+3000)  accepted 89950 (+2990)  saved 88000  ack p50"
    )
    assert line.endswith("resumes 120  errors 3\n")
    assert isinstance(open_view("", is_quiet=True), QuietView)


def test_a_sample_has_counts_since_the_start_and_latencies_of_its_second(tmp_path: Path) -> None:
    tally = Tally(made=5, accepted=4)
    tally.note_error(202)
    tally.note_close(4001)
    tally.note_close(4001)
    tally.ack.record(1500)
    first = tally.take_sample(1000.0, ["playing", "playing", "offline"])
    second = tally.take_sample(2000.0, ["suspended", "playing", "offline"])
    assert (first["playing"], first["offline"], first["connected"], second["connected"]) == (2, 1, 2, 2)
    assert first["closes"] == {4001: 2} and first["errors"] == {202: 1} and second["made"] == 5
    assert Histogram.decode(first["ack_hdr"]).count == 1 and Histogram.decode(second["ack_hdr"]).count == 0
    writer = SamplesWriter(tmp_path / "samples-00.jsonl")
    writer.write(first)
    writer.close()
    assert json.loads((tmp_path / "samples-00.jsonl").read_text())["at_ms"] == 1000.0


def journal(recording: Recording, seq: int, body: dict[str, Any]) -> None:
    recording.on_journaled("d", seq, MSGPACK.encode(body), body)


def test_an_update_that_went_with_the_power_is_in_no_history_and_its_number_is_used_again(tmp_path: Path) -> None:
    writer, tally = HistoryWriter(tmp_path / "0.history", is_crash_safe=True), Tally()
    writer.add_player(0, "u", "wylding-woods")
    recording = Recording(0, writer, tally)
    recording.clock_skew_ms = 3_600_000
    for seq in (1, 2, 3):
        recording.making = (10.0 * seq, None)
        journal(recording, seq, {"event": {"type": "e", "at": 3_600_000 + seq}})
    recording.on_accepted("d", 1, 0.0)
    recording.note_unmade("d", 2)
    assert recording.made == 1 and tally.unmade == 2
    journal(recording, 2, {"event": {"type": "other", "at": 3_600_009}})
    recording.on_accepted("d", 2, 0.0)
    recording.on_saved("d", 2)
    recording.on_saved("d", 2)  # told again: counted once
    tally.fold()
    writer.close()
    (history,) = read_histories([tmp_path / "0.history"])
    steps = list(history.steps)
    assert [(step.seq, step.event) for step in steps] == [(1, {"type": "e", "at": 1}), (2, {"type": "other", "at": 9})]
    assert history.offered == 2 and all(step.saved_ms for step in steps)
    assert (tally.made, tally.accepted, tally.saved, tally.save.count) == (4, 2, 2, 2)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_servers_are_measured_by_kind_and_through_a_restart() -> None:
    meter = ServerMeter()
    meter.look({"gateway-1": os.getpid(), "gateway-2": 2**22 + 1}, 1.0)
    used_s = find_cpu_s(os.getpid())
    assert used_s is not None and meter.kinds["gateway"].cpu_s == 0.0  # what it used before the run is not the run's
    while (find_cpu_s(os.getpid()) or 0.0) < used_s + 0.05:
        sum(range(10_000))
    use = meter.look({"gateway-1": os.getpid()}, 2.0)["gateway"]
    assert use.cpu_s >= 0.049 and use.cores == pytest.approx(use.cpu_s) and use.rss_bytes > 1 << 20
    assert find_cpu_s(2**22 + 1) is None and sys.platform.startswith("linux")
