"""
Effects: what an update asks for, compiled to flat ops on the fields of a state.

Promise: `compile_update` gives ops or raises VoidUpdate, nothing else, whatever a client put into `event` and
`effects`. Ops come in order: first those the event implies, then the effects. Everything that can be known without the
state is refused here (bad ops, paths and values, known names used as another kind); what depends on the state is found
where the ops are applied (state.py, and the store's script).

Not here: the envelope of an update (frames.py), when it happened (the gateway bounds `at`), and what an op does.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from protocol.errors import ErrorCode, VoidUpdate
from protocol.events import KNOWN_EVENTS, Event, Op, read_event
from protocol.limits import (
    CONTENT_ID_CHARS_MAX,
    EFFECTS_MAX,
    KEY_CHARS_MAX,
    NAME_CHARS_MAX,
    SET_MEMBER_CHARS_MAX,
    UPDATE_BYTES_MAX,
    UPDATE_ITEMS_MAX,
    VALUE_BYTES_MAX,
)
from protocol.state import KNOWN_KINDS, NAME_PATTERN
from protocol.values import ValueRefused, ValueTooLarge, canonical_json, is_clean_text, quoted, to_millionths

__all__ = ["OPS", "CompiledUpdate", "Op", "VoidUpdate", "compile_update"]


@dataclass(slots=True)
class CompiledUpdate:
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
    else:
        happened = read_event(event, items_left)
        known = KNOWN_EVENTS.get(happened.type)
        ops = known.imply(happened) if known is not None else []
    effects_json = b""
    if effects is not None and effects != []:
        effects_json = _compile_effects(effects, ops, items_left)
    if len(effects_json) + (len(happened.data_json) if happened is not None else 0) > UPDATE_BYTES_MAX:
        raise VoidUpdate(ErrorCode.TOO_LARGE, "the update is larger than 32 KiB as JSON")
    return CompiledUpdate(happened, effects_json, ops)


def _compile_effects(effects: object, ops: list[Op], items_left: list[int]) -> bytes:
    if type(effects) is not list:
        raise VoidUpdate(ErrorCode.INVALID_MESSAGE, "effects: must be an array")
    if len(effects) > EFFECTS_MAX:
        raise VoidUpdate(ErrorCode.TOO_LARGE, "effects: at most 16 in one update")
    written: list[str] = []
    try:
        for effect in effects:
            written.append(_compile_effect(effect, ops, items_left))
        return f"[{','.join(written)}]".encode()
    except ValueTooLarge as refused:
        raise VoidUpdate(ErrorCode.TOO_LARGE, f"effects[{len(written)}]: {refused}") from None
    except ValueRefused as refused:
        raise VoidUpdate(ErrorCode.INVALID_EFFECT, f"effects[{len(written)}]: {refused}") from None
    except UnicodeEncodeError:
        # Each text was looked at for NUL only: finding surrogates is part of this one encoding.
        raise VoidUpdate(ErrorCode.INVALID_EFFECT, "effects: text with a lone surrogate") from None


def _compile_effect(effect: Any, ops: list[Op], items_left: list[int]) -> str:
    """Adds the op, returns the effect as canonical JSON."""
    if type(effect) is not dict:
        raise ValueRefused("must be a map")
    read = effect.get
    verb, path = read("op"), read("path")
    # The lengths are judged before the cache sees the texts, so that nobody can fill it with large ones.
    if type(verb) is not str or len(verb) > _VERB_CHARS_MAX:
        raise ValueRefused("op: must be set, unset, incr, max, add or remove")
    if type(path) is not str or len(path) > _PATH_CHARS_MAX:
        raise ValueRefused(_BAD_PATH)
    name, wanted, opening = _target(verb, path)
    if wanted == "counter":
        value = read("value")
        # A bool is an int to a format, so the number is judged first.
        ops.append((verb, path, name, to_millionths(value)))
        return f'{opening},"value":{value if type(value) is int else canonical_json(value).decode()}}}'
    if wanted == "set":
        member = read("value")
        if type(member) is not str or not 1 <= len(member) <= SET_MEMBER_CHARS_MAX or "\0" in member:
            raise ValueRefused("value: a member of a set is text of 1 to 128 characters")
        ops.append((verb, path, name, member))
        return f'{opening},"value":{quoted(member)}}}'
    if wanted == "value":
        value = read("value", _MISSING)
        if value is _MISSING:
            raise ValueRefused("value: set needs one")
        value_json = canonical_json(value, items_left)
        if len(value_json) > VALUE_BYTES_MAX:
            raise ValueTooLarge("value: larger than 8 KiB as JSON")
        if path == "current_location" and (type(value) is not str or not 1 <= len(value) <= CONTENT_ID_CHARS_MAX):
            raise ValueRefused("value: current_location is text of 1 to 255 characters")
        ops.append((verb, path, name, value_json))
        return f'{opening},"value":{value_json.decode()}}}'
    ops.append((verb, path, name, ""))
    return f"{opening}}}"


_MISSING: Final = object()

_WANTS: Final = {
    "set": "value",
    "unset": "",
    "incr": "counter",
    "max": "counter",
    "add": "set",
    "remove": "set",
}
OPS: Final = tuple(_WANTS)

_VERB_CHARS_MAX: Final = max(map(len, OPS))
_PATH_CHARS_MAX: Final = NAME_CHARS_MAX + 1 + KEY_CHARS_MAX
_BAD_PATH: Final = "path: must be a name, or a name, a dot and a key of 1 to 128 characters"


# Games use few paths and use them all the time. Refusals are not cached: a hostile path cannot push a good one out.
@lru_cache(maxsize=4096)
def _target(verb: str, path: str) -> tuple[str, str, str]:
    """
    (name, the kind that the op wants, the opening of the effect as JSON) for a path that is well formed and may be of
    that kind.

    Raises:
        ValueRefused: bad op, bad path, or a known name of another kind.
    """
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
    return name, wanted, f'{{"op":"{verb}","path":{quoted(path)}'
