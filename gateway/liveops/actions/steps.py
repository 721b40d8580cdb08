"""
Actions on a progress as effects, and what takes them back. Pure.

The inverse of an action is computed from what the script found in the instant in which it applied it, and comes with
what the state must hold for the inverse to mean anything: an undo that comes after the player has changed the same
thing is refused by the same script, whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.liveops.actions.catalogue import flag_effect
from protocol.values import canonical_json, millionths_number, parse_json, to_millionths


class CannotUndo(Exception):
    """Why it cannot be taken back."""


@dataclass(slots=True)
class Inverse:
    effects: list[dict[str, Any]] = field(default_factory=list)
    expects: dict[str, str | None] = field(default_factory=dict)


def effects_of_payload(action: str, payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an action on a progress does to the state. The payload was checked."""
    match action:
        case "grant_item":
            return [{"op": "add", "path": "inventory", "value": payload["item"]}]
        case "take_item":
            return [{"op": "remove", "path": "inventory", "value": payload["item"]}]
        case "set_flag":
            return [flag_effect(payload)]
        case "move":
            return [{"op": "set", "path": "current_location", "value": payload["location"]}]
        case _:
            effects: list[dict[str, Any]] = payload["effects"]
            return effects


def invert(effects: Sequence[Mapping[str, Any]], before: Mapping[str, str | None]) -> Inverse:
    """
    What takes `effects` back, that found `before` (fields of the hot copy by name; None: absent).

    Raises:
        CannotUndo: it changed nothing, or cannot be put back by effects.
    """
    inverse = Inverse()
    leaves: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for effect in effects:
        if effect["op"] in ("add", "remove"):
            leaves.setdefault((effect["path"], effect["value"]), []).append(effect)
        else:
            leaves.setdefault((effect["path"], ""), []).append(effect)
    # The last thing that was done is taken back first.
    for (path, member), done in reversed(leaves.items()):
        if done[0]["op"] in ("add", "remove"):
            _put_back_member(inverse, path, member, done[-1]["op"] == "add", before)
        elif all(effect["op"] == "incr" for effect in done):
            total = sum(to_millionths(effect["value"]) for effect in done)
            if total:
                inverse.effects.append({"op": "incr", "path": path, "value": millionths_number(-total)})
        elif len(done) > 1:
            raise CannotUndo(f"it changed {path} more than once, in ways that cannot be told apart")
        else:
            _put_back_leaf(inverse, path, done[0], before)
    if not inverse.effects:
        raise CannotUndo("it changed nothing: what it asked for was so already")
    return inverse


def _put_back_member(
    inverse: Inverse, path: str, member: str, is_added: bool, before: Mapping[str, str | None]
) -> None:
    name = f"m:{path}.{member}"
    was_there = _held(before, name) is not None
    if is_added is was_there:
        return
    inverse.expects[name] = "" if is_added else None
    inverse.effects.append({"op": "remove" if is_added else "add", "path": path, "value": member})


def _put_back_leaf(inverse: Inverse, path: str, effect: Mapping[str, Any], before: Mapping[str, str | None]) -> None:
    value, counter = f"v:{path}", f"c:{path}"
    match effect["op"]:
        case "set":
            held, now = _held(before, value), canonical_json(effect["value"]).decode()
            if held == now:
                return
            inverse.expects[value] = now
            inverse.effects.append(_set_or_unset(path, held))
        case "unset":
            held, count = _held(before, value), _held(before, counter)
            if held is None and count is None:
                return
            inverse.expects |= {value: None, counter: None}
            if held is not None:
                inverse.effects.append(_set_or_unset(path, held))
            else:
                assert count is not None
                inverse.effects.append({"op": "incr", "path": path, "value": millionths_number(int(count))})
        case _:  # max
            count, raised = _held(before, counter), to_millionths(effect["value"])
            if count is None:
                inverse.expects[counter] = str(raised)
                inverse.effects.append({"op": "unset", "path": path})
            elif int(count) < raised:
                # What was counted since stays counted.
                inverse.effects.append({"op": "incr", "path": path, "value": millionths_number(int(count) - raised)})


def _held(before: Mapping[str, str | None], name: str) -> str | None:
    if name not in before:
        raise CannotUndo("what was there before is not known")
    return before[name]


def _set_or_unset(path: str, held: str | None) -> dict[str, Any]:
    if held is None:
        return {"op": "unset", "path": path}
    return {"op": "set", "path": path, "value": parse_json(held)}
