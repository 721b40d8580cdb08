"""
Effects: what an update asks for, compiled to flat ops on the fields of a state.

Promise: `compile_update` gives ops or raises VoidUpdate, nothing else, whatever a client put into `event` and
`effects`. Ops come in order: first those the event implies, then the effects. Everything that can be known without the
state is refused here (bad ops, paths and values, known names used as another kind); what depends on the state is found
where the ops are applied (state.py, and the store's script).

Not here: the envelope of an update (frames.py), when it happened (the gateway bounds `at`), and what an op does.
"""

from typing import Final, NamedTuple

from protocol.errors import ErrorCode, VoidUpdate
from protocol.events import KNOWN_EVENTS, Event, Op, read_event
from protocol.limits import (
    CONTENT_ID_CHARS_MAX,
    COUNTER_MAX,
    COUNTER_SCALE,
    EFFECTS_MAX,
    INTEGER_MAX,
    INTEGER_MIN,
    KEY_CHARS_MAX,
    NAME_CHARS_MAX,
    SET_MEMBER_CHARS_MAX,
    UPDATE_BYTES_MAX,
    UPDATE_ITEMS_MAX,
    VALUE_BYTES_MAX,
)
from protocol.state import KNOWN_KINDS, NAME_PATTERN
from protocol.values import ValueRefused, ValueTooLarge, canonical_text, is_clean_text, quoted, to_millionths

__all__ = ["OPS", "CompiledUpdate", "Op", "VoidUpdate", "compile_update"]


class CompiledUpdate(NamedTuple):
    """`effects_json` is canonical JSON of the effects as given, without unknown fields; empty when there were none."""

    event: Event | None
    effects_json: bytes
    ops: list[Op]

    @property
    def event_type(self) -> str | None:
        return self.event.type if self.event is not None else None

    @property
    def content_id(self) -> str | None:
        return self.event.content_id if self.event is not None else None

    @property
    def data_json(self) -> bytes:
        return self.event.data_json if self.event is not None else b"{}"

    @property
    def at_ms(self) -> int | None:
        return self.event.at_ms if self.event is not None else None

    @property
    def lat(self) -> float | None:
        return self.event.lat if self.event is not None else None

    @property
    def lng(self) -> float | None:
        return self.event.lng if self.event is not None else None


# A named tuple's own __new__ is Python, and costs three times as much.
_new_tuple = tuple.__new__


def compile_update(event: object, effects: object) -> CompiledUpdate:
    """
    What an update does, ready to be applied.

    Raises:
        VoidUpdate: 102 when the event or the list of effects is not one, or both are missing; 105 when something is
            past its bound; 106 when an effect cannot be done.
    """
    items_left = [UPDATE_ITEMS_MAX]
    if event is None:
        if effects is None or effects == []:
            raise VoidUpdate(ErrorCode.INVALID_MESSAGE, "an update needs an event or effects")
        happened = None
        ops: list[Op] = []
        size = 0
    else:
        happened = read_event(event, items_left)
        known = KNOWN_EVENTS.get(happened.type)
        ops = [] if known is None else known.imply(happened)
        size = len(happened.data_json)
    if effects is None or effects == []:
        effects_json = b""
    else:
        effects_json = _compile_effects(effects, ops, items_left)
    if len(effects_json) + size > UPDATE_BYTES_MAX:
        raise VoidUpdate(ErrorCode.TOO_LARGE, "the update is larger than 32 KiB as JSON")
    return _new_tuple(CompiledUpdate, (happened, effects_json, ops))


def _compile_effects(effects: object, ops: list[Op], items_left: list[int]) -> bytes:
    """Adds the ops, returns the effects as canonical JSON."""
    if type(effects) is not list:
        raise VoidUpdate(ErrorCode.INVALID_MESSAGE, "effects: must be an array")
    if len(effects) > EFFECTS_MAX:
        raise VoidUpdate(ErrorCode.TOO_LARGE, "effects: at most 16 in one update")
    written: list[str] = []
    try:
        for effect in effects:
            try:
                verb, path, name, wanted, opening = _targets[effect["op"], effect["path"]]
            except (KeyError, TypeError):
                verb, path, name, wanted, opening = _find_target(effect)
            if wanted is _COUNTER:
                value = effect.get("value")
                if type(value) is int and -COUNTER_MAX <= value <= COUNTER_MAX:
                    ops.append((verb, path, name, value * COUNTER_SCALE))
                    text = int.__repr__(value)
                else:
                    ops.append((verb, path, name, to_millionths(value)))
                    text = canonical_text(value)
            elif wanted is _VALUE:
                value = effect.get("value", _MISSING)
                if value is _MISSING:
                    raise ValueRefused("value: set needs one")
                if type(value) is int and INTEGER_MIN <= value <= INTEGER_MAX:
                    text = int.__repr__(value)
                    value_json = text.encode()
                else:
                    text = canonical_text(value, items_left)
                    value_json = text.encode()
                    if len(value_json) > VALUE_BYTES_MAX:
                        raise ValueTooLarge("value: larger than 8 KiB as JSON")
                if path == "current_location" and (
                    type(value) is not str or not 1 <= len(value) <= CONTENT_ID_CHARS_MAX
                ):
                    raise ValueRefused("value: current_location is text of 1 to 255 characters")
                ops.append((verb, path, name, value_json))
            elif wanted is _SET:
                value = effect.get("value")
                if type(value) is not str or not 1 <= len(value) <= SET_MEMBER_CHARS_MAX or "\0" in value:
                    raise ValueRefused("value: a member of a set is text of 1 to 128 characters")
                ops.append((verb, path, name, value))
                text = quoted(value)
            else:
                ops.append((verb, path, name, ""))
                written.append(f"{opening}}}")
                continue
            written.append(f'{opening},"value":{text}}}')
        return f"[{','.join(written)}]".encode()
    except ValueTooLarge as refused:
        raise VoidUpdate(ErrorCode.TOO_LARGE, f"effects[{len(written)}]: {refused}") from None
    except ValueRefused as refused:
        raise VoidUpdate(ErrorCode.INVALID_EFFECT, f"effects[{len(written)}]: {refused}") from None
    except UnicodeEncodeError:
        # Each text was looked at for NUL only: finding surrogates is part of this one encoding.
        raise VoidUpdate(ErrorCode.INVALID_EFFECT, "effects: text with a lone surrogate") from None


_MISSING: Final = object()

# Compared by identity: each of them is one object.
_VALUE: Final = "value"
_COUNTER: Final = "counter"
_SET: Final = "set"
_WANTS: Final = {"set": _VALUE, "unset": "", "incr": _COUNTER, "max": _COUNTER, "add": _SET, "remove": _SET}
OPS: Final = tuple(_WANTS)

_VERB_CHARS_MAX: Final = max(map(len, OPS))
_PATH_CHARS_MAX: Final = NAME_CHARS_MAX + 1 + KEY_CHARS_MAX
_BAD_PATH: Final = "path: must be a name, or a name, a dot and a key of 1 to 128 characters"


_Target = tuple[str, str, str, str, str]
"""Verb, path, name, the kind that the op wants, the opening of the effect as JSON."""

# Games use few paths and use them all the time. Refusals are not kept, lengths are judged before, and when it is full
# it begins anew: a hostile client can neither fill memory nor keep good paths out for long.
_TARGETS_MAX: Final = 4096
_targets: dict[tuple[str, str], _Target] = {}


def _find_target(effect: object) -> _Target:
    """
    The target of an effect whose verb and path are well formed and fit each other.

    Raises:
        ValueRefused: no effect, bad op, bad path, or a known name of another kind.
    """
    if type(effect) is not dict:
        raise ValueRefused("must be a map")
    verb, path = effect.get("op"), effect.get("path")
    if type(verb) is not str or len(verb) > _VERB_CHARS_MAX:
        raise ValueRefused("op: must be set, unset, incr, max, add or remove")
    if type(path) is not str or len(path) > _PATH_CHARS_MAX:
        raise ValueRefused(_BAD_PATH)
    wanted = _WANTS.get(verb)
    if wanted is None:
        raise ValueRefused("op: must be set, unset, incr, max, add or remove")
    name, dot, key = path.partition(".")
    if not NAME_PATTERN.fullmatch(name) or (dot and not (1 <= len(key) <= KEY_CHARS_MAX and is_clean_text(key))):
        raise ValueRefused(_BAD_PATH)
    known = KNOWN_KINDS.get(name)
    if dot:
        fits = wanted != "set" and known in (None, "group")
    elif verb == "unset":
        fits = known in (None, "value", "counter")
    else:
        fits = known in (None, wanted)
    if not fits:
        raise ValueRefused("path: is of another kind than the op")
    target = (verb, path, name, wanted, f'{{"op":"{verb}","path":{quoted(path)}')
    if len(_targets) >= _TARGETS_MAX:
        _targets.clear()
    _targets[verb, path] = target
    return target
