"""What players name is shown to operators on terminals, and stays text there."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from gateway.app.operate import acting
from gateway.app.operate.output import cell, to_json


@pytest.mark.parametrize("sign", ["\x1b", "\x9b", "\u202e", "\u200b", "\r"])
def test_a_preview_shows_what_a_player_has_written_and_nothing_it_would_do_to_a_terminal(
    sign: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "is_table", lambda args: True)
    hostile = f"lamp{sign}[2J"
    preview = {"before": {"flags.x": hostile}, "after": None, "affects": {"players": 1, "connections": 1, "text": "x"}}
    acting._show_preview(Namespace(), {"preview": preview, "warnings": [hostile]})
    shown = capsys.readouterr().out
    assert shown.count("lamp") == 2 and sign not in shown
    assert sign not in cell(hostile)


@pytest.mark.parametrize("sign", ["\x1b", "\x7f", "\x9b", "\x85", "\u202e", "\u2028", "\U000e0001", "\ud800"])
def test_json_for_a_terminal_holds_no_character_that_a_terminal_obeys(sign: str) -> None:
    """With --json on a terminal C1 control characters went out as they were: a device could be named so as to write."""
    value = {"device": f"grün 日{sign}[2J", "n": [1, None]}
    line = to_json(value)
    assert line.isprintable() and "grün 日" in line
    assert json.loads(line) == value
