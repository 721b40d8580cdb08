"""
The state of a progress, as flat fields: what each op does to them, how large they may grow, and how they become one
JSON document and come back.

A state is a two-level document: a top-level name is a value, a counter, a set or a group; a group holds values and
counters. It is kept as fields whose prefix says what they are, so that every conflict is found with a lookup:

    v:<path>           canonical JSON of a value
    c:<path>           a counter in whole millionths, as decimal text
    m:<name>.<member>  a member of a set, empty
    s:<name>           the mark of a set, empty: it is there as long as the set is, even without members
    g:<name>           the mark of a group, empty: likewise

A path is a top-level name, or name and key joined by the first dot.

Promise: `apply_ops` is the reference for what the store's script does, all or nothing. `split_state(*join_state(f))` is
`f`, also through JSONB.

Not here: what a client may ask for (effects.py, events.py), and where fields are stored.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

from protocol.errors import ErrorCode, VoidUpdate
from protocol.events import Op
from protocol.limits import (
    KEY_CHARS_MAX,
    MILLIONTHS_MAX,
    NAME_CHARS_MAX,
    SET_MEMBER_CHARS_MAX,
    STATE_BYTES_MAX,
    STATE_FIELDS_MAX,
)
from protocol.values import (
    ValueRefused,
    canonical_json,
    decimal_to_millionths,
    is_clean_text,
    millionths_number,
    millionths_text,
    parse_json,
    quoted,
)

Kind = Literal["value", "counter", "set", "group"]

KNOWN_KINDS: Final[dict[str, Kind]] = {
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
"""Names whose kind is fixed before their first use."""

NAME_PATTERN: Final = re.compile(rf"[a-z][a-z0-9_]{{0,{NAME_CHARS_MAX - 1}}}")


def apply_ops(fields: MutableMapping[str, str | bytes], ops: Iterable[Op]) -> None:
    """
    Do every op, in order, or none of them.

    Raises:
        VoidUpdate: 106 when a path is of another kind or a counter would leave its bounds; 105 when the state would
            grow past its bounds. `fields` is unchanged then.
    """
    step = _Step(fields)
    for op in ops:
        step.apply(op)
    count, size = state_size(fields)
    new_count, new_size = step.size_after(count, size)
    # A state that is past a bound (the bound was lowered) may still shrink.
    if new_count > STATE_FIELDS_MAX and new_count > count:
        raise VoidUpdate(ErrorCode.TOO_LARGE, "the state would have more than 4,000 fields")
    if new_size > STATE_BYTES_MAX and new_size > size:
        raise VoidUpdate(ErrorCode.TOO_LARGE, "the state would be larger than 64 KiB")
    step.commit()


def replay_ops(fields: MutableMapping[str, str | bytes], ops: Iterable[Op]) -> None:
    """
    Do ops that were accepted once, without asking again how large the state becomes: a bound may have been another
    then, and a long history is replayed quicker.

    Raises:
        VoidUpdate: 106, as `apply_ops`; `fields` is unchanged then.
    """
    step = _Step(fields)
    for op in ops:
        step.apply(op)
    step.commit()


def state_size(fields: Mapping[str, str | bytes]) -> tuple[int, int]:
    """(fields, bytes), marks included; bytes are those of each name in UTF-8 and of what is stored under it."""
    return len(fields), sum(_field_bytes(name, stored) for name, stored in fields.items())


def document(fields: Mapping[str, str | bytes]) -> dict[str, Any]:
    """The state as a player sees it: sets are sorted arrays, counters are numbers."""
    shown: dict[str, Any] = {}
    for name, content in sorted(_gather(fields).items()):
        kind, held = content
        match kind:
            case "value":
                shown[name] = parse_json(held)
            case "counter":
                shown[name] = millionths_number(int(held))
            case "set":
                shown[name] = held
            case "group":
                shown[name] = {
                    key: parse_json(leaf) if leaf_kind == "value" else millionths_number(int(leaf))
                    for key, (leaf_kind, leaf) in sorted(held.items())
                }
    return shown


def join_state(fields: Mapping[str, str | bytes]) -> tuple[str, str]:
    """
    The state as (state_json, kinds_json) for the cold store.

    JSON alone cannot tell a set from a value that happens to be an array. `kinds` holds only what the default reading
    (array: set, object: group, number: counter, else value) would get wrong, so it is usually `{}`.

    Raises:
        ValueError: no op could have made this.
    """
    if any(name[1:2] != ":" for name in fields):
        raise ValueRefused("a field that is no part of a state")
    return join_stored(as_stored(fields))


def as_stored(fields: Mapping[str, str | bytes]) -> dict[bytes, bytes]:
    """Fields as the hot store keeps them: everything in UTF-8."""
    return {name.encode(): held.encode() if isinstance(held, str) else held for name, held in fields.items()}


def join_stored(stored: Mapping[bytes, bytes]) -> tuple[str, str]:
    """
    `join_state` of a hash as the hot store keeps it, in UTF-8: a name whose second letter is no colon is no part of the
    state. A flush does this for each state it writes, and a state is mostly members: they stay bytes and are not looked
    at one by one.

    Raises:
        ValueError: no op could have made this.
    """
    kinds: dict[str, str] = {}
    texts: dict[str, str] = {}
    groups: dict[str, dict[str, str]] = {}
    fields = sorted(stored)
    at, end = bisect_left(fields, b"m:"), bisect_left(fields, b"m;")
    for field in fields[:at] + fields[end:]:
        prefix = field[:2]
        if prefix == b"v:" or prefix == b"c:":
            path = field[2:].decode()
            text = stored[field].decode() if prefix == b"v:" else millionths_text(int(stored[field]))
            name, dot, key = path.partition(".")
            if dot:
                groups.setdefault(name, {})[key] = text
                if prefix == b"v:" and text[0] in _READ_AS_COUNTER:
                    kinds[path] = "v"
            else:
                texts[name] = text
                if prefix == b"v:" and text[0] in _READ_AS_OTHER_KIND:
                    kinds[name] = "v"
        elif prefix == b"s:":
            texts[field[2:].decode()] = "[]"
        elif prefix == b"g:":
            groups.setdefault(field[2:].decode(), {})
        elif field[1:2] == b":":
            raise ValueRefused("a field that is no part of a state")
    for name, leaves in groups.items():
        texts[name] = "{" + ",".join([f"{quoted(key)}:{leaves[key]}" for key in sorted(leaves)]) + "}"
    while at < end:
        dot_at = fields[at].find(b".")
        if dot_at < 0:
            raise ValueRefused("a member that is in no set")
        # "/" comes right after ".": everything before it starts as the first one does.
        prefix = fields[at][: dot_at + 1]
        stop = bisect_left(fields, prefix[:-1] + b"/", at, end)
        texts[prefix[2:-1].decode()] = _members_json(fields[at:stop], prefix)
        at = stop
    return "{" + ",".join([f"{quoted(name)}:{texts[name]}" for name in sorted(texts)]) + "}", (
        _canonical_text(kinds) if kinds else "{}"
    )


def split_state(state_json: str, kinds_json: str = "{}") -> dict[str, bytes]:
    """
    The fields of a state that the cold store kept.

    Raises:
        ValueRefused: the document was not written by `join_state` and cannot be a state.
    """
    # Counters are read from their digits: a float would lose the last place of the largest ones.
    state = _load(state_json)
    kinds = _load(kinds_json)
    fields: dict[str, bytes] = {}
    for name, held in state.items():
        if not NAME_PATTERN.fullmatch(name):
            raise ValueRefused("a top-level name that no op could have made")
        kind = _kind_of(name, held, kinds.get(name))
        match kind:
            case "value":
                fields[f"v:{name}"] = canonical_json(_without_decimals(held))
            case "counter":
                fields[f"c:{name}"] = _counter_bytes(held)
            case "set":
                fields[f"s:{name}"] = b""
                for member in held:
                    fields[f"m:{name}.{member}"] = b""
            case "group":
                fields[f"g:{name}"] = b""
                for key, leaf in held.items():
                    if not 1 <= len(key) <= KEY_CHARS_MAX or not is_clean_text(key):
                        raise ValueRefused("a key that no op could have made")
                    path = f"{name}.{key}"
                    if kinds.get(path) != "v" and _is_number(leaf):
                        fields[f"c:{path}"] = _counter_bytes(leaf)
                    else:
                        fields[f"v:{path}"] = canonical_json(_without_decimals(leaf))
    return fields


# ── one step ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Step:
    """Ops done beside the fields, so that a later op sees what an earlier one did and nothing is done by halves."""

    def __init__(self, fields: MutableMapping[str, str | bytes]) -> None:
        self._fields = fields
        self._changes: dict[str, bytes | None] = {}

    def apply(self, op: Op) -> None:
        verb, path, name, arg = op[:4]
        match verb:
            case "set":
                self._refuse_other_kinds(path, name, "c")
                self._changes[f"v:{path}"] = arg
                self._mark_group(path, name)
            case "unset":
                self._refuse_other_kinds(path, name, "")
                for field in (f"v:{path}", f"c:{path}"):
                    if self._find(field) is not None:
                        self._changes[field] = None
            case "incr" | "max":
                self._refuse_other_kinds(path, name, "v")
                before = int(self._find(f"c:{path}") or b"0")
                after = before + arg if verb == "incr" else max(before, arg)
                if not -MILLIONTHS_MAX <= after <= MILLIONTHS_MAX:
                    raise VoidUpdate(ErrorCode.INVALID_EFFECT, "a counter would leave its bounds")
                self._changes[f"c:{path}"] = b"%d" % after
                self._mark_group(path, name)
            case "add" | "remove":
                self._refuse_not_a_set(name)
                self._changes[f"s:{name}"] = b""
                if verb == "add":
                    self._changes[f"m:{name}.{arg}"] = b""
                elif self._find(f"m:{name}.{arg}") is not None:
                    self._changes[f"m:{name}.{arg}"] = None
            case "add_unless":
                if self._find(f"m:{op[4]}.{arg}") is None:
                    self.apply(("add", path, name, arg))
            case _:
                raise AssertionError(f"no such op: {verb}")

    def size_after(self, count: int, size: int) -> tuple[int, int]:
        for field, stored in self._changes.items():
            old = self._fields.get(field)
            if old is not None:
                count -= 1
                size -= _field_bytes(field, old)
            if stored is not None:
                count += 1
                size += _field_bytes(field, stored)
        return count, size

    def commit(self) -> None:
        for field, stored in self._changes.items():
            if stored is None:
                self._fields.pop(field, None)
            else:
                self._fields[field] = stored

    def _find(self, field: str) -> str | bytes | None:
        return self._changes[field] if field in self._changes else self._fields.get(field)

    def _refuse_other_kinds(self, path: str, name: str, other_leaf: str) -> None:
        """A leaf op: its path must not be of `other_leaf`, and nothing on its way of a kind that cannot hold it."""
        refused = [f"s:{name}"]
        if path == name:
            refused.append(f"g:{name}")
        else:
            refused += (f"v:{name}", f"c:{name}")
        if other_leaf:
            refused.append(f"{other_leaf}:{path}")
        if any(self._find(field) is not None for field in refused):
            raise VoidUpdate(ErrorCode.INVALID_EFFECT, "a path is of another kind")

    def _refuse_not_a_set(self, name: str) -> None:
        if any(self._find(f"{prefix}:{name}") is not None for prefix in "vcg"):
            raise VoidUpdate(ErrorCode.INVALID_EFFECT, "a path is of another kind")

    def _mark_group(self, path: str, name: str) -> None:
        if path != name:
            self._changes[f"g:{name}"] = b""


# ── reading and writing ─────────────────────────────────────────────────────────────────────────────────────────────

_READ_AS_COUNTER: Final = frozenset("-0123456789")
_READ_AS_OTHER_KIND: Final = _READ_AS_COUNTER | {"[", "{"}


def _gather(fields: Mapping[str, str | bytes]) -> dict[str, tuple[Kind, Any]]:
    """
    Top-level name → (kind, what it holds): text of a value or counter, sorted members, or the leaves of a group.

    Members are most of a state and every flush reads all of them: sorted once, each set is one slice.
    """
    gathered: dict[str, tuple[Kind, Any]] = {}
    names = sorted(fields)
    at, end = bisect_left(names, "m:"), bisect_left(names, "m;")
    others = names[:at] + names[end:]
    while at < end:
        name, stop = _end_of_set(names, at, end)
        member_at = len(name) + 3
        gathered[name] = ("set", [member[member_at:] for member in names[at:stop]])
        at = stop
    for field in others:
        prefix, path = field[:2], field[2:]
        if prefix == "v:" or prefix == "c:":
            kind: Kind = "value" if prefix == "v:" else "counter"
            name, dotted, key = path.partition(".")
            if dotted:
                gathered.setdefault(name, ("group", {}))[1][key] = (kind, fields[field])
            else:
                gathered[name] = (kind, fields[field])
        elif prefix == "s:":
            gathered.setdefault(path, ("set", []))
        elif prefix == "g:":
            gathered.setdefault(path, ("group", {}))
        else:
            raise ValueRefused("a field that is no part of a state")
    return gathered


def _end_of_set(names: Sequence[str], at: int, end: int) -> tuple[str, int]:
    """The set whose members begin at `at` among sorted field names, and where they end."""
    first = names[at]
    dot = first.find(".")
    if dot < 0:
        raise ValueRefused("a member that is in no set")
    # "/" comes right after ".": everything before it starts as the first one does.
    return first[2:dot], bisect_left(names, first[:dot] + "/", at, end)


# What `quoted` writes in another way.
_ESCAPED: Final = bytes(range(32)) + b'"\\'


def _members_json(members: Sequence[bytes], prefix: bytes) -> str:
    """
    Sorted fields that start with `prefix`, as a JSON array of what follows it: all at once where nothing is to be
    escaped, which is seen by what else there is than the quotes in between.
    """
    cut = len(prefix)
    joined = b'","'.join(members)
    if len(joined) - len(joined.translate(None, _ESCAPED)) == 2 * len(members) - 2:
        return '["' + joined[cut:].replace(b'","' + prefix, b'","').decode() + '"]'
    return "[" + ",".join([quoted(member[cut:].decode()) for member in members]) + "]"


def _kind_of(name: str, held: Any, said: object) -> Kind:
    """The kind of a top-level name: as said, else by the default reading; a known name has no choice."""
    kind: Kind
    if said is not None:
        spelled = _KINDS_BY_LETTER.get(said) if isinstance(said, str) else None
        if spelled is None:
            raise ValueRefused("a kind that is none")
        kind = spelled
    elif type(held) is list:
        kind = "set"
    elif type(held) is dict:
        kind = "group"
    else:
        kind = "counter" if _is_number(held) else "value"
    if kind == "set" and not _is_member_list(held):
        raise ValueRefused("a set that is not an array of distinct short texts")
    if kind == "group" and type(held) is not dict:
        raise ValueRefused("a group that is not an object")
    if kind == "counter" and not _is_number(held):
        raise ValueRefused("a counter that is not a number")
    if KNOWN_KINDS.get(name, kind) != kind:
        raise ValueRefused("a known name of another kind")
    return kind


_KINDS_BY_LETTER: Final[dict[str, Kind]] = {"v": "value", "c": "counter", "s": "set", "g": "group"}


def _is_number(held: object) -> bool:
    return type(held) is int or type(held) is Decimal


def _is_member_list(held: Any) -> bool:
    return (
        type(held) is list
        and all(type(one) is str and 1 <= len(one) <= SET_MEMBER_CHARS_MAX and is_clean_text(one) for one in held)
        and len(set(held)) == len(held)
    )


def _counter_bytes(held: int | Decimal) -> bytes:
    number = Decimal(held)
    millionths = decimal_to_millionths(number)
    if number.scaleb(6) != millionths:
        raise ValueRefused("a counter with more than 6 places")
    return b"%d" % millionths


def _load(text: str) -> dict[str, Any]:
    try:
        loaded = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as refused:
        raise ValueRefused(f"not a JSON object: {type(refused).__name__}") from None
    if type(loaded) is not dict:
        raise ValueRefused("not a JSON object")
    return loaded


def _without_decimals(held: Any) -> Any:
    """What `_load` read, with numbers as `parse_json` would have read them."""
    kind = type(held)
    if kind is Decimal:
        return float(held)
    if kind is int:
        if -(2**63) <= held < 2**63:
            return held
        try:
            return float(held)
        except OverflowError:
            raise ValueRefused("a number that is beyond every float") from None
    if kind is list:
        return [_without_decimals(item) for item in held]
    if kind is dict:
        return {key: _without_decimals(item) for key, item in held.items()}
    return held


def _field_bytes(field: str, stored: str | bytes) -> int:
    return len(field.encode()) + len(stored if isinstance(stored, bytes) else stored.encode())


def _canonical_text(value: object) -> str:
    return canonical_json(value).decode()
