"""
How operations travel to `lua/parts/apply_ops.lua`: every field that they touch is named once for each group, and an
operation refers to fields by their place in that list, so that the script reads a hash once.

An operation is a few items of a flat list:

    SET, INCR, MAX     verb, place of the leaf, argument
    UNSET              verb, place of the leaf as a value, place of the leaf as a counter
    ADD, REMOVE        verb, place of the member, place of the set's mark
    ADD_UNLESS         the same, and the place of the member of the other set
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SET, UNSET, INCR, MAX, ADD, REMOVE, ADD_UNLESS = 1, 2, 3, 4, 5, 6, 7

FIRST_PLACE = 5
"""Before it come holder, head, accepted and saved."""

_VERBS = {"set": SET, "unset": UNSET, "incr": INCR, "max": MAX, "add": ADD, "remove": REMOVE, "add_unless": ADD_UNLESS}


class FieldList:
    """The fields that the operations of one group touch, each named once, in the order of their places."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        return list(self._places)

    def refer(self, ops: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Operations as `protocol.effects` makes them, with places instead of names."""
        items: list[Any] = []
        add_ops(ops, self._places, items)
        return items


def add_ops(ops: Iterable[tuple[Any, ...]], places: dict[str, int], items: list[Any]) -> None:
    """Adds operations to `items`, and the fields that they touch to `places` (name → place)."""
    place = places.setdefault
    following = len(places) + FIRST_PLACE  # the place of a field that is new
    for op in ops:
        number = _VERBS[op[0]]
        if number >= ADD:
            at = place(f"m:{op[2]}.{op[3]}", following)
            mark = place("s:" + op[2], len(places) + FIRST_PLACE)
            items += (number, at, mark)
            if number == ADD_UNLESS:
                items.append(place(f"m:{op[4]}.{op[3]}", len(places) + FIRST_PLACE))
        elif number == UNSET:
            at = place("v:" + op[1], following)
            items += (number, at, place("c:" + op[1], len(places) + FIRST_PLACE))
        else:
            items += (number, place(("v:" if number == SET else "c:") + op[1], following), op[3])
        following = len(places) + FIRST_PLACE
