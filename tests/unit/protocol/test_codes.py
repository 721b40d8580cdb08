"""Codes: every one explained, and the range of an unknown one enough to act on."""

import pytest

from protocol.closes import CLOSE_REASON_BYTES_MAX, CLOSES, CloseAction, CloseCode, close_action, close_name
from protocol.errors import ERRORS, ErrorAction, ErrorCode, FrameError, VoidUpdate, error_action


def test_every_code_is_explained_in_one_line() -> None:
    for info in [*ERRORS.values(), *CLOSES.values()]:
        assert info.meaning and info.client
        assert "|" not in info.meaning + info.client and "\n" not in info.meaning + info.client


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (100, ErrorAction.DO_NOT_REPEAT),
        (103, ErrorAction.DO_NOT_REPEAT),
        (199, ErrorAction.DO_NOT_REPEAT),
        (200, ErrorAction.REPEAT_LATER),
        (299, ErrorAction.REPEAT_LATER),
        (301, ErrorAction.NOT_ALLOWED),
        (399, ErrorAction.NOT_ALLOWED),
        (0, ErrorAction.DO_NOT_REPEAT),
        (999, ErrorAction.DO_NOT_REPEAT),
    ],
)
def test_an_error_code_never_met_is_handled_by_its_range(code: int, action: ErrorAction) -> None:
    assert error_action(code) is action


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (CloseCode.DRAINING, CloseAction.RESUME),
        (4099, CloseAction.RESUME),
        (CloseCode.TOKEN_EXPIRED, CloseAction.FRESH),
        (4199, CloseAction.FRESH),
        (CloseCode.REPLACED, CloseAction.STAY_AWAY),
        (4299, CloseAction.STAY_AWAY),
        (1000, CloseAction.RESUME),
        (1006, CloseAction.RESUME),
        (1011, CloseAction.RESUME),
        (3000, CloseAction.RESUME),
        (4300, CloseAction.RESUME),
    ],
)
def test_a_close_code_never_met_is_handled_by_its_range(code: int, action: CloseAction) -> None:
    assert close_action(code) is action


def test_no_code_is_one_that_unity_cannot_see() -> None:
    assert not {1012, 1013, 1014} & {int(code) for code in CloseCode}


def test_close_reasons_fit_into_a_control_frame() -> None:
    assert all(len(close_name(code).encode()) <= CLOSE_REASON_BYTES_MAX for code in range(4000, 5000))
    assert close_name(4201) == "REPLACED"
    assert close_name(4299) == "CLOSE_4299"


def test_messages_are_short_whatever_they_were_made_from() -> None:
    assert len(FrameError(ErrorCode.BAD_FRAME, "x" * 1000).message) == 200
    assert len(VoidUpdate(ErrorCode.TOO_LARGE, "x" * 1000).message) == 200


def test_the_numbers_are_those_that_were_given_out() -> None:
    """Numbers are never reused and never move: apps in pockets know them. Add to these lists, change nothing."""
    assert {code.name: int(code) for code in ErrorCode} == {
        "BAD_FRAME": 100,
        "UNKNOWN_TYPE": 101,
        "INVALID_MESSAGE": 102,
        "SEQUENCE_GAP": 103,
        "NOT_IN_SESSION": 104,
        "TOO_LARGE": 105,
        "INVALID_EFFECT": 106,
        "RATE_LIMITED": 200,
        "UNAVAILABLE": 201,
        "OVERLOADED": 202,
        "UNAUTHENTICATED": 300,
        "FORBIDDEN": 301,
    }
    assert {code.name: int(code) for code in CloseCode} == {
        "DRAINING": 4001,
        "TOO_SLOW": 4002,
        "HEARTBEAT_LOST": 4003,
        "OVERLOADED": 4004,
        "UNAVAILABLE": 4005,
        "RATE_LIMITED": 4006,
        "SESSION_ENDED": 4007,
        "UNAUTHENTICATED": 4101,
        "TOKEN_EXPIRED": 4102,
        "HELLO_TIMEOUT": 4103,
        "REPLACED": 4201,
        "KICKED": 4202,
        "BANNED": 4203,
        "PLAYER_DELETED": 4204,
        "VERSION_UNSUPPORTED": 4205,
        "PROTOCOL_ERROR": 4206,
    }
