"""
Log files of child processes: opened for appending, capped, read from the end.

A child writes through the descriptor it inherited, so a log that grows too large is copied aside and emptied in place
(the descriptor appends, so it goes on at the new end). Lines written between copy and emptying are lost; logs of
development servers may lose lines, the disk must not fill up.
"""

from __future__ import annotations

import os
from pathlib import Path

LOG_BYTES_MAX = 4 * 1024 * 1024
# What is kept of a log that grew beyond all measure between two looks.
LOG_KEEP_BYTES = 1024 * 1024
assert LOG_KEEP_BYTES <= LOG_BYTES_MAX


def open_log(path: Path, bytes_max: int = LOG_BYTES_MAX) -> int:
    """Open for appending (mode 0600), after putting a large one aside as `<name>.1`. The caller closes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cap_log(path, bytes_max)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def cap_log(path: Path, bytes_max: int = LOG_BYTES_MAX) -> bool:
    """Put the end of a log larger than `bytes_max` aside as `<name>.1` and empty it; True when it did."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size <= bytes_max:
        return False
    with path.open("rb+") as log:
        log.seek(max(0, size - LOG_KEEP_BYTES))
        path.with_name(path.name + ".1").write_bytes(log.read(LOG_KEEP_BYTES))
        log.truncate(0)
    return True


def list_last_lines(path: Path, lines_max: int) -> list[str]:
    """The last lines of a log, none when there is no log."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - 64 * 1024))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-lines_max:]
