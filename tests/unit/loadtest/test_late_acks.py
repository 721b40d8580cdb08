"""Late answers: one that was held back is told, a pause of everything is not."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from loadtest.command import add_arguments
from loadtest.findings import AuditReport
from loadtest.history import PlayerHistory, Step
from loadtest.late_acks import LATE_ACK_MS, add_late_acks
from loadtest.options import read_options

PLAYERS = 20
UPDATES = 30


def play(
    answer_ms: Callable[[int, int, float], float], *, process_of: Callable[[int], int] = lambda _: 0
) -> list[PlayerHistory]:
    """Players who make an update every 100 ms; `answer_ms(player, seq, made_ms)` says when each is answered."""
    histories = []
    for player in range(PLAYERS):
        history = PlayerHistory(f"player-{player}", "e", process=process_of(player))
        for seq in range(1, UPDATES + 1):
            made_ms = 1000.0 + player * 5 + seq * 100
            step = Step(f"phone-{player}", seq, {"type": "note"}, None, made_ms, made_ms)
            step.accepted_ms = answer_ms(player, seq, made_ms)
            history.add_made(step)
        histories.append(history)
    return histories


def find(histories: list[PlayerHistory], late_ack_ms: float = 50.0) -> list[tuple[str, str, int]]:
    report = AuditReport()
    add_late_acks(report, histories, late_ack_ms)
    assert report.late_acks == len(report.findings)
    assert not any((report.lost, report.duplicated, report.reordered, report.state_mismatches))
    return [(finding.user_id, finding.device, finding.seq) for finding in report.findings]


def test_an_answer_that_was_held_back_is_named_and_no_other() -> None:
    held = {(3, 7), (12, 20)}
    histories = play(lambda player, seq, made_ms: made_ms + (90.0 if (player, seq) in held else 3.0))
    assert find(histories) == [("player-3", "phone-3", 7), ("player-12", "phone-12", 20)]
    assert find(histories, late_ack_ms=88.0) == []


def test_a_pause_of_everything_holds_nobody_back() -> None:
    """A machine that stood still for 800 ms answered everything after it; no answer was singled out."""
    assert find(play(lambda _, __, made_ms: 2800.0 if 2000 <= made_ms < 2800 else made_ms + 3)) == []


def test_a_pause_of_one_process_of_players_holds_nobody_back() -> None:
    histories = play(
        lambda player, _, made_ms: 2800.0 if player % 2 and 2000 <= made_ms < 2800 else made_ms + 3,
        process_of=lambda player: player % 2,
    )
    assert find(histories) == []


def test_what_the_network_explains_is_not_late() -> None:
    histories = play(lambda player, seq, made_ms: made_ms + (90.0 if (player, seq) in {(3, 7), (4, 8)} else 3.0))
    histories[3].streams["phone-3"].steps[6].is_resent = True
    histories[4].streams["phone-4"].steps[7].is_away = True
    assert find(histories) == []


def test_what_was_made_before_the_first_answer_is_not_late() -> None:
    assert find(play(lambda player, seq, made_ms: 1500.0 if player == 5 and seq < 4 else made_ms + 3)) == []


def test_a_lost_connection_marks_what_had_no_answer() -> None:
    (history, *_) = play(lambda _, __, made_ms: made_ms)
    stream = history.streams["phone-0"]
    stream.accepted = 28
    history.note_interruption()
    assert [step.seq for step in stream.steps if step.is_resent] == [29, 30]


def test_nobody_looks_for_late_answers_in_the_mud_unless_told_what_is_late() -> None:
    """The tool holds frames back there by itself: every one of them looked like an answer that the gateway sat on."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    def late_ack_ms(*flags: str) -> float | None:
        return read_options(parser.parse_args(flags)).late_ack_ms

    assert late_ack_ms() == LATE_ACK_MS
    assert late_ack_ms("--mud", "heavy") is None
    assert late_ack_ms("--mud", "heavy", "--late-ack-ms", "200") == 200
    assert AuditReport().late_acks is None
