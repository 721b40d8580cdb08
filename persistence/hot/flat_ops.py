"""
How operations travel to `apply_updates.lua`: every field that they may touch is named once for each group, and an
operation refers to fields by their place in that list. So the script reads a hash once, and puts no names together.

An operation is [verb, argument, places…]; a place counts from 1, as in Lua, and 0 is a field that cannot exist because
the kind of a known name is fixed before its first use:

    set, unset, incr, max   leaf, the leaf as the other kind, group, and three other things that the name could be
    add, remove             member, set, and value, counter, group of the same name
    add_unless              the same, and the member of the other set
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from protocol.state import KNOWN_KINDS

SET, UNSET, INCR, MAX, ADD, REMOVE, ADD_UNLESS = 1, 2, 3, 4, 5, 6, 7

_VERBS = {"set": SET, "unset": UNSET, "incr": INCR, "max": MAX, "add": ADD, "remove": REMOVE, "add_unless": ADD_UNLESS}

_NONE = ""


class FieldList:
    """The fields of one group, each named once. The first ten are those that every group compares."""

    __slots__ = ("names", "places")

    def __init__(self, device: str) -> None:
        self.names = [*_FIRST_FIELDS, f"accepted:{device}", f"saved:{device}"]
        self.places: dict[str, int] = {_NONE: 0}

    def refer(self, ops: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
        """Operations as `protocol.effects` makes them, with places instead of names."""
        referred = []
        for op in ops:
            verb, path, name, argument = op[:4]
            number = _VERBS[verb]
            if number >= ADD:
                member = f"m:{name}.{argument}"
                places = [number, 0, self._place(member)]
                for field in _set_fields(name):
                    places.append(self._place(field))
                if number == ADD_UNLESS:
                    places.append(self._place(f"m:{op[4]}.{argument}"))
            else:
                places = [number, argument]
                for field in _leaf_fields(number in (SET, UNSET), path, name):
                    places.append(self._place(field))
            referred.append(places)
        return referred

    def _place(self, field: str) -> int:
        place = self.places.get(field)
        if place is None:
            self.names.append(field)
            self.places[field] = place = len(self.names)
        return place


_FIRST_FIELDS = (
    "copy",
    "version",
    "base_version",
    "offset",
    "base_offset",
    "state_fields",
    "state_bytes",
    "quarantine",
)


@lru_cache(maxsize=4096)
def _set_fields(name: str) -> tuple[str, ...]:
    if KNOWN_KINDS.get(name) == "set":
        return (f"s:{name}", _NONE, _NONE, _NONE)
    return (f"s:{name}", f"v:{name}", f"c:{name}", f"g:{name}")


@lru_cache(maxsize=16_384)
def _leaf_fields(is_value: bool, path: str, name: str) -> tuple[str, ...]:
    """The leaf, the leaf as the other kind, its group, and what else its name could be."""
    kind, other_kind = ("v", "c") if is_value else ("c", "v")
    leaf, other = f"{kind}:{path}", f"{other_kind}:{path}"
    known = KNOWN_KINDS.get(name)
    if path != name:
        others = (_NONE,) * 3 if known == "group" else (f"v:{name}", f"c:{name}", f"s:{name}")
        return (leaf, other, f"g:{name}", *others)
    if known is not None:
        # `unset` asks without knowing: of a known name it can only be the one kind.
        return (f"{'c' if known == 'counter' else 'v'}:{path}", _NONE, _NONE, _NONE, _NONE, _NONE)
    return (leaf, other, _NONE, f"s:{name}", f"g:{name}", _NONE)
