"""What players name is shown to operators on terminals, and stays text there."""

from __future__ import annotations

from argparse import Namespace

import pytest

from gateway.app.operate import acting
from gateway.app.operate.output import cell


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
