"""
What children write into their log files, as it comes: warnings and worse go to the terminal of `dev`.

Promise: a child that writes without end costs the terminal a bounded number of lines per look; the rest is in the file.
"""

from __future__ import annotations

from pathlib import Path

from gateway.telemetry.logs import find_level

READ_BYTES_MAX = 64 * 1024
LINES_MAX = 20
SHOWN_LEVELS = frozenset({"warning", "error", "critical"})


class LogTail:
    """Reads on where it stopped. Starts at the present end of the file: what an earlier run wrote is not news."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = self._size()
        self._half = b""
        self._is_shown = False

    def list_new_warnings(self) -> list[str]:
        """New lines from warning on, with the lines that belong to them (tracebacks)."""
        size = self._size()
        if size < self._at:  # the file was capped
            self._at, self._half = 0, b""
        if size == self._at:
            return []
        skipped = max(0, size - self._at - READ_BYTES_MAX)
        try:
            with self._path.open("rb") as log:
                log.seek(self._at + skipped)
                chunk = log.read(READ_BYTES_MAX)
        except OSError:
            return []
        self._at += skipped + len(chunk)
        *lines, self._half = (self._half + chunk).split(b"\n")
        self._half = self._half[-READ_BYTES_MAX:]
        shown = []
        for raw in lines:
            line = raw.decode("utf-8", "replace").rstrip()
            level = find_level(line)
            if level is not None:
                self._is_shown = level in SHOWN_LEVELS
            elif not line.startswith(" "):
                # No line of ours: the interpreter's last words.
                self._is_shown = bool(line)
            if self._is_shown:
                shown.append(line)
        if len(shown) > LINES_MAX:
            left_out = len(shown) - LINES_MAX
            shown = [*shown[:LINES_MAX], f"… and {left_out} lines more in {self._path}"]
        return shown

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
