"""Log lines: one for each event, in either form, with nothing in them that must not be there."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
import structlog

from gateway.telemetry.logs import find_level, get_logger, set_up_logs


@pytest.fixture(autouse=True)
def own_logging() -> Any:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:], logging.getLogger().level = handlers, level


def write(style: str, level: str = "info") -> tuple[io.StringIO, Any]:
    stream = io.StringIO()
    set_up_logs(level, style, "gateway-1", stream)
    return stream, get_logger("sockets")


def test_json_lines_carry_the_process_and_the_facts() -> None:
    stream, log = write("json")
    log.warning("closed", code=4003, url="redis://u:pw@h/0")
    line = json.loads(stream.getvalue())
    assert line["level"] == "warning" and line["process"] == "gateway-1" and line["event"] == "closed"
    assert line["code"] == 4003 and line["part"] == "sockets"
    assert "pw" not in stream.getvalue()


def test_text_lines_name_the_level_second() -> None:
    stream, log = write("text")
    log.error("refused", why="a b", note="")
    assert stream.getvalue().split(" ")[1:4] == ["ERROR", "gateway-1", "refused"]
    assert 'why="a b"' in stream.getvalue()
    assert find_level(stream.getvalue()) == "error"


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_players_text_cannot_make_a_second_line(style: str) -> None:
    stream, log = write(style)
    log.info("joined", name="x\nERROR forged\r\x1b[31m\u2028", long="y" * 5000)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue()) < 1500


@pytest.mark.parametrize("style", ["json", "text"])
def test_tokens_never_reach_a_log(style: str) -> None:
    stream, log = write(style)
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    log.info("hello", frame={"token": token}, text=f"got {token}")
    try:
        raise ValueError(token)
    except ValueError:
        log.exception("failed")
    assert "eyJ" not in stream.getvalue()


def test_levels_below_the_chosen_one_are_left_out() -> None:
    stream, log = write("json", "warning")
    log.info("no")
    logging.getLogger("wayhold.flusher").info("no")
    assert stream.getvalue() == ""


def test_the_standard_library_comes_out_in_the_same_form() -> None:
    stream, _log = write("json")
    logging.getLogger("wayhold.flusher").info("flush works", extra={"failures": 3})
    logging.getLogger("other.library").info("chatter")
    logging.getLogger("other.library").warning("odd: %s", "x")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["part"], first["failures"]) == ("flush works", "flusher", 3)
    assert second["event"] == "odd: x"


def test_a_stderr_that_is_gone_stops_nothing() -> None:
    stream, log = write("json")
    stream.close()
    log.error("nobody reads this")


@pytest.mark.parametrize("line", ["", "Traceback (most recent call last):", "{broken", "{}", "a b"])
def test_lines_of_others_have_no_level(line: str) -> None:
    assert find_level(line) is None
