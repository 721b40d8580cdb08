"""
Reading what a server says: a field that a sound server cannot have sent so is `Impossible`, one that the client can do
without is replaced by a default.
"""

from __future__ import annotations

from typing import Any, Final

from protocol.client.actions import Voided
from protocol.limits import SEQ_MAX

# A server may ask for patience, not for ever.
RETRY_AFTER_MAX_MS: Final = 300_000


class Impossible(Exception):
    """The server sent what a sound server cannot have sent."""


def get_count(frame: dict[str, Any], name: str) -> int:
    value = frame.get(name)
    if type(value) is not int or not 0 <= value <= SEQ_MAX:
        raise Impossible(f"{name} is {value!r}")
    return value


def get_str(frame: dict[str, Any], name: str) -> str:
    value = frame.get(name)
    if not isinstance(value, str) or not value:
        raise Impossible(f"{name} is {value!r}")
    return value


def get_map(frame: dict[str, Any], name: str) -> dict[str, Any]:
    value = frame.get(name)
    if not isinstance(value, dict):
        raise Impossible(f"{name} is no map")
    return value


def get_marks(frame: dict[str, Any]) -> tuple[int, int]:
    marks = get_map(frame, "seq")
    return get_count(marks, "accepted"), get_count(marks, "saved")


def get_voids(frame: dict[str, Any], upto: int) -> list[Voided]:
    raw = frame.get("void")
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise Impossible("void is no list")
    voids = []
    for item in raw:
        if not isinstance(item, dict):
            raise Impossible("a void is a map")
        seq = get_count(item, "seq")
        if not 0 < seq <= upto:
            raise Impossible(f"void of {seq}, accepted are {upto}")
        message = item.get("message")
        voids.append(Voided(seq, get_count(item, "code"), message if isinstance(message, str) else ""))
    return voids


def find_retry_ms(frame: dict[str, Any]) -> int | None:
    value = frame.get("retry_after_ms")
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        return None
    return int(min(value, RETRY_AFTER_MAX_MS))


def find_within(frame: dict[str, Any], name: str, least: float, most: float, default: float, scale: int) -> int:
    """A number the client can do without: clamped, and the default where it makes no sense."""
    value = frame.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        value = default
    return int(value * scale)
