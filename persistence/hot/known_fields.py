"""
What a connection knows of the fields that its updates write, so that most updates need no look at them.

A gateway holds a player's session, and nearly always nobody else writes to that progress. So what its last updates left
in the fields that they touched is still there, as long as the version is still the one they made. `foresee` says what
the fields will hold after the next updates, and the script only compares the version and writes that: no value is read
and no operation done in Lua. Members of sets are not known, there may be many: the script looks whether one is there.

Promise: what is foreseen is what `lua/parts/apply_ops.lua` would do, or nothing is. It speaks only of fields that are
there, of the kind that the operation wants, of counters within their bounds and of sets that exist, and of updates that
follow each other; whatever else there is (a void update, a repeat, a field that was never touched) goes the way through
the operations, and is known afterwards. The script refuses what was foreseen behind another version, or past a bound,
and changes nothing: the updates then go through the operations, too.

Why the version is enough: the newest entry that is known is always an update of this very stream. A store that has
forgotten it knows a lower seq than this connection was told, which the script looks at first. So nothing may be known
that was not told: whoever gets no answer forgets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from protocol.limits import COUNTER_MAX, COUNTER_SCALE

FIELDS_MAX = 32
"""Of one connection. Past it all is forgotten: a player touches few fields again and again, or none."""

UPDATES_MAX = 8
"""Nothing is learned from more at once: that is a backlog, and what it touched is not what comes next."""

# Names of fields by what they are the fields of: text that is there knows its hash, and connections share it. They
# begin anew when they are full.
_NAMES_MAX = 4096
_value_fields: dict[str, str] = {}
_counter_fields: dict[str, str] = {}
_mark_fields: dict[str, str] = {}

_MILLIONTHS_MAX = COUNTER_MAX * COUNTER_SCALE
# A named tuple's own __new__ is Python.
_new_tuple = tuple.__new__


class Foreseen(NamedTuple):
    """
    `items` are what the script takes, the names of so many `members` first. Once it has, `writes` belong into `fields`,
    and its answer is the `version`.
    """

    members: int
    items: list[Any]
    writes: dict[str, bytes | str]


class KnownFields:
    """Of one connection and one copy. `version` is the entry that `fields` are exact behind; -1: nothing is known."""

    __slots__ = ("fields", "version")

    def __init__(self) -> None:
        self.version = -1
        self.fields: dict[str, bytes | str] = {}

    def forget(self) -> None:
        self.version = -1
        self.fields.clear()

    def foresee(self, updates: Sequence[tuple[Any, ...]]) -> Foreseen | None:
        """What these updates (`HotUpdate`), at least one, leave behind `version`; None when that is not known."""
        known = self.fields
        writes: dict[str, bytes | str] = {}
        members: dict[str, None] = {}  # in order
        entries: list[str | bytes] = []
        # In bytes of state: at the end, and at the highest point between two updates.
        growth = growth_max = 0
        following = first = updates[0][0]
        try:
            for seq, entry_id, body, ops, void in updates:
                if void is not None or seq != following:
                    return None
                following += 1
                for verb, path, name, value in ops:
                    if verb == "set":
                        field = _value_fields.get(path) or _name_field(_value_fields, "v:", path)
                        old = writes[field] if field in writes else known[field]
                    elif verb == "add":
                        if (_mark_fields.get(name) or _name_field(_mark_fields, "s:", name)) not in known:
                            return None
                        members[f"m:{name}.{value}"] = None
                        continue
                    elif verb == "incr":
                        field = _counter_fields.get(path) or _name_field(_counter_fields, "c:", path)
                        old = writes[field] if field in writes else known[field]
                        value += int(old)
                        if not -_MILLIONTHS_MAX <= value <= _MILLIONTHS_MAX:
                            return None
                        value = str(value)
                    else:
                        return None
                    growth += len(value) - len(old)
                    writes[field] = value
                if growth > growth_max:
                    growth_max = growth
                entries += (entry_id, body)
        except (KeyError, ValueError):
            return None  # a field that it does not know, or an operation with more to it than these four
        items: list[Any] = [*members, self.version, first, growth, growth_max, 2 * len(writes)]
        for write in writes.items():
            items += write
        items += entries
        return _new_tuple(Foreseen, (len(members), items, writes))

    def learn(self, updates: Sequence[tuple[Any, ...]], counters: Mapping[str, bytes], version: int) -> None:
        """
        These updates were done, the newest of them as this version, and none of them is void. `counters` are what those
        that they touched hold now.
        """
        if self.version + len(updates) != version:
            # Somebody else wrote, too, or nothing was known.
            self.fields.clear()
        fields = self.fields
        for _, _, _, ops, _ in updates:
            for op in ops:
                verb = op[0]
                if verb == "set":
                    fields[_value_fields.get(op[1]) or _name_field(_value_fields, "v:", op[1])] = op[3]
                elif verb == "add":
                    fields[_mark_fields.get(op[2]) or _name_field(_mark_fields, "s:", op[2])] = b""
                elif verb == "unset":
                    fields.pop("v:" + op[1], None)
                    fields.pop("c:" + op[1], None)
        for name, value in counters.items():
            if value:
                fields[name] = value
        self.version = version
        if len(fields) > FIELDS_MAX:
            self.forget()


def _name_field(names: dict[str, str], kind: str, path: str) -> str:
    if len(names) >= _NAMES_MAX:
        names.clear()
    field = names[path] = kind + path
    return field
