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

    __slots__ = ("_places", "names")

    def __init__(self) -> None:
        self.names: list[str] = []
        self._places: dict[str, int] = {}

    def refer(self, ops: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Operations as `protocol.effects` makes them, with places instead of names."""
        items: list[Any] = []
        place = self._place
        for op in ops:
            verb, path, name, argument = op[:4]
            number = _VERBS[verb]
            if number >= ADD:
                items += (number, place(f"m:{name}.{argument}"), place(f"s:{name}"))
                if number == ADD_UNLESS:
                    items.append(place(f"m:{op[4]}.{argument}"))
            elif number == UNSET:
                items += (number, place(f"v:{path}"), place(f"c:{path}"))
            else:
                items += (number, place(f"v:{path}" if number == SET else f"c:{path}"), argument)
        return items

    def _place(self, field: str) -> int:
        place = self._places.get(field)
        if place is None:
            self.names.append(field)
            self._places[field] = place = len(self.names) + FIRST_PLACE - 1
        return place
