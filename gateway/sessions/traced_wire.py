"""
A wire that tells somebody what goes over it: while one player is being traced, this stands between the connection and
its socket. Everybody else's connections do not know that such a thing exists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.sessions.connection import Wire
from protocol.codec import Codec

Tell = Callable[[str, dict[str, Any]], None]
TEXT_CHARS_MAX = 2_000

# Of a frame only what tells the story: a welcome has the whole state in it.
_SHOWN = {
    "ack": ("seq", "version", "saved", "void"),
    "saved": ("seq",),
    "push": ("n", "kind", "data", "after"),
    "resync": ("reason", "seq", "version"),
    "welcome": ("resumed", "reason", "seq", "version"),
    "stream_reset": ("accepted", "reason"),
    "error": ("code", "name", "message", "seq", "retry_after_ms"),
    "bye": ("code", "name", "retry_after_ms", "message"),
    "drain": ("within_ms",),
    "left": ("saved",),
    "suspended": ("expires_s",),
}


class TracedWire:
    """Passes everything on, at once and unchanged."""

    __slots__ = ("_codec", "_tell", "inner")

    def __init__(self, inner: Wire, codec: Codec, tell: Tell) -> None:
        self.inner = inner
        self._codec = codec
        self._tell = tell

    def send(self, payload: bytes) -> None:
        self.inner.send(payload)
        try:
            frame = self._codec.decode(payload)
            kind = frame["t"]
            shown = _SHOWN.get(kind)
            if shown is not None:
                facts = {name: frame[name] for name in shown if name in frame}
                if len(repr(facts)) > TEXT_CHARS_MAX:
                    facts = {name: repr(value)[:TEXT_CHARS_MAX] for name, value in facts.items()}
                self._tell(kind, facts)
        except Exception:
            # Whoever watches must not cost a player anything, least of all the connection.
            self._tell("note", {"text": f"a frame of {len(payload)} bytes that cannot be shown"})

    def close(self, code: int, reason: str = "") -> None:
        self.inner.close(code, reason)

    def abort(self) -> None:
        self.inner.abort()

    def pause_reading(self) -> None:
        self.inner.pause_reading()

    def resume_reading(self) -> None:
        self.inner.resume_reading()

    def schedule(self, due: float) -> None:
        self.inner.schedule(due)

    def find_rtt_ms(self) -> float:
        return self.inner.find_rtt_ms()
