"""
The audit's own reading of the rules of effects: what the updates of a progress make of its state.

Owns a second, independent implementation, written from the protocol's text. It shares no code with
`protocol.effects`, `protocol.state` or the scripts of the hot store: a mistake made there must not be made here again
by import. Plain and slow is fine; the shared vectors hold both to the same answers.

Promise: an update is one step or nothing. `apply` returns None when it took effect, or the code of what is wrong, and
then the state is as it was.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

INVALID_MESSAGE, TOO_LARGE, INVALID_EFFECT = 102, 105, 106

KNOWN_KINDS = {
    "inventory": "set",
    "visited_waypoints": "set",
    "active_quests": "set",
    "completed_quests": "set",
    "unlocked_areas": "set",
    "collectibles": "group",
    "flags": "group",
    "distance_meters": "counter",
    "current_location": "value",
}
EVENTS_WITH_CONTENT = frozenset(
    {
        "waypoint_visited",
        "location_reached",
        "quest_started",
        "quest_completed",
        "item_collected",
        "achievement_unlocked",
    }
)
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
KEY_CHARS_MAX = 128
MEMBER_CHARS_MAX = 128
EFFECTS_MAX = 16
VALUE_BYTES_MAX = 8192
VALUE_DEPTH_MAX = 16
COUNTER_MAX = Decimal(9_000_000_000)
MILLIONTH = Decimal("0.000001")
STATE_FIELDS_MAX = 4000
STATE_BYTES_MAX = 65536


class StateModel:
    """The state of one progress, by kind of leaf, and what its events mean beyond the state."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.counters: dict[str, Decimal] = {}
        self.sets: dict[str, set[str]] = {}
        self.groups: set[str] = set()
        self.achievements: set[str] = set()
        self.is_completed = False
        # What each stored field weighs, for the bounds of a state; kept beside the leaves, under their stored names.
        self._weights: dict[str, int] = {}
        self._bytes = 0
        self._undo: list[Callable[[], None]] = []

    def apply(self, event: Any, effects: Any) -> int | None:
        """Apply one update; None, or the code of what is wrong with it (and nothing has changed)."""
        self._undo.clear()
        fields_before, bytes_before = len(self._weights), self._bytes
        try:
            if event is None and not effects:
                raise _Void(INVALID_MESSAGE)
            steps = [*self._read_event(event), *self._read_effects(effects)]
            for step in steps:
                step()
            has_outgrown = len(self._weights) > STATE_FIELDS_MAX and len(self._weights) > fields_before
            if has_outgrown or (self._bytes > STATE_BYTES_MAX and self._bytes > bytes_before):
                raise _Void(TOO_LARGE)
        except _Void as void:
            while self._undo:
                self._undo.pop()()
            return void.code
        if event is not None and event["type"] == "achievement_unlocked":
            self.achievements.add(event["content_id"])
        if event is not None and event["type"] == "experience_completed":
            self.is_completed = True
        return None

    def document(self) -> dict[str, Any]:
        """The state as a document: sets sorted, counters as decimals, groups as maps."""
        document: dict[str, Any] = {name: {} for name in self.groups}
        document.update({name: sorted(members) for name, members in self.sets.items()})
        for path, leaf in (*self.values.items(), *self.counters.items()):
            name, dot, key = path.partition(".")
            if dot:
                document[name][key] = leaf
            else:
                document[name] = leaf
        return document

    # What an event implies, and what effects say. Both give steps that run only once everything has been read.

    def _read_event(self, event: Any) -> list[Callable[[], None]]:
        if event is None:
            return []
        if not isinstance(event, dict):
            raise _Void(INVALID_MESSAGE)
        kind, content_id, data = event.get("type"), event.get("content_id"), event.get("data")
        if not isinstance(kind, str) or not 1 <= len(kind) <= 50 or not _is_clean(kind):
            raise _Void(INVALID_MESSAGE)
        if content_id is not None and not (
            isinstance(content_id, str) and 1 <= len(content_id) <= 255 and _is_clean(content_id)
        ):
            raise _Void(INVALID_MESSAGE)
        if not isinstance(data, dict | None):
            raise _Void(INVALID_MESSAGE)
        if kind == "waypoint_visited" and data and isinstance(data.get("distance_traveled"), float):
            # A distance that is no finite number adds nothing and is no error.
            _walk_value({**data, "distance_traveled": 0}, depth=0, code=INVALID_MESSAGE)
        else:
            _walk_value(data, depth=0, code=INVALID_MESSAGE)
        at = event.get("at")
        if at is not None and (not isinstance(at, int) or isinstance(at, bool)):
            raise _Void(INVALID_MESSAGE)
        _check_location(event.get("lat"), 90)
        _check_location(event.get("lng"), 180)
        if kind in EVENTS_WITH_CONTENT and not content_id:
            raise _Void(INVALID_MESSAGE)
        return self._implied(kind, content_id or "", data or {})

    def _implied(self, kind: str, content_id: str, data: dict[str, Any]) -> list[Callable[[], None]]:
        match kind:
            case "waypoint_visited":
                steps = [
                    self._op("add", "visited_waypoints", content_id),
                    self._op("set", "current_location", content_id),
                ]
                walked: Any = data.get("distance_traveled")
                if _is_number(walked) and walked >= 0:
                    steps.append(self._op("incr", "distance_meters", walked))
                return steps
            case "location_reached":
                return [self._op("set", "current_location", content_id)]
            case "quest_started":
                start = self._op("add", "active_quests", content_id)
                return [lambda: None if content_id in self.sets.get("completed_quests", ()) else start()]
            case "quest_completed":
                return [
                    self._op("remove", "active_quests", content_id),
                    self._op("add", "completed_quests", content_id),
                ]
            case "item_collected" if data.get("count") is not None:
                return [self._op("incr", f"collectibles.{content_id}", data["count"])]
            case "item_collected":
                return [self._op("add", "inventory", content_id)]
        return []

    def _read_effects(self, effects: Any) -> list[Callable[[], None]]:
        if effects is None:
            return []
        if not isinstance(effects, list | tuple):
            raise _Void(INVALID_MESSAGE)
        if len(effects) > EFFECTS_MAX:
            raise _Void(TOO_LARGE)
        steps = []
        for effect in effects:
            if not isinstance(effect, dict):
                raise _Void(INVALID_EFFECT)
            if effect.get("op") in ("set", "incr", "max", "add", "remove") and "value" not in effect:
                raise _Void(INVALID_EFFECT)
            steps.append(self._op(effect.get("op"), effect.get("path"), effect.get("value")))
        return steps

    def _op(self, op: Any, path: Any, value: Any) -> Callable[[], None]:
        """Check one operation as far as that needs no state, and give the step that does the rest."""
        if not isinstance(path, str):
            raise _Void(INVALID_EFFECT)
        name, dot, key = path.partition(".")
        known = KNOWN_KINDS.get(name)
        if not NAME.match(name) or (dot and not 1 <= len(key) <= KEY_CHARS_MAX):
            raise _Void(INVALID_EFFECT)
        _refuse(not _is_clean(key))
        if known and (known == "group") != bool(dot):
            raise _Void(INVALID_EFFECT)
        match op:
            case "set":
                _refuse(known in ("set", "counter"))
                _check_value(value)
                _refuse(path == "current_location" and not (isinstance(value, str) and 1 <= len(value) <= 255))
                return lambda: self._set(name, path, value)
            case "unset":
                _refuse(known == "set")
                return lambda: self._unset(name, path)
            case "incr" | "max":
                _refuse(known in ("set", "value"))
                amount = _read_amount(value)
                return lambda: self._count(name, path, amount, op)
            case "add" | "remove":
                _refuse(bool(dot) or known not in (None, "set"))
                _refuse(not isinstance(value, str) or not 1 <= len(value) <= MEMBER_CHARS_MAX or not _is_clean(value))
                return lambda: self._change_set(name, value, op)
        raise _Void(INVALID_EFFECT)

    # The four ways a leaf changes.

    def _set(self, name: str, path: str, value: Any) -> None:
        self._claim_leaf(name, path)
        _refuse(path in self.counters)
        self._put(self.values, path, value, f"v:{path}", len(_json_bytes(value)))

    def _unset(self, name: str, path: str) -> None:
        _refuse(path in self.sets or path in self.groups)
        _refuse(path != name and self._is_leaf_or_set(name))
        for leaves, prefix in ((self.values, "v"), (self.counters, "c")):
            if path in leaves:
                self._drop(leaves, path, f"{prefix}:{path}")

    def _count(self, name: str, path: str, amount: Decimal, op: str) -> None:
        self._claim_leaf(name, path)
        _refuse(path in self.values)
        before = self.counters.get(path, Decimal(0))
        after = before + amount if op == "incr" else max(before, amount)
        _refuse(abs(after) > COUNTER_MAX)
        self._put(self.counters, path, after, f"c:{path}", len(str(int(after / MILLIONTH))))

    def _change_set(self, name: str, member: str, op: str) -> None:
        _refuse(name in self.values or name in self.counters or name in self.groups)
        if name not in self.sets:
            self.sets[name] = set()
            self._undo.append(lambda: _forget(self.sets, name))
            self._weigh(f"s:{name}", 0)
        members = self.sets[name]
        if op == "add" and member not in members:
            members.add(member)
            self._undo.append(lambda: members.discard(member))
            self._weigh(f"m:{name}.{member}", 0)
        elif op == "remove" and member in members:
            members.discard(member)
            self._undo.append(lambda: members.add(member))
            self._weigh(f"m:{name}.{member}", None)

    def _claim_leaf(self, name: str, path: str) -> None:
        """Refuse a leaf where something else is; make its group."""
        if path == name:
            _refuse(name in self.sets or name in self.groups)
            return
        _refuse(self._is_leaf_or_set(name))
        if name not in self.groups:
            self.groups.add(name)
            self._undo.append(lambda: self.groups.discard(name))
            self._weigh(f"g:{name}", 0)

    def _is_leaf_or_set(self, name: str) -> bool:
        return name in self.values or name in self.counters or name in self.sets

    def _put(self, leaves: dict[str, Any], path: str, after: Any, field: str, stored_bytes: int) -> None:
        if path in leaves:
            before = leaves[path]
            self._undo.append(lambda: leaves.__setitem__(path, before))
        else:
            self._undo.append(lambda: _forget(leaves, path))
        leaves[path] = after
        self._weigh(field, stored_bytes)

    def _drop(self, leaves: dict[str, Any], path: str, field: str) -> None:
        before = leaves.pop(path)
        self._undo.append(lambda: leaves.__setitem__(path, before))
        self._weigh(field, None)

    def _weigh(self, field: str, stored_bytes: int | None) -> None:
        before = self._weights.get(field)

        def put_back() -> None:
            self._note_weight(field, before)

        self._undo.append(put_back)
        self._note_weight(field, None if stored_bytes is None else len(field.encode()) + stored_bytes)

    def _note_weight(self, field: str, weight: int | None) -> None:
        self._bytes += (weight or 0) - self._weights.pop(field, 0)
        if weight is not None:
            self._weights[field] = weight


def list_differences(expected: Any, actual: Any, *, at: str = "", differences_max: int = 20) -> list[str]:
    """
    Where two documents differ, as sentences; empty when they are the same.

    Numbers are compared as decimals, so 2, 2.0 and Decimal("2") are one number; true is not 1.
    """
    found: list[str] = []
    _compare(expected, actual, at, found)
    return found[:differences_max]


def parse_document(text: str | None) -> Any:
    """JSON text to a document with exact numbers."""
    return json.loads(text, parse_float=Decimal) if text is not None else None


class _Void(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _refuse(is_wrong: bool) -> None:
    if is_wrong:
        raise _Void(INVALID_EFFECT)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value)


def _read_amount(value: Any) -> Decimal:
    _refuse(not _is_number(value))
    # The shortest decimal that reads as this float is what the player meant by it.
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    _refuse(abs(exact) > COUNTER_MAX + 1)
    amount = exact.quantize(MILLIONTH, rounding=ROUND_HALF_EVEN)
    _refuse(abs(amount) > COUNTER_MAX)
    return amount


def _check_location(degrees: Any, limit: int) -> None:
    if degrees is not None and not (_is_number(degrees) and -limit <= degrees <= limit):
        raise _Void(INVALID_MESSAGE)


def _check_value(value: Any) -> None:
    _walk_value(value, depth=0)
    if len(_json_bytes(value)) > VALUE_BYTES_MAX:
        raise _Void(TOO_LARGE)


def _walk_value(value: Any, *, depth: int, code: int = INVALID_EFFECT) -> None:
    """Refuse what JSON, a reader of it, or Postgres would not take."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        is_fine = _is_clean(value)
    elif isinstance(value, int):
        is_fine = -(2**63) <= value < 2**63
    elif isinstance(value, float | Decimal):
        is_fine = math.isfinite(value)
    elif isinstance(value, list | tuple | dict):
        is_fine = depth < VALUE_DEPTH_MAX
    else:
        is_fine = False
    if not is_fine:
        raise _Void(code)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not _is_clean(key):
                raise _Void(code)
            _walk_value(item, depth=depth + 1, code=code)
    elif isinstance(value, list | tuple):
        for item in value:
            _walk_value(item, depth=depth + 1, code=code)


def _is_clean(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _forget(leaves: dict[str, Any], path: str) -> None:
    del leaves[path]


def _json_bytes(value: Any) -> bytes:
    """The value as it is stored: its length counts against the bounds."""
    return _write_json(value).encode("utf-8", "surrogatepass")


def _write_json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quote(key)}:{_write_json(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_write_json, value)) + "]"
    if isinstance(value, float) and abs(value) >= 1e16:
        # JSONB spells large numbers out; where 64 bits would take them for integers they keep a place.
        return f"{int(value)}.0" if abs(value) < 2**63 else repr(value)
    return _quote(value + 0.0 if isinstance(value, float) else value)  # + 0.0: JSONB has no negative zero


def _quote(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=float)


def _compare(expected: Any, actual: Any, at: str, found: list[str]) -> None:
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in sorted(expected.keys() | actual.keys()):
            below = f"{at}.{key}" if at else key
            if key not in actual:
                found.append(f"{below} is missing, should be {_shown(expected[key])}")
            elif key not in expected:
                found.append(f"{below} should not be there, is {_shown(actual[key])}")
            else:
                _compare(expected[key], actual[key], below, found)
        return
    if isinstance(expected, list | tuple) and isinstance(actual, list | tuple) and len(expected) == len(actual):
        for index, (left, right) in enumerate(zip(expected, actual, strict=True)):
            _compare(left, right, f"{at}[{index}]", found)
        return
    if not _is_same_leaf(expected, actual):
        found.append(f"{at or 'it'} should be {_shown(expected)}, is {_shown(actual)}")


def _is_same_leaf(expected: Any, actual: Any) -> bool:
    if _is_number(expected) and _is_number(actual):
        return _exact(expected) == _exact(actual)
    return type(expected) is type(actual) and bool(expected == actual)


def _exact(number: int | float | Decimal) -> Decimal:
    return Decimal(repr(number)) if isinstance(number, float) else Decimal(number)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=True)
    return text if len(text) <= 120 else f"{text[:117]}..."
