"""The session machine, frame by frame, on a clock that the test holds."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.client.machine import (
    WRITE_AHEAD_BYTES_MAX,
    Abort,
    Accepted,
    Answered,
    Connect,
    DropJournal,
    Forget,
    Hangup,
    Left,
    MachineState,
    More,
    NeedToken,
    Pushed,
    Refused,
    ResetStream,
    Resynced,
    Stopped,
    Suspended,
    Voided,
    Welcomed,
)
from protocol.closes import CloseCode
from protocol.codec import JSON, MSGPACK
from protocol.frames import parse_client_frame
from protocol.limits import FRAME_BYTES_MAX, SEQ_MAX, UPDATE_BYTES_MAX
from tests.unit.client.rig import Rig, SlowJournal, list_updates, make_ack, make_error, make_welcome

# --- hello and welcome ------------------------------------------------------------------------------------------------


def test_hello_says_who_and_how_far() -> None:
    rig = Rig()
    rig.make(3)
    rig.journal.forget(2)
    rig.machine.clock_offset_ms = 500
    hello = rig.connect("my token")
    assert hello == {
        "t": "hello",
        "token": "my token",
        "experience": "wylding-woods",
        "device": "phone",
        "at": rig.now_ms + 500,
        "made": 3,
        "saved": 2,
        "client": "rig",
    }
    parse_client_frame(hello)


def test_nothing_but_hello_is_said_before_welcome() -> None:
    rig = Rig()
    rig.make(5)
    rig.connect()
    rig.make(5)
    rig.do(rig.machine.ask("1", "state", None, rig.now_ms))
    rig.do(rig.machine.suspend(60, rig.now_ms))
    rig.do(rig.machine.leave(rig.now_ms))
    assert [frame["t"] for frame in rig.take_sent()] == ["hello"]


def test_welcome_sends_what_lies_above_accepted_and_forgets_what_is_saved() -> None:
    rig = Rig()
    rig.make(10)
    rig.journal.open_again()
    rig.connect()
    rig.hear(make_welcome(accepted=6, saved=4, state={"a": 1}, version=9))
    assert rig.take_seqs() == [7, 8, 9, 10]
    assert rig.journal.saved == 4
    assert (rig.machine.accepted, rig.machine.version, rig.machine.document) == (6, 9, {"a": 1})
    assert rig.took(Welcomed) == [Welcomed(False, None)]


def test_second_hello_resumes_the_session() -> None:
    rig = Rig()
    rig.play(made=2)
    rig.hear({"t": "push", "n": 1, "kind": "message", "data": {}})
    rig.lose()
    hello = rig.connect()
    assert hello["resume"] == {"session": "s-1", "token": "resume-token"}
    assert hello["seen"] == 1
    parse_client_frame(hello)
    rig.hear(make_welcome(resumed=True))
    assert rig.machine.seen == 1, "pushes are numbered on in a resumed session"


def test_welcome_to_another_session_starts_the_pushes_again() -> None:
    rig = Rig()
    rig.play()
    rig.hear({"t": "push", "n": 1, "kind": "message", "data": {}})
    rig.lose()
    rig.connect()
    rig.hear(make_welcome(session="s-2", reason="expired"))
    assert rig.machine.seen == 0
    assert rig.took(Welcomed)[-1] == Welcomed(False, "expired")


def test_missing_welcome_ends_the_connection() -> None:
    rig = Rig()
    rig.connect()
    rig.wait(20_000)
    assert rig.aborted


def test_welcome_may_go_back_behind_what_was_accepted() -> None:
    rig = Rig()
    rig.play(made=5)
    rig.hear(make_ack(5))
    rig.lose()
    rig.connect()
    rig.take_sent()
    rig.hear(make_welcome(accepted=2))
    assert rig.take_seqs() == [3, 4, 5]


# --- window, batches, syncing -----------------------------------------------------------------------------------------


def test_window_is_never_overrun() -> None:
    rig = Rig()
    rig.play(window=4, made=10)
    assert rig.take_seqs() == [1, 2, 3, 4]
    rig.hear(make_ack(3))
    assert rig.take_seqs() == [5, 6, 7]
    rig.hear(make_ack(7))
    assert rig.take_seqs() == [8, 9, 10]


def test_backlog_goes_in_batches_that_every_gateway_takes() -> None:
    rig = Rig()
    rig.make(700)
    rig.connect()
    rig.take_sent()
    rig.hear(make_welcome())
    frames = rig.take_sent()
    assert [len(frame["updates"]) for frame in frames] == [200, 56]
    for frame in frames:
        parse_client_frame(frame)
    rig.hear(make_ack(200))
    assert rig.take_seqs() == list(range(257, 457))


@pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=["msgpack", "json"])
@pytest.mark.parametrize("size", [50, 900, 8_000, 16_300, 32_600])
def test_no_frame_is_larger_than_allowed(codec: Any, size: int) -> None:
    def measure(_payload: bytes, body: dict[str, Any]) -> int:
        return len(codec.encode({"t": "update", "seq": SEQ_MAX, **body}))

    rig = Rig(measure=measure) if codec is JSON else Rig()
    count = 300 if size < 10_000 else 100
    for _ in range(count):
        # Quotes are one byte in msgpack and two in JSON.
        text = "x" * (size // 2) + '"' * (size // (4 if codec is JSON else 2))
        rig.append({"event": {"type": "note", "data": {"text": text}}})
    rig.connect()
    rig.take_sent()
    rig.hear(make_welcome())
    seqs: list[int] = []
    while rig.sent:
        for frame in rig.take_sent():
            assert len(codec.encode(frame)) <= FRAME_BYTES_MAX
            for update in list_updates([frame]):
                assert "skip" not in update
                seqs.append(update["seq"])
        rig.do(rig.machine.writable(rig.now_ms))
        if not rig.sent:
            rig.hear(make_ack(seqs[-1]))
    assert seqs == list(range(1, count + 1))


def test_what_the_codec_cannot_say_is_used_up_as_a_skip() -> None:
    rig = Rig(measure=lambda payload, body: UPDATE_BYTES_MAX + 1 if body["event"]["data"]["n"] == 2 else 100)
    rig.play(made=3)
    updates = list_updates(rig.take_sent())
    assert [update.get("skip", False) for update in updates] == [False, True, False]


def test_damaged_record_is_used_up_as_a_skip() -> None:
    rig = Rig()
    rig.make()
    rig.journal.append(b"\xc1")
    rig.make()
    rig.play()
    assert [update.get("skip", False) for update in list_updates(rig.take_sent())] == [False, True, False]


def test_nothing_is_sent_before_it_is_synced() -> None:
    journal = SlowJournal()
    journal.is_slow = True
    rig = Rig(journal=journal)
    rig.play(made=3)
    assert rig.take_seqs() == []
    rig.sync()
    rig.make(2)
    assert rig.take_seqs() == [1, 2, 3]
    rig.wait(20_000)
    assert rig.wants_sync, "a sync that nobody finished is asked for again"
    rig.sync()
    assert rig.take_seqs() == [4, 5]


def test_hello_names_only_what_a_power_cut_leaves() -> None:
    journal = SlowJournal()
    journal.is_slow = True
    rig = Rig(journal=journal)
    rig.make(2)
    rig.sync()
    rig.make(3)
    assert rig.connect()["made"] == 2


def test_slow_socket_is_not_handed_a_whole_window() -> None:
    rig = Rig()
    for _ in range(40):
        rig.append({"event": {"type": "note", "data": {"text": "x" * 30_000}}})
    rig.play()
    first = rig.take_sent()[1:]
    assert sum(len(MSGPACK.encode(frame)) for frame in first) < WRITE_AHEAD_BYTES_MAX + FRAME_BYTES_MAX
    assert rig.took(More) == [More()]
    rig.hear(make_ack(2))
    assert rig.take_sent() == [], "an ack does not make room in the socket"
    rig.do(rig.machine.writable(rig.now_ms))
    assert rig.take_seqs()[0] == list_updates(first)[-1]["seq"] + 1


# --- ack, saved, void -------------------------------------------------------------------------------------------------


def test_only_saved_lets_the_journal_forget() -> None:
    rig = Rig()
    rig.play(made=5)
    rig.hear(make_ack(5))
    assert (rig.machine.accepted, rig.journal.saved) == (5, 0)
    rig.hear(make_ack(5, saved=2))
    assert rig.journal.saved == 2
    rig.hear({"t": "saved", "seq": 3})
    assert rig.journal.saved == 3
    rig.hear({"t": "pong", "at": 1, "server_time": 1, "saved": 4})
    assert rig.journal.saved == 4
    rig.hear({"t": "pong", "at": 1, "server_time": 1}, {"t": "saved", "seq": 1})
    assert rig.journal.saved == 4


def test_saved_that_overtakes_its_ack_waits_for_it() -> None:
    rig = Rig()
    rig.play(made=3)
    rig.hear({"t": "saved", "seq": 2})
    assert rig.journal.saved == 0
    rig.hear(make_ack(1))
    assert rig.journal.saved == 0
    rig.hear(make_ack(3, void=[{"seq": 2, "code": 106, "message": "bad"}]))
    assert rig.journal.saved == 2
    assert rig.took(Voided) == [Voided(2, 106, "bad")], "the void is told before it is forgotten"


def test_void_is_told_once_and_kept_until_saved() -> None:
    rig = Rig()
    void = [{"seq": 2, "code": 102, "message": "no event"}]
    rig.play(made=3)
    rig.hear(make_ack(3, void=void))
    rig.lose()
    rig.connect()
    rig.hear(make_welcome(accepted=3, void=void))
    rig.hear(make_ack(3, void=void))
    assert rig.took(Voided) == [Voided(2, 102, "no event")]
    assert rig.machine.voids == {2: (102, "no event")}
    rig.hear({"t": "saved", "seq": 2})
    assert rig.machine.voids == {}


def test_void_that_the_server_has_forgotten_is_told_anew_or_is_none() -> None:
    """Accepted anew, behind what others did meanwhile, an update may come out otherwise."""
    rig = Rig()
    rig.play(made=3)
    rig.hear(make_ack(3, void=[{"seq": at, "code": 106, "message": "kind"} for at in (1, 2, 3)]))
    rig.hear(
        {"t": "resync", "reason": "redis_lost", "seq": {"accepted": 1, "saved": 0}, "state": {}, "version": 1}
        | {"void": [{"seq": 1, "code": 106, "message": "kind"}]}
    )
    assert rig.machine.voids == {1: (106, "kind")}
    rig.hear(make_ack(3, void=[{"seq": 3, "code": 106, "message": "kind"}]))
    assert [void.seq for void in rig.took(Voided)] == [1, 2, 3, 3]
    assert sorted(rig.machine.voids) == [1, 3]


def test_stale_and_repeated_acks_change_nothing() -> None:
    rig = Rig()
    rig.play(made=5)
    rig.hear(make_ack(4), make_ack(2), make_ack(4))
    assert rig.took(Accepted) == [Accepted(4)]
    assert not rig.aborted


IMPOSSIBLE: dict[str, Any] = {
    "not a map": 7,
    "unreadable": None,
    "no type": {"seq": 1},
    "type is a number": {"t": 1},
    "ack beyond what was sent": make_ack(99),
    "ack without seq": {"t": "ack", "version": 1, "saved": 0},
    "ack of a text": make_ack("3"),  # type: ignore[arg-type]
    "ack of true": make_ack(True),
    "ack of a float": make_ack(2.0),  # type: ignore[arg-type]
    "ack below zero": make_ack(-1),
    "saved in ack beyond what was sent": make_ack(1, saved=99),
    "ack with a void beyond it": make_ack(1, void=[{"seq": 2, "code": 102, "message": ""}]),
    "ack with a void that is no list": make_ack(1, void=3),
    "ack with a void that is no map": make_ack(1, void=[3]),
    "saved beyond what was sent": {"t": "saved", "seq": 99},
    "saved without seq": {"t": "saved"},
    "pong with saved beyond what was sent": {"t": "pong", "saved": 99},
    "welcome again": make_welcome(accepted=5, saved=5),
    "resync with saved above accepted": {
        "t": "resync",
        "reason": "x",
        "seq": {"accepted": 2, "saved": 3},
        "state": {},
        "version": 1,
    },
    "resync above what was made": {
        "t": "resync",
        "reason": "x",
        "seq": {"accepted": 99, "saved": 99},
        "state": {},
        "version": 1,
    },
    "resync without state": {"t": "resync", "reason": "x", "seq": {"accepted": 2, "saved": 2}, "version": 1},
    "stream_reset although nothing is wrong": {"t": "stream_reset", "accepted": 3, "reason": "x"},
    "stream_reset without accepted": {"t": "stream_reset", "reason": "x"},
    "gap at nothing": make_error(103, seq=3, expected=0),
    "gap beyond what was sent": make_error(103, seq=3, expected=99),
    "error for what was never sent": make_error(105, seq=99),
    "error without code": {"t": "error"},
    "push without number": {"t": "push", "kind": "x", "data": {}},
    "push without kind": {"t": "push", "n": 1, "data": {}},
    "left without leave": {"t": "left", "saved": True},
    "result without id": {"t": "result", "data": {}},
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_frame_ends_the_connection_and_costs_nothing(name: str) -> None:
    rig = Rig()
    rig.play(made=5)
    rig.take_sent()
    rig.hear(IMPOSSIBLE[name])
    assert rig.aborted
    assert rig.took(Forget) == []
    assert rig.took(ResetStream) == []
    assert rig.journal.made == 5
    assert rig.take_sent() == [], "nothing more is said on this socket"
    rig.lose()
    rig.connect()
    rig.take_sent()
    rig.hear(make_welcome(accepted=1, resumed=True))
    assert rig.take_seqs() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    "welcome",
    [
        make_welcome(accepted=4, saved=5),
        make_welcome(accepted=6),
        make_welcome(accepted=1),
        make_welcome(accepted="3"),  # type: ignore[arg-type]
        make_welcome(state=None),
        make_welcome(session=""),
        make_welcome(void=[{}]),
        {"t": "welcome"},
        make_ack(1),
        {"t": "saved", "seq": 4},
        {"t": "resync", "reason": "x", "seq": {"accepted": 4, "saved": 4}, "state": {}, "version": 1},
        {"t": "push", "n": 1, "kind": "x", "data": {}},
        {"t": "left", "saved": True},
    ],
)
def test_impossible_answer_to_hello_ends_the_connection(welcome: dict[str, Any]) -> None:
    rig = Rig()
    rig.make(5)
    rig.journal.forget(2)
    rig.connect()
    rig.hear(welcome)
    assert rig.aborted
    assert (rig.journal.made, rig.journal.saved) == (5, 2)


def test_frame_type_of_a_later_protocol_is_ignored() -> None:
    rig = Rig()
    rig.play(made=1)
    rig.hear({"t": "confetti", "seq": -5})
    assert not rig.aborted


def test_window_and_heartbeat_that_make_no_sense_are_not_believed() -> None:
    rig = Rig()
    rig.play(window=0, heartbeat_s=-1, made=300)
    assert rig.take_seqs() == list(range(1, 257))
    rig.hear(make_ack(256))
    rig.wait(19_000)
    assert not rig.aborted


# --- going back -------------------------------------------------------------------------------------------------------


def test_gap_goes_back_to_what_is_expected() -> None:
    rig = Rig()
    rig.play(made=6)
    rig.hear(make_ack(2))
    rig.take_sent()
    rig.hear(make_error(103, seq=5, expected=4))
    assert rig.take_seqs() == [4, 5, 6]
    assert rig.machine.accepted == 3


def test_gap_behind_what_was_accepted_is_believed_down_to_saved() -> None:
    rig = Rig()
    rig.play(made=6)
    rig.hear(make_ack(6, saved=2))
    rig.take_sent()
    rig.hear(make_error(103, seq=7, expected=3))
    assert rig.take_seqs() == [3, 4, 5, 6]
    rig.hear(make_error(103, seq=7, expected=2))
    assert rig.aborted, "2 is saved and forgotten"


def test_gaps_without_progress_wait_longer_each_time() -> None:
    rig = Rig()
    rig.play(made=3)
    waits = []
    for _ in range(6):
        rig.take_sent()
        rig.hear(make_error(103, seq=3, expected=1))
        began_ms = rig.now_ms
        while not rig.sent:
            rig.wait(1)
        waits.append(rig.now_ms - began_ms)
    assert waits[0] == 0
    assert waits[1:] == sorted(waits[1:])
    assert waits[-1] >= 500
    rig.hear(make_ack(1))
    rig.take_sent()
    rig.hear(make_error(103, seq=3, expected=2))
    assert rig.take_seqs() == [2, 3], "after progress the next one is a first one again"


def test_resync_replaces_the_state_and_goes_on_behind_accepted() -> None:
    rig = Rig()
    rig.play(made=6)
    rig.hear({"t": "push", "n": 1, "kind": "message", "data": {}})
    rig.hear(make_ack(6, saved=2))
    rig.take_sent()
    rig.hear(
        {
            "t": "resync",
            "reason": "redis_lost",
            "seq": {"accepted": 3, "saved": 3},
            "state": {"x": 1},
            "version": 4,
            "void": [{"seq": 3, "code": 106, "message": "bad"}],
        }
    )
    assert rig.take_seqs() == [4, 5, 6]
    assert (rig.machine.document, rig.machine.version, rig.machine.seen) == ({"x": 1}, 4, 0)
    assert rig.took(Resynced) == [Resynced("redis_lost")]
    assert rig.took(Voided) == [Voided(3, 106, "bad")]
    rig.hear({"t": "push", "n": 1, "kind": "message", "data": {}})
    assert [push.n for push in rig.took(Pushed)] == [1, 1]


def test_updates_that_are_never_answered_end_the_connection_though_pongs_come() -> None:
    rig = Rig()
    rig.play(made=3)
    for _ in range(60):
        rig.wait(1_000)
        if rig.aborted:
            break
        rig.hear({"t": "pong", "at": 1, "server_time": 1})
    assert rig.aborted


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, 201, 202, 299])
def test_cannot_now_waits_as_told_and_repeats(code: int) -> None:
    rig = Rig()
    rig.play(made=5)
    rig.hear(make_ack(2))
    rig.take_sent()
    rig.hear(make_error(code, seq=3, retry_after_ms=5_000))
    rig.make()
    assert rig.wait(4_999) is not None
    assert rig.take_seqs() == []
    rig.wait(600)
    assert rig.take_seqs() == [3, 4, 5, 6]
    assert not rig.aborted


def test_cannot_now_without_a_time_waits_a_second() -> None:
    rig = Rig()
    rig.play(made=2)
    rig.take_sent()
    rig.hear(make_error(201, seq=1))
    rig.wait(999)
    assert rig.take_seqs() == []
    rig.wait(102)
    assert rig.take_seqs() == [1, 2]


@pytest.mark.parametrize("code", [100, 105, 102, 106, 199])
def test_single_update_that_was_sent_wrong_is_used_up(code: int) -> None:
    rig = Rig()
    rig.play(made=1)
    rig.take_sent()
    rig.hear(make_error(code, seq=1))
    [frame] = rig.take_sent()
    assert frame == {"t": "update", "seq": 1, "skip": True}
    parse_client_frame(frame)
    rig.hear(make_ack(1, void=[{"seq": 1, "code": 105, "message": "skipped"}]))
    assert rig.took(Voided) == [Voided(1, 105, "skipped")]
    rig.make()
    assert rig.take_sent() == [{"t": "update", "seq": 2, "event": {"type": "step", "data": {"n": 2}}}]


@pytest.mark.parametrize("code", [100, 105])
def test_unreadable_update_without_a_number_is_found_by_elimination(code: int) -> None:
    rig = Rig()
    rig.make(6)
    rig.play()
    assert len(rig.take_sent()) == 2
    rig.hear(make_error(code))  # the batch 1..6
    for seq in (1, 2):
        [frame] = rig.take_sent()
        assert (frame["t"], frame["seq"], "skip" in frame) == ("update", seq, False)
        rig.hear(make_ack(seq))
    [frame] = rig.take_sent()
    rig.hear(make_error(code))  # 3 it is
    assert rig.take_sent() == [{"t": "update", "seq": 3, "skip": True}]
    rig.hear(make_ack(3))
    for seq in (4, 5, 6):
        assert rig.take_seqs() == [seq]
        rig.hear(make_ack(seq))
    rig.make(3)
    assert rig.take_seqs() == [7, 8, 9]


def test_error_in_a_batch_voids_no_innocent_update() -> None:
    rig = Rig()
    rig.make(3)
    rig.play()
    rig.take_sent()
    rig.hear(make_error(105, seq=1))
    assert "skip" not in rig.take_sent()[0]


def test_unknown_type_without_a_number_is_not_about_updates() -> None:
    rig = Rig()
    rig.play(made=1)
    rig.take_sent()
    rig.hear(make_error(101))
    assert rig.take_sent() == []
    assert not rig.aborted


def test_skip_that_is_refused_ends_the_connection() -> None:
    rig = Rig()
    rig.play(made=1)
    rig.hear(make_error(105, seq=1), make_error(105, seq=1))
    assert rig.aborted


def test_not_in_session_ends_the_connection() -> None:
    rig = Rig()
    rig.play(made=1)
    rig.hear(make_error(104))
    assert rig.aborted


def test_forbidden_update_is_kept_for_a_better_token() -> None:
    rig = Rig()
    rig.play(made=1)
    rig.hear(make_error(301, seq=1))
    assert rig.aborted
    assert rig.lose().fresh_token
    rig.connect()
    rig.take_sent()
    rig.hear(make_welcome())
    assert rig.take_seqs() == [1]


def test_error_for_hello_comes_back_as_told() -> None:
    rig = Rig()
    rig.connect()
    rig.hear(make_error(201, retry_after_ms=7_000))
    assert rig.aborted
    assert 7_000 <= rig.lose().after_ms <= 7_700
    rig.connect()
    rig.hear(make_error(300))
    assert rig.lose().fresh_token


def test_errors_are_told() -> None:
    rig = Rig()
    rig.play()
    rig.hear(make_error(200, id="q", retry_after_ms=5))
    assert rig.took(Refused) == [Refused(200, "NAME", "message", "q", 5)]


# --- a new stream -----------------------------------------------------------------------------------------------------


def test_stream_reset_goes_on_as_a_new_device_on_the_same_socket() -> None:
    journal = SlowJournal()
    Rig(journal=journal).make(8)
    journal.forget(5)
    rig = Rig(journal=journal)
    rig.connect()
    rig.take_sent()
    rig.hear({"t": "stream_reset", "accepted": 3, "reason": "server_behind"})
    assert rig.took(ResetStream) == [ResetStream(3, "server_behind")]
    [hello] = rig.take_sent()
    assert (hello["device"], hello["made"], hello["saved"]) == ("phone-1", 3, 0)
    assert "resume" not in hello
    rig.hear(make_welcome())
    assert [update["event"]["data"]["n"] for update in list_updates(rig.take_sent())] == [6, 7, 8]
    assert not rig.aborted


def test_new_device_id_is_on_disk_before_the_server_hears_of_it() -> None:
    journal = SlowJournal()
    journal.is_slow = True
    rig = Rig(journal=journal)
    rig.make(3)
    rig.sync()
    journal.forget(3)
    rig.connect()
    rig.take_sent()
    rig.hear({"t": "stream_reset", "accepted": 1, "reason": "server_behind"})
    rig.make(1)
    assert rig.take_sent() == []
    rig.sync()
    assert [frame["t"] for frame in rig.take_sent()] == ["hello"]
    rig.lose()
    rig.hear(make_welcome())
    assert rig.take_sent() == []


def test_reset_that_is_not_on_disk_when_the_next_socket_opens_waits_there() -> None:
    journal = SlowJournal()
    journal.is_slow = True
    rig = Rig(journal=journal)
    rig.make(3)
    rig.sync()
    journal.forget(2)
    rig.connect()
    rig.hear({"t": "stream_reset", "accepted": 1, "reason": "server_behind"})
    rig.lose()
    rig.take_sent()
    rig.do(rig.machine.connected("token", rig.now_ms))
    assert rig.take_sent() == []
    rig.sync()
    [hello] = rig.take_sent()
    assert hello["device"] == "phone-1"


def test_device_that_forgot_keeps_what_cannot_have_been_sent() -> None:
    """
    The disk lost numbers 3 to 5, which the server has. 1 and 2 are the server's; what was made since the start is not,
    though it carries a number that the server knows.
    """
    rig = Rig()
    rig.append({"event": {"type": "old", "data": {"n": 1}}})
    rig.append({"event": {"type": "old", "data": {"n": 2}}})
    rig = Rig(journal=rig.journal)
    rig.make(1)
    rig.connect()
    rig.take_sent()
    rig.hear({"t": "stream_reset", "accepted": 5, "reason": "device_behind"})
    assert rig.renumbered == [{3: 1}]
    rig.hear(make_welcome())
    assert [update["event"]["data"]["n"] for update in list_updates(rig.take_sent())] == [3]


def test_device_that_forgot_and_made_more_than_it_forgot_notices_by_itself() -> None:
    """
    The disk lost 3 and 4, which the server has, and four new ones took their numbers before the first hello. The server
    sees nothing wrong: it knows 4, the device has made 6. Believing it would lose the new 3 and 4.
    """
    rig = Rig()
    rig.make(2)
    rig = Rig(journal=rig.journal)
    rig.make(4)
    rig.connect()
    rig.take_sent()
    rig.hear(make_welcome(accepted=4))
    assert rig.renumbered == [{3: 1, 4: 2, 5: 3, 6: 4}]
    assert rig.took(Hangup) == [Hangup(1000)]
    assert rig.take_sent() == []
    rig.lose(1000)
    hello = rig.connect()
    assert (hello["device"], hello["made"], "resume" in hello) == ("phone-1", 4, False)
    rig.hear(make_welcome())
    assert [update["event"]["data"]["n"] for update in list_updates(rig.take_sent())] == [3, 4, 5, 6]


def test_resync_beyond_what_can_have_been_sent_ends_the_connection() -> None:
    rig = Rig()
    rig.play(window=2, made=5)
    rig.hear({"t": "resync", "reason": "x", "seq": {"accepted": 3, "saved": 0}, "state": {}, "version": 1})
    assert rig.aborted


def test_voids_of_the_old_stream_are_forgotten_with_it() -> None:
    rig = Rig()
    rig.play(made=2)
    rig.hear(make_ack(2, void=[{"seq": 2, "code": 102, "message": ""}]))
    rig.hear({"t": "stream_reset", "accepted": 9, "reason": "device_behind"})
    assert rig.machine.voids == {}


def test_moved_journal_asks_with_the_old_id_and_goes_on_with_a_new_one() -> None:
    journal = SlowJournal("old phone")
    Rig(journal=journal).make(5)
    journal.moved = 5
    rig = Rig(journal=journal)
    rig.make(2)
    hello = rig.connect()
    assert (hello["device"], hello["made"]) == ("old phone", 7)
    rig.take_sent()
    rig.hear(make_welcome(accepted=3))
    assert rig.took(Hangup) == [Hangup(1000)]
    assert rig.renumbered == [{4: 1, 5: 2, 6: 3, 7: 4}]
    assert rig.take_sent() == [], "nothing is sent under the old id"
    rig.lose(1000)
    hello = rig.connect()
    assert (hello["device"], hello["made"]) == ("phone-1", 4)
    assert "resume" not in hello


@pytest.mark.parametrize("answer", ["welcome", "stream_reset"])
def test_moved_journal_whose_original_went_on_keeps_only_what_is_its_own(answer: str) -> None:
    journal = SlowJournal("old phone")
    Rig(journal=journal).make(5)
    journal.moved = 5
    rig = Rig(journal=journal)
    rig.make(2)
    rig.connect()
    if answer == "welcome":
        rig.hear(make_welcome(accepted=6, saved=6))
    else:
        rig.hear({"t": "stream_reset", "accepted": 90, "reason": "device_behind"})
    assert rig.renumbered == [{6: 1, 7: 2}]


# --- closes -----------------------------------------------------------------------------------------------------------

COMES_BACK_AND_RESUMES = (None, 1000, 1001, 1006, 1011, 4000, 4001, 4002, 4003, 4004, 4005, 4006, 4042, 4300, 4999)


@pytest.mark.parametrize("code", COMES_BACK_AND_RESUMES)
def test_close_that_lets_the_client_resume(code: int | None) -> None:
    rig = Rig()
    rig.play(made=2)
    connect = rig.lose(code)
    assert not connect.fresh_token
    assert "resume" in rig.connect()


def test_ended_session_is_not_resumed() -> None:
    rig = Rig()
    rig.play(made=2)
    assert not rig.lose(CloseCode.SESSION_ENDED).fresh_token
    hello = rig.connect()
    assert "resume" not in hello
    assert "seen" not in hello


@pytest.mark.parametrize("code", [4101, 4102, 4103, 4199])
def test_close_that_asks_for_something_fresh(code: int) -> None:
    rig = Rig()
    rig.play(made=2)
    assert rig.lose(code).fresh_token
    hello = rig.connect("fresh")
    assert hello["token"] == "fresh"
    assert "resume" in hello
    assert not rig.lose(None).fresh_token, "once"


@pytest.mark.parametrize("code", [4101, 4102, 4199])
def test_refused_hello_ends_a_client_that_has_no_other_token(code: int) -> None:
    rig = Rig(is_token_constant=True)
    rig.connect()
    (stopped,) = rig.do(rig.machine.disconnected(code, rig.now_ms))
    assert isinstance(stopped, Stopped) and stopped.code == code and stopped.reason
    assert rig.machine.state is MachineState.CLOSED


@pytest.mark.parametrize("code", [4101, 4102, 4199])
def test_token_that_runs_out_in_a_session_is_no_end_because_the_session_may_be_resumed(code: int) -> None:
    rig = Rig(is_token_constant=True)
    rig.play(made=2)
    rig.lose(code)
    assert "resume" in rig.connect()


def test_hello_that_came_too_late_is_said_again_with_the_same_token() -> None:
    rig = Rig(is_token_constant=True)
    rig.connect()
    rig.lose(CloseCode.HELLO_TIMEOUT)
    assert rig.connect()["token"] == "token"


@pytest.mark.parametrize("code", [4200, 4201, 4202, 4203, 4205, 4206, 4299])
def test_close_that_keeps_the_client_away(code: int) -> None:
    rig = Rig()
    rig.play(made=2)
    assert rig.do(rig.machine.disconnected(code, rig.now_ms)) == [Stopped(code)]
    assert rig.machine.state is MachineState.CLOSED
    assert rig.journal.made == 2
    assert rig.machine.find_next_tick_ms() is None
    assert rig.machine.disconnected(None, rig.now_ms) == []
    assert rig.machine.tick(rig.now_ms) == []
    assert rig.do(rig.machine.start()) == [Connect(0, False)], "the player may ask to play again"


def test_deleted_player_drops_journal_and_device() -> None:
    rig = Rig()
    rig.play(made=2)
    rig.take_sent()
    assert rig.do(rig.machine.disconnected(4204, rig.now_ms)) == [DropJournal(), Stopped(4204)]
    assert (rig.journal.made, rig.journal.device) == (0, "nobody")
    rig.do(rig.machine.start())
    hello = rig.connect()
    assert "resume" not in hello
    rig.hear(make_welcome())
    rig.make()
    assert rig.take_seqs() == [1]


@pytest.mark.parametrize("code", [None, 1005, 1006])
def test_lost_close_code_is_read_from_bye(code: int | None) -> None:
    rig = Rig()
    rig.play()
    rig.hear({"t": "bye", "code": 4202, "name": "KICKED"})
    assert rig.do(rig.machine.disconnected(code, rig.now_ms)) == [Stopped(4202)]


def test_close_code_wins_over_bye() -> None:
    rig = Rig()
    rig.play()
    rig.hear({"t": "bye", "code": 4202, "name": "KICKED"})
    rig.lose(4001)


def test_bye_without_a_close_is_not_waited_for() -> None:
    rig = Rig()
    rig.play()
    rig.hear({"t": "bye", "code": 4001, "name": "DRAINING"})
    rig.make()
    assert rig.take_seqs() == []
    rig.wait(2_001)
    assert rig.aborted


def test_server_decides_when_to_come_back() -> None:
    rig = Rig()
    rig.play()
    rig.hear({"t": "bye", "code": 4005, "name": "UNAVAILABLE", "retry_after_ms": 40_000})
    assert 40_000 <= rig.lose(4005).after_ms <= 44_000
    assert rig.lose().after_ms < 1_000, "once"


def test_back_off_doubles_up_to_a_bound_and_ends_with_a_healthy_time() -> None:
    rig = Rig()
    bounds = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
    longest = [0] * len(bounds)
    for seed in range(200):
        rig = Rig(seed=seed)
        for attempt, bound in enumerate(bounds):
            wait_ms = rig.lose().after_ms
            assert 0 <= wait_ms <= bound
            longest[attempt] = max(longest[attempt], wait_ms)
    assert all(seen > bound * 0.9 for seen, bound in zip(longest, bounds, strict=True)), "the whole range is used"

    rig.play()
    rig.wait(9_000)
    assert rig.machine._backoff.bound_ms == 30_000
    rig.lose()
    rig.play()
    rig.wait(10_000)
    assert rig.lose().after_ms <= 250


# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_silent_client_pings_and_gives_up_after_two_heartbeats() -> None:
    rig = Rig()
    rig.machine.clock_offset_ms = 7
    rig.play()
    rig.take_sent()
    rig.wait(19_999)
    assert rig.take_sent() == []
    rig.wait(1)
    [ping] = rig.take_sent()
    assert ping == {"t": "ping", "at": rig.now_ms + 7}
    parse_client_frame(ping)
    rig.wait(30)
    rig.hear({"t": "pong", "at": ping["at"], "server_time": 1})
    assert rig.machine.rtt_ms == 30
    rig.wait(39_000)
    assert not rig.aborted
    rig.wait(1_000)
    assert rig.aborted


def test_sending_updates_replaces_pings() -> None:
    rig = Rig()
    rig.play()
    rig.take_sent()
    for seq in range(1, 10):
        rig.wait(15_000)
        rig.make()
        rig.hear(make_ack(seq))
    assert {frame["t"] for frame in rig.take_sent()} == {"update"}


def test_ping_tells_which_pushes_were_seen_when_that_changed() -> None:
    rig = Rig()
    rig.play()
    rig.hear({"t": "push", "n": 1, "kind": "message", "data": {}})
    rig.take_sent()
    rig.wait(20_000)
    rig.hear({"t": "pong", "at": 1, "server_time": 1})
    rig.wait(20_000)
    assert [frame.get("seen") for frame in rig.take_sent()] == [1, None]


def test_suspended_client_neither_pings_nor_gives_up_until_it_says_something() -> None:
    rig = Rig()
    rig.play()
    rig.take_sent()
    rig.do(rig.machine.suspend(600, rig.now_ms))
    rig.hear({"t": "suspended", "expires_s": 500})
    assert rig.took(Suspended) == [Suspended(500)]
    assert rig.take_sent() == [{"t": "suspend", "expected_s": 600}]
    assert rig.machine.find_next_tick_ms() is None
    rig.now_ms += 300_000
    rig.make()
    assert rig.take_seqs() == [1]
    assert rig.machine.state is MachineState.PLAYING
    rig.wait(39_000)
    assert not rig.aborted
    rig.wait(1_001)
    assert rig.aborted


def test_client_that_wakes_learns_quickly_that_its_socket_is_dead() -> None:
    rig = Rig()
    rig.play()
    rig.do(rig.machine.suspend(600, rig.now_ms))
    rig.hear({"t": "suspended", "expires_s": 500})
    rig.now_ms += 300_000
    rig.take_sent()
    rig.do(rig.machine.wake(rig.now_ms))
    assert [frame["t"] for frame in rig.take_sent()] == ["ping"]
    rig.wait(2_001)
    assert rig.aborted


def test_client_that_wakes_on_a_live_socket_plays_on() -> None:
    rig = Rig()
    rig.play()
    rig.do(rig.machine.suspend(600, rig.now_ms))
    rig.hear({"t": "suspended", "expires_s": 500})
    rig.now_ms += 300_000
    rig.do(rig.machine.wake(rig.now_ms))
    rig.wait(1_000)
    rig.hear({"t": "pong", "at": 1, "server_time": 1})
    rig.wait(15_000)
    assert not rig.aborted


def test_abort_that_does_not_come_about_is_asked_for_again() -> None:
    rig = Rig()
    rig.play()
    rig.hear(7)
    rig.wait(10_000)
    assert 3 <= len(rig.took(Abort)) <= 6


# --- drain, leave, stop -----------------------------------------------------------------------------------------------


def test_drain_waits_for_a_quiet_moment() -> None:
    rig = Rig()
    rig.play(made=1)
    rig.hear({"t": "drain", "within_ms": 10_000})
    rig.wait(5_000)
    assert rig.took(Hangup) == [], "an update is on its way"
    rig.hear(make_ack(1))
    assert rig.took(Hangup) == [Hangup(1001)]
    rig.make()
    assert rig.take_seqs() == [1], "2 goes over the next socket"
    assert rig.lose(1001).after_ms <= 250
    assert "resume" in rig.connect()


def test_drain_does_not_wait_for_ever() -> None:
    rig = Rig()
    rig.play(made=1)
    rig.hear({"t": "drain", "within_ms": 10_000})
    rig.wait(8_999)
    assert rig.took(Hangup) == []
    rig.wait(2)
    assert rig.took(Hangup) == [Hangup(1001)]
    rig.wait(2_001)
    assert rig.aborted, "the polite close has a deadline, too"


def test_drained_clients_do_not_leave_in_one_wave() -> None:
    times = set()
    for seed in range(50):
        rig = Rig(seed=seed)
        rig.play()
        rig.hear({"t": "drain", "within_ms": 10_000})
        began_ms = rig.now_ms
        while not rig.took(Hangup):
            rig.wait(100)
        times.add((rig.now_ms - began_ms) // 1_000)
    assert times >= {0, 1, 2, 3, 4}
    assert max(times) <= 5


def test_leave_waits_until_everything_is_accepted() -> None:
    rig = Rig()
    rig.play(made=2)
    rig.take_sent()
    rig.do(rig.machine.leave(rig.now_ms))
    assert rig.take_sent() == []
    rig.hear(make_ack(2))
    assert rig.take_sent() == [{"t": "leave"}]
    rig.hear({"t": "left", "saved": True})
    assert rig.actions[-3:] == [Left(True), Hangup(1000), Stopped(None)]
    assert rig.journal.saved == 2


def test_leave_that_saved_nothing_keeps_the_journal() -> None:
    rig = Rig()
    rig.play(made=2)
    rig.do(rig.machine.leave(rig.now_ms))
    rig.hear(make_ack(2, saved=1), {"t": "left", "saved": False})
    assert rig.took(Left) == [Left(False)]
    assert rig.journal.saved == 1


def test_leave_that_is_cut_is_said_again() -> None:
    rig = Rig()
    rig.play(made=1)
    rig.do(rig.machine.leave(rig.now_ms))
    rig.hear(make_ack(1))
    rig.lose()
    rig.connect()
    rig.take_sent()
    rig.hear(make_welcome(accepted=1, session="s-2", reason="ended"))
    assert rig.take_sent() == [{"t": "leave"}]


def test_stop_closes_the_socket_and_keeps_everything() -> None:
    rig = Rig()
    rig.play(made=2)
    assert rig.do(rig.machine.stop()) == [Hangup(1000), Stopped(None)]
    assert rig.machine.stop() == []
    assert rig.hear(make_ack(2)) == []
    assert rig.do(rig.machine.connected("token", rig.now_ms)) == [Abort("closed")]
    rig.do(rig.machine.start())
    assert "resume" in rig.connect()


# --- pushes, queries, tokens ------------------------------------------------------------------------------------------


def test_pushes_are_told_once_and_in_order() -> None:
    rig = Rig()
    rig.play()
    push = {"t": "push", "kind": "state", "data": {"version": 7}, "after": 3}
    rig.hear(push | {"n": 1}, push | {"n": 2}, push | {"n": 1}, push | {"n": 2}, push | {"n": 3})
    assert [(p.n, p.kind, p.after) for p in rig.took(Pushed)] == [(1, "state", 3), (2, "state", 3), (3, "state", 3)]
    assert rig.machine.version == 7


def test_missing_push_is_asked_for_once_by_resuming() -> None:
    rig = Rig()
    rig.play()
    rig.hear({"t": "push", "n": 3, "kind": "message", "data": {}})
    assert rig.aborted
    rig.lose()
    assert rig.connect()["seen"] == 0
    rig.hear(make_welcome(resumed=True))
    rig.actions.clear()
    rig.hear({"t": "push", "n": 3, "kind": "message", "data": {}})
    assert not rig.aborted, "gone for good: play on"
    assert [push.n for push in rig.took(Pushed)] == [3]


def test_query_is_asked_and_answered() -> None:
    rig = Rig()
    rig.play()
    rig.take_sent()
    rig.do(rig.machine.ask("q1", "visited", {"waypoint": "8_inter"}, rig.now_ms))
    [frame] = rig.take_sent()
    parse_client_frame(frame)
    rig.hear({"t": "result", "id": "q1", "data": {"visited": True}})
    assert rig.took(Answered) == [Answered("q1", {"visited": True})]


def test_token_is_refreshed_before_it_expires() -> None:
    rig = Rig()
    rig.do(rig.machine.connected("old", rig.now_ms, rig.now_ms + 60_000))
    rig.hear(make_welcome())
    for _ in range(6):
        rig.wait(9_999)
        rig.hear({"t": "pong", "at": 1, "server_time": 1})
    assert rig.took(NeedToken) == []
    rig.wait(10)
    assert rig.took(NeedToken) == [NeedToken()]
    rig.take_sent()
    rig.do(rig.machine.refresh("new", rig.now_ms))
    assert rig.take_sent() == [{"t": "refresh", "token": "new"}]
    rig.hear({"t": "refreshed", "expires_s": 100})
    for _ in range(8):
        rig.wait(9_900)
        rig.hear({"t": "pong", "at": 1, "server_time": 1})
    assert len(rig.took(NeedToken)) == 1
    rig.wait(900)
    assert len(rig.took(NeedToken)) == 2


def test_refused_refresh_is_not_repeated_at_once() -> None:
    rig = Rig()
    rig.play()
    rig.hear(make_error(300))
    assert len(rig.took(NeedToken)) == 1
    rig.do(rig.machine.refresh("new", rig.now_ms))
    rig.hear(make_error(300))
    assert len(rig.took(NeedToken)) == 1
    rig.hear({"t": "pong", "at": 1, "server_time": 1})
    rig.wait(30_001)
    assert len(rig.took(NeedToken)) == 2
