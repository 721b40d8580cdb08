"""Histories: what a player was told, also when its process was killed in the middle of a line."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgpack
import pytest

from loadtest.experience import WYLDING_WOODS
from loadtest.history import HistoryWriter, PlayerHistory, Step, note_untold_voids, read_histories
from loadtest.history import main as show_histories
from loadtest.report import ack_latency, measure, report_freeze
from loadtest.state_model import StateModel
from loadtest.storyline import Story


def made(history: PlayerHistory, device: str, *seqs: int) -> None:
    for seq in seqs:
        history.add_made(Step(device, seq, {"type": "note"}, None, made_ms=seq * 10.0, scheduled_ms=seq * 10.0))


def test_acks_are_cumulative_and_the_first_one_counts() -> None:
    history = PlayerHistory("u", "e")
    made(history, "d", 1, 2, 3)
    history.note_accepted("d", 2, 100.0)
    history.note_accepted("d", 3, 200.0)
    history.note_accepted("d", 1, 300.0)
    history.note_saved("d", 2, 400.0)
    history.note_void("d", 3, 106)
    assert [step.accepted_ms for step in history.steps] == [100.0, 100.0, 200.0]
    assert [step.saved_ms for step in history.steps] == [400.0, 400.0, None]
    assert [step.is_effective for step in history.steps] == [True, True, False]


def test_numbers_of_a_stream_have_no_gap() -> None:
    history = PlayerHistory("u", "e")
    made(history, "d", 5, 6)
    with pytest.raises(ValueError, match="made seq 8 after 6"):
        made(history, "d", 8)


def test_a_new_device_takes_over_what_the_server_does_not_have() -> None:
    history = PlayerHistory("u", "e")
    made(history, "old", 1, 2, 3, 4)
    history.note_accepted("old", 3, 100.0)
    history.note_stream_reset("old", "new", {3: 1, 4: 2})
    made(history, "new", 3)
    assert [(step.device, step.seq, step.made_ms) for step in history.steps] == [
        ("old", 1, 10.0),
        ("old", 2, 20.0),
        ("new", 1, 30.0),
        ("new", 2, 40.0),
        ("new", 3, 30.0),
    ]
    assert history.streams["new"].find(1).accepted_ms == 100.0  # once accepted, it must not be lost
    history.note_accepted("new", 2, 200.0)
    assert history.streams["new"].find(2).accepted_ms == 200.0


def test_what_is_written_is_read_and_a_torn_record_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "history"
    writer = HistoryWriter(file, is_crash_safe=False)
    writer.add_player(7, "user", "wylding-woods")
    writer.add_made(7, Step("d", 1, {"type": "note", "data": {"x": 0.1}}, [{"op": "unset", "path": "a"}], 1.5, 1.25))
    writer.add_made(7, Step("d", 2, None, [], 2.5, 2.25, expected_code=106))
    writer.add_accepted(7, "d", 2, 3.5)
    writer.add_void(7, "d", 2, 106)
    writer.add_saved(7, "d", 1, 4.5)
    writer.add_refused(7)
    writer.add_welcome(7, "resumed")
    writer.add_welcome(7, "lost")
    writer.add_error(7, 201)
    writer.add_close(7, 4001)
    assert file.read_bytes() == b""
    writer.close()
    with file.open("ab") as opened:
        opened.write(msgpack.packb(["saved", 7, "d", 2, 9.5])[:-3])
    (history,) = read_histories([file])
    assert (history.user_id, history.offered, history.resumes) == ("user", 3, 1)
    assert (history.errors, history.closes) == ({201: 1}, {4001: 1})
    first, second = history.steps
    assert (first.event, first.effects) == ({"type": "note", "data": {"x": 0.1}}, [{"op": "unset", "path": "a"}])
    assert (first.accepted_ms, first.saved_ms, first.scheduled_ms) == (3.5, 4.5, 1.25)
    assert (second.void_code, second.expected_code, second.saved_ms) == (106, 106, None)


def test_a_history_is_shown_as_lines_of_json(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    writer = HistoryWriter(tmp_path / "history", is_crash_safe=False)
    writer.add_made(7, Step("d", 1, {"type": "nöte"}, None, 1.5, float("inf"), is_away=True))
    writer.close()
    assert show_histories([str(tmp_path / "history")]) == 0
    shown = json.loads(capfdbinary.readouterr().out)
    assert shown == ["made", 7, "d", 1, {"event": {"type": "nöte"}, "effects": None}, 1.5, float("inf"), None, True]


def test_what_is_no_history_is_not_read_as_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b'["player",7,"user","wylding-woods"]\n')
    with pytest.raises(ValueError, match="old is no history"):
        read_histories([tmp_path / "old"])


def test_a_disk_that_is_full_in_the_middle_of_a_record_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = HistoryWriter(tmp_path / "history", is_crash_safe=True)
    writer.add_player(1, "user", "wylding-woods")
    write = os.write
    written: list[int] = []

    def write_a_part(file: int, data: memoryview) -> int:
        if written:
            raise OSError(errno.ENOSPC, "no space left")
        written.append(write(file, data[:5]))
        return written[0]

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_a_part)
        with pytest.raises(OSError, match="no space"):
            writer.add_error(1, 201)
    writer.add_error(1, 202)
    writer.close()
    [history] = read_histories([tmp_path / "history"])
    assert written == [5] and history.errors == {202: 1}


def test_a_crash_safe_history_survives_sigkill(tmp_path: Path) -> None:
    file = tmp_path / "history"
    program = (
        "import sys, pathlib, signal, loadtest.history as h\n"
        "w = h.HistoryWriter(pathlib.Path(sys.argv[1]), is_crash_safe=True)\n"
        "w.add_player(0, 'u', 'e')\n"
        "for seq in range(1, 101): w.add_made(0, h.Step('d', seq, None, [], 1.0)); w.add_accepted(0, 'd', seq, 2.0)\n"
        "print('ready', flush=True); signal.pause()\n"
    )
    player = subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, text=True)
    assert player.stdout is not None and player.stdout.readline() == "ready\n"
    os.kill(player.pid, signal.SIGKILL)
    player.wait(10)
    player.stdout.close()
    (history,) = read_histories([file])
    assert sum(step.is_effective for step in history.steps) == 100


def test_stories_break_rules_only_on_purpose() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(60):
        story, model = Story(WYLDING_WOODS, random.Random(seed)), StateModel()
        for _ in range(150):
            step = story.next_step()
            assert model.apply(step.event, step.effects) == step.expected_code
            kinds[step.event["type"] if step.event else "update"] += 1
    assert {"waypoint_visited", "item_collected", "quest_completed", "update", "experience_completed"} <= kinds.keys()


def test_latency_counts_from_the_time_an_update_was_due() -> None:
    history = PlayerHistory("u", "e")
    made(history, "d", *range(1, 101))
    for seq in range(1, 101):
        history.note_accepted("d", seq, seq * 10.0 + seq)
    latency = ack_latency([history])
    assert (latency.count, latency.p50_ms, latency.p99_ms, latency.max_ms) == (100, 50.0, 99.0, 100.0)
    assert measure([]).count == 0


def test_a_freeze_is_reported_for_what_was_due_in_it() -> None:
    history = PlayerHistory("u", "e")
    made(history, "d", *range(1, 401))  # one every 10 ms: 10 … 4000
    for seq in range(1, 401):
        history.note_accepted("d", seq, seq * 10.0 + 2)
    history.note_saved("d", 99, 1001.0)  # due before, told after
    history.note_saved("d", 400, 5500.0)
    freeze = report_freeze([history], 1000.0, 3000.0)
    assert (freeze.ack.count, freeze.ack.p99_ms, freeze.saved_during) == (200, 2.0, 0)
    assert (freeze.accepted_caught_up_s, freeze.saved_caught_up_s) == (0.0, 2.5)


def test_void_that_nobody_could_tell_the_player_is_noted() -> None:
    """
    The note that an update is void is kept until it is saved. An ack that was lost and a player who came back after the
    flush left the audit with an accepted update that had no row: it was called lost.
    """
    history = PlayerHistory("u", "e")
    for seq, (expected, told, accepted_ms) in enumerate(
        [(106, None, 5.0), (106, 106, 5.0), (None, None, 5.0), (106, None, None)], 1
    ):
        step = Step("d", seq, None, None, made_ms=1.0, accepted_ms=accepted_ms, void_code=told, expected_code=expected)
        history.add_made(step)
    assert note_untold_voids([history]) == 1
    assert [step.void_code for step in history.steps] == [106, 106, None, None]
