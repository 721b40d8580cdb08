"""What of a child's log reaches the terminal."""

from __future__ import annotations

from pathlib import Path

from gateway.app.log_tail import LINES_MAX, LogTail

WARNING = "2026-11-22T14:22:11.123Z WARNING flusher-1 flush_failed error=x\n"
INFO = "2026-11-22T14:22:11.123Z INFO flusher-1 started\n"


def append(path: Path, text: str) -> None:
    with path.open("a") as log:
        log.write(text)


def test_only_warnings_and_what_belongs_to_them_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    append(path, WARNING)
    tail = LogTail(path)
    assert tail.list_new_warnings() == []  # an earlier run's
    append(path, INFO + WARNING + "  | Traceback\n" + INFO + "  | of an info\n")
    assert tail.list_new_warnings() == [WARNING.rstrip(), "  | Traceback"]
    assert tail.list_new_warnings() == []


def test_json_lines_and_raw_tracebacks(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    tail = LogTail(path)
    append(
        path,
        '{"level": "error", "event": "a"}\n{"level": "info", "event": "b"}\n'
        "Traceback (most recent call last):\n  File\n",
    )
    assert tail.list_new_warnings() == [
        '{"level": "error", "event": "a"}',
        "Traceback (most recent call last):",
        "  File",
    ]


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    tail = LogTail(path)
    append(path, WARNING[:20])
    assert tail.list_new_warnings() == []
    append(path, WARNING[20:])
    assert tail.list_new_warnings() == [WARNING.rstrip()]


def test_a_log_that_was_emptied_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    append(path, INFO * 10)
    tail = LogTail(path)
    path.write_text(WARNING)
    assert tail.list_new_warnings() == [WARNING.rstrip()]


def test_a_flood_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    tail = LogTail(path)
    append(path, WARNING * 5000)
    shown = tail.list_new_warnings()
    assert len(shown) == LINES_MAX + 1
    assert str(path) in shown[-1]
    assert tail.list_new_warnings() == []
