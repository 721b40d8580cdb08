"""
The table of actions: what an operator may ask for, from which role on, for whom, and with what.

A payload is checked here, once, whole; what passes can be carried out or is refused for what the stores say. A new
action is a row here, and a step (steps.py) or an executor (executors.py).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from gateway.liveops.errors import invalid
from gateway.liveops.shapes import iso, parse_instant
from persistence.actions.shapes import compile_step
from persistence.ban import BAN_MESSAGE_CHARS_MAX
from persistence.operators import Role
from protocol.errors import VoidUpdate
from protocol.limits import EFFECTS_MAX
from protocol.values import ValueRefused, canonical_json

REASON_CHARS_MAX = 1_000
TEXT_CHARS_MAX = 1_000
ITEM_CHARS_MAX = 128
BAN_S_MAX = 10 * 366 * 86_400
STATS_KEYS_MAX = 32
STATS_BYTES_MAX = 8_192
COMPUTED_STATS = ("achievements",)
"""What the flush keeps in a profile's stats: nobody else writes it."""

_STATS_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Target(Enum):
    """Whom an action is for; the fields of `target` that it takes."""

    PROGRESS = "player, experience (may be left out for a player who is playing or has one only)"
    PLAYER = "player"
    AUDIENCE = "one of player, experience, all: true"
    NODE = "node"
    NOBODY = "nothing"


Payload = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ActionKind:
    """
    `check` returns the payload as it is kept, or raises ApiError. `undo`: how it is taken back; empty: it cannot be.
    """

    name: str
    role: Role
    target: Target
    takes: str
    check: Callable[[Payload], Payload] = field(repr=False)
    undo: str = ""
    wide_role: Role | None = None
    """From which role on it may be done to more than one player."""


def _nothing(payload: Payload) -> Payload:
    _only(payload)
    return {}


def _item(payload: Payload) -> Payload:
    _only(payload, "item")
    return {"item": _text(payload, "item", ITEM_CHARS_MAX)}


def _flag(payload: Payload) -> Payload:
    _only(payload, "flag", "value")
    if "value" not in payload:
        raise invalid("payload.value: is missing", "true, false, a number, text, or null to remove the flag")
    checked = {"flag": _text(payload, "flag", ITEM_CHARS_MAX), "value": payload["value"]}
    _compiles([flag_effect(checked)])
    return checked


def flag_effect(payload: Mapping[str, Any]) -> dict[str, Any]:
    path = f"flags.{payload['flag']}"
    if payload["value"] is None:
        return {"op": "unset", "path": path}
    return {"op": "set", "path": path, "value": payload["value"]}


def _effects(payload: Payload) -> Payload:
    _only(payload, "effects")
    effects = payload.get("effects")
    if not isinstance(effects, list) or not 1 <= len(effects) <= EFFECTS_MAX:
        raise invalid(f"payload.effects: must be a list of 1 to {EFFECTS_MAX} effects", "see docs/protocol.md")
    _compiles(effects)
    return {"effects": effects}


def _location(payload: Payload) -> Payload:
    _only(payload, "location")
    return {"location": _text(payload, "location", 255)}


def _message(payload: Payload) -> Payload:
    _only(payload, "text")
    return {"text": _text(payload, "text", TEXT_CHARS_MAX)}


def _kick(payload: Payload) -> Payload:
    _only(payload, "message")
    return {"message": _optional_text(payload, "message", BAN_MESSAGE_CHARS_MAX)}


def _ban(payload: Payload) -> Payload:
    _only(payload, "for_s", "message")
    for_s = payload.get("for_s")
    if for_s is not None and (type(for_s) not in (int, float) or not 1 <= for_s <= BAN_S_MAX):
        raise invalid(f"payload.for_s: must be seconds from 1 to {BAN_S_MAX}", "leave it out for a ban without end")
    return {"for_s": for_s, "message": _optional_text(payload, "message", BAN_MESSAGE_CHARS_MAX)}


def _stats(payload: Payload) -> Payload:
    _only(payload, "stats")
    patch = payload.get("stats")
    if not isinstance(patch, dict) or not 1 <= len(patch) <= STATS_KEYS_MAX:
        raise invalid(f"payload.stats: must be a map of 1 to {STATS_KEYS_MAX} keys", "null removes a key")
    for key in patch:
        if not _STATS_KEY.fullmatch(key):
            raise invalid(f"payload.stats: {key[:64]!r} is no key", "a-z, 0-9 and _, at most 64, a letter first")
        if key in COMPUTED_STATS:
            raise invalid(f"payload.stats: {key} is computed from events", "log the event that it follows from")
    _plain(patch, "payload.stats", STATS_BYTES_MAX)
    return {"stats": patch}


def _maintenance(payload: Payload) -> Payload:
    _only(payload, "on", "at", "message", "until")
    if type(payload.get("on")) is not bool:
        raise invalid("payload.on: must be true or false")
    given = payload.get("at")
    if given is not None and not isinstance(given, str):
        raise invalid("payload.at: must be an ISO 8601 time, or be left out for now")
    at: datetime | None = parse_instant("payload.at", given)
    message = _optional_text(payload, "message", BAN_MESSAGE_CHARS_MAX)
    checked = {"on": payload["on"], "at": iso(at), "message": message}
    if (end := payload.get("until")) is None:
        return checked
    if not isinstance(end, str) or not payload["on"]:
        raise invalid("payload.until: must be an ISO 8601 time, of a maintenance that begins", "leave it out")
    until = parse_instant("payload.until", end)
    if until is None or until <= max(at or datetime.now(UTC), datetime.now(UTC)):
        raise invalid("payload.until: must be later than now and than payload.at", "leave it out for one without end")
    return checked | {"until": iso(until)}


def _drain(payload: Payload) -> Payload:
    _only(payload, "on")
    is_on = payload.get("on", True)
    if type(is_on) is not bool:
        raise invalid("payload.on: must be true (send players away) or false (take them again)")
    return {"on": is_on}


def _letter(payload: Payload) -> Payload:
    _only(payload, "id")
    return {"id": _uuid(payload, "id")}


def _quarantine(payload: Payload) -> Payload:
    _only(payload, "progress")
    return {} if payload.get("progress") is None else {"progress": _uuid(payload, "progress")}


_LIST = (
    ActionKind("message", Role.SUPPORT, Target.AUDIENCE, "text", _message, wide_role=Role.OPERATOR),
    ActionKind("kick", Role.SUPPORT, Target.PLAYER, "message?", _kick),
    ActionKind("ban", Role.OPERATOR, Target.PLAYER, "for_s?, message?", _ban, undo="lifts the ban"),
    ActionKind("unban", Role.OPERATOR, Target.PLAYER, "", _nothing, undo="bans again, until the same time"),
    ActionKind("grant_item", Role.SUPPORT, Target.PROGRESS, "item", _item, undo="takes it, unless it was there before"),
    ActionKind("take_item", Role.SUPPORT, Target.PROGRESS, "item", _item, undo="gives it back"),
    ActionKind("set_flag", Role.SUPPORT, Target.PROGRESS, "flag, value", _flag, undo="puts back what was there"),
    ActionKind("edit_state", Role.OPERATOR, Target.PROGRESS, "effects", _effects, undo="puts back what was there"),
    ActionKind("move", Role.SUPPORT, Target.PROGRESS, "location", _location, undo="moves back"),
    ActionKind("edit_profile", Role.OPERATOR, Target.PLAYER, "stats", _stats, undo="puts back what was there"),
    ActionKind("force_flush", Role.SUPPORT, Target.PLAYER, "", _nothing),
    ActionKind("end_session", Role.SUPPORT, Target.PLAYER, "", _nothing),
    ActionKind("erase", Role.ADMIN, Target.PLAYER, "", _nothing),
    ActionKind(
        "maintenance",
        Role.ADMIN,
        Target.NOBODY,
        "on, at?, until?, message?",
        _maintenance,
        undo="ends it, if it was begun",
    ),
    ActionKind("drain", Role.ADMIN, Target.NODE, "on?", _drain, undo="lets it take players again"),
    ActionKind("replay_dead_letter", Role.OPERATOR, Target.NOBODY, "id", _letter),
    ActionKind("drop_dead_letter", Role.OPERATOR, Target.NOBODY, "id", _letter),
    ActionKind("release_quarantine", Role.OPERATOR, Target.PROGRESS, "progress?", _quarantine),
)

ACTIONS: dict[str, ActionKind] = {kind.name: kind for kind in _LIST}


def check_reason(reason: str) -> str:
    """Raises ApiError for one that says nothing, or too much."""
    reason = reason.strip()
    if not 1 <= len(reason) <= REASON_CHARS_MAX:
        raise invalid(f"reason: must be text of 1 to {REASON_CHARS_MAX} characters", "say why, for who reads the audit")
    _plain(reason, "reason", REASON_CHARS_MAX * 4 + 2)
    return reason


def _only(payload: Payload, *names: str) -> None:
    for name in payload:
        if name not in names:
            known = ", ".join(names) or "nothing"
            raise invalid(f"payload: {name[:64]!r} is not known", f"this action takes {known}")


def _text(payload: Payload, name: str, chars_max: int) -> str:
    text = payload.get(name)
    if not isinstance(text, str) or not 1 <= len(text.strip()) <= len(text) <= chars_max:
        raise invalid(f"payload.{name}: must be text of 1 to {chars_max} characters")
    _plain(text, f"payload.{name}", chars_max * 4 + 2)
    return text


def _optional_text(payload: Payload, name: str, chars_max: int) -> str:
    return "" if payload.get(name) in (None, "") else _text(payload, name, chars_max)


def _uuid(payload: Payload, name: str) -> str:
    try:
        return str(uuid.UUID(str(payload.get(name))))
    except ValueError:
        raise invalid(f"payload.{name}: must be a UUID") from None


def _plain(value: object, name: str, bytes_max: int) -> None:
    try:
        size = len(canonical_json(value))
    except ValueRefused as refused:
        raise invalid(f"{name}: {refused}") from None
    if size > bytes_max:
        raise invalid(f"{name}: is longer than {bytes_max} bytes")


def _compiles(effects: object) -> None:
    try:
        compile_step(None, effects)
    except VoidUpdate as void:
        raise invalid(f"payload: {void.message}", "see effects in docs/protocol.md") from None
