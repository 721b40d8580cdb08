"""
Structured logs to stderr: one event, one line, for machines (json) or for people (text).

Promise: a log line stays one line whatever a player sent (control characters are escaped, long values cut), never holds
a password or a token, and a stderr that is gone never stops the process.

    log = get_logger("flusher")
    log.warning("flush_failed", error="…", progress=12)
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog

VALUE_CHARS_MAX = 300
TRACE_CHARS_MAX = 8000
LEVELS = ("debug", "info", "warning", "error", "critical")

# A JWT, and the password of a URL.
_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")
# What the standard library puts into every record; anything else came with `extra`.
_RECORD_FIELDS = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}
_URL_PASSWORD = re.compile(r"(\w+://[^\s:/@]*):[^\s@/]+@")


def set_up_logs(level: str, style: str, process: str, stream: TextIO | None = None) -> None:
    """
    Send everything that is logged in this process, by structlog or by the standard library, to stderr in one form.

    `process` is in every line. Libraries log from warning on; our packages below this one use the standard library
    under the name `wayhold`, with facts in `extra`.
    """
    output = _Output(stream if stream is not None else sys.stderr, style, process)
    number = logging.getLevelName(level.upper())
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, output],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_NoLogger,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_StandardHandler(output)]
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger("wayhold").setLevel(number)


def get_logger(name: str) -> Any:
    """A logger whose lines carry `part=name`."""
    return structlog.get_logger(part=name)


def format_text(event: dict[str, Any]) -> str:
    """`2026-11-22T14:22:11.123Z WARNING flusher-1 flush_failed key=value`: the second word is the level."""
    event = dict(event)
    head = f"{event.pop('at')} {event.pop('level').upper()} {event.pop('process')} {_line(event.pop('event'))}"
    trace = event.pop("trace", "")
    words = [head, *(f"{key}={_word(value)}" for key, value in event.items())]
    return " ".join(words) + ("".join(f"\n  | {line}" for line in trace.splitlines()) if trace else "")


def find_level(line: str) -> str | None:
    """The level of a line that `set_up_logs` wrote, in either form; None for anything else (a raw traceback)."""
    if line.startswith("{"):
        try:
            level = json.loads(line)["level"]
        except (ValueError, KeyError):
            return None
        return str(level) if level in LEVELS else None
    words = line.split(" ", 2)
    return words[1].lower() if len(words) > 2 and words[1].lower() in LEVELS else None


class _Output:
    """The last processor: it makes the line and writes it. Nothing comes after it."""

    def __init__(self, stream: TextIO, style: str, process: str) -> None:
        self._stream = stream
        self._style = style
        self._process = process

    def __call__(self, _logger: Any, method: str, event: Any) -> Any:
        self.write(method, dict(event))
        raise structlog.DropEvent

    def write(self, level: str, fields: dict[str, Any]) -> None:
        trace = _trace(fields.pop("exc_info", None))
        level = {"exception": "error", "warn": "warning", "fatal": "critical"}.get(level, level)
        now = datetime.now(UTC)
        event: dict[str, Any] = {
            "at": f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z",
            "level": level,
            "process": self._process,
            "event": _safe(fields.pop("event", "")),
        }
        for key, value in fields.items():
            event[key if key not in event else f"{key}_"] = _safe(value)
        if trace:
            event["trace"] = trace
        text = format_text(event) if self._style == "text" else json.dumps(event, ensure_ascii=False)
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # whoever read our stderr is gone: players matter more than lines
            pass


class _NoLogger:
    """structlog wants a logger behind its processors; ours write themselves."""

    def __init__(self, *args: Any) -> None:
        pass

    def __getattr__(self, _name: str) -> Any:
        return lambda *args, **kwargs: None


class _StandardHandler(logging.Handler):
    def __init__(self, output: _Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, Any] = {"event": record.getMessage(), "part": record.name.removeprefix("wayhold.")}
            fields |= {key: value for key, value in vars(record).items() if key not in _RECORD_FIELDS}
            if record.exc_info:
                fields["exc_info"] = record.exc_info
            self._output.write(record.levelname.lower(), fields)
        except Exception:
            self.handleError(record)


def _safe(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(key)[:VALUE_CHARS_MAX]: _safe(item) for key, item in list(value.items())[:50]}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_safe(item) for item in list(value)[:50]]
    text = str(value)
    if len(text) > VALUE_CHARS_MAX:
        text = text[:VALUE_CHARS_MAX] + "…"
    return _mask(text)


def _mask(text: str) -> str:
    if "eyJ" in text:
        text = _TOKEN.sub("***", text)
    if "://" in text:
        text = _URL_PASSWORD.sub(r"\1:***@", text)
    return text


def _line(value: Any) -> str:
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (dict, list)):
        return _line(json.dumps(value, ensure_ascii=False))
    text = _line(value)
    return json.dumps(text, ensure_ascii=False) if text == "" or any(c in text for c in ' "=') else text


def _trace(exc_info: Any) -> str:
    if not exc_info:
        return ""
    if exc_info is True:
        exc_info = sys.exc_info()
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    if exc_info[1] is None:
        return ""
    text: str = "".join(traceback.format_exception(*exc_info))
    return _mask(text[-TRACE_CHARS_MAX:]).rstrip()
