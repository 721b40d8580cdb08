"""
Events: what happened to a player, and what the known ones do to the state by themselves.

Promise: `KNOWN_EVENTS` is the one table of events that carry effects, so that a simple client sends only events. The
same table stands in every client; the vectors in `protocol/vectors` prove that all agree.

Not here: effects that a client writes itself (effects.py), and what an op does to the fields of a state (state.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from protocol.errors import ErrorCode, VoidUpdate
from protocol.limits import (
    CONTENT_ID_CHARS_MAX,
    COUNTER_SCALE,
    EVENT_TYPE_CHARS_MAX,
    KEY_CHARS_MAX,
    LAT_MAX,
    LNG_MAX,
    SET_MEMBER_CHARS_MAX,
    TIME_MS_MAX,
    UPDATE_ITEMS_MAX,
)
from protocol.values import ValueRefused, ValueTooLarge, canonical_json, is_clean_text, quoted, to_millionths

Op = tuple[Any, ...]
"""(op, path, name, arg[, other]): see state.py for what each does."""


@dataclass(slots=True)
class Event:
    """
    `data` is as the client sent it, `data_json` the same as canonical JSON (`{}` when there was none).

    `at_ms` is the client's claim, within ±2^53 but otherwise unjudged: the gateway bounds it by its own clock.
    """

    type: str
    content_id: str | None
    data: dict[str, Any]
    data_json: bytes
    at_ms: int | None
    lat: float | None
    lng: float | None


@dataclass(frozen=True, slots=True)
class KnownEvent:
    needs_content_id: bool
    imply: Callable[[Event], list[Op]]


def read_event(raw: object, items_left: list[int] | None = None) -> Event:
    """
    The event of an update, checked. `items_left`: see `canonical_json`.

    Raises:
        VoidUpdate: 102 for anything that is not an event, or a known one without the content_id it needs; 105 for data
            of too many items.
    """
    if type(raw) is not dict:
        raise VoidUpdate(ErrorCode.INVALID_MESSAGE, "event: must be a map")
    read = raw.get
    kind = read("type")
    if type(kind) is not str:
        raise VoidUpdate(ErrorCode.INVALID_MESSAGE, "event.type: must be text of 1 to 50 characters")
    known = KNOWN_EVENTS.get(kind)
    if known is None and not (1 <= len(kind) <= EVENT_TYPE_CHARS_MAX and is_clean_text(kind)):
        raise VoidUpdate(ErrorCode.INVALID_MESSAGE, "event.type: must be text of 1 to 50 characters")
    content_id = read("content_id")
    if content_id is None:
        if known is not None and known.needs_content_id:
            raise VoidUpdate(ErrorCode.INVALID_MESSAGE, "event.content_id: this event type needs one")
    elif (
        type(content_id) is not str or not 1 <= len(content_id) <= CONTENT_ID_CHARS_MAX or not is_clean_text(content_id)
    ):
        raise VoidUpdate(ErrorCode.INVALID_MESSAGE, "event.content_id: must be text of 1 to 255 characters")
    data = read("data")
    if data is None:
        data = {}
        data_json = b"{}"
    elif type(data) is not dict:
        raise VoidUpdate(ErrorCode.INVALID_MESSAGE, "event.data: must be a map")
    else:
        try:
            data_json = canonical_json(data, items_left)
        except ValueTooLarge as refused:
            raise VoidUpdate(ErrorCode.TOO_LARGE, f"event.data: {refused}") from None
        except ValueRefused as refused:
            data, data_json = _without_broken_distance(kind, data, refused)
    at = read("at")
    if at is not None:
        if type(at) is not int:
            raise VoidUpdate(ErrorCode.INVALID_MESSAGE, "event.at: must be integer milliseconds")
        if not -TIME_MS_MAX <= at <= TIME_MS_MAX:
            at = TIME_MS_MAX if at > 0 else -TIME_MS_MAX
    lat = read("lat")
    if lat is not None:
        lat = _degrees(lat, LAT_MAX, "event.lat: must be a number from -90 to 90")
    lng = read("lng")
    if lng is not None:
        lng = _degrees(lng, LNG_MAX, "event.lng: must be a number from -180 to 180")
    # Its fields one by one: the __init__ that dataclasses makes costs twice as much.
    event = _make_event(Event)
    event.type = kind
    event.content_id = content_id
    event.data = data
    event.data_json = data_json
    event.at_ms = at
    event.lat = lat
    event.lng = lng
    return event


_make_event: Final = object.__new__


def _degrees(value: object, largest: float, message: str) -> float:
    # A bool is an int to Python and NaN fails every comparison: both end in the refusal.
    if (type(value) is float or type(value) is int) and -largest <= value <= largest:
        return float(value)
    raise VoidUpdate(ErrorCode.INVALID_MESSAGE, message)


def _without_broken_distance(kind: str, data: dict[str, Any], refused: ValueRefused) -> tuple[dict[str, Any], bytes]:
    """
    A distance that is no finite number adds nothing and is no error, but it has no place in JSON: it is kept as null.

    A GPS that gives NaN must not cost the player the waypoint.
    """
    distance = data.get("distance_traveled")
    if kind == "waypoint_visited" and type(distance) is float and distance - distance != 0.0:
        kept = {**data, "distance_traveled": None}
        try:
            return kept, canonical_json(kept, [UPDATE_ITEMS_MAX])
        except ValueTooLarge as too_large:
            raise VoidUpdate(ErrorCode.TOO_LARGE, f"event.data: {too_large}") from None
        except ValueRefused as still_refused:
            refused = still_refused
    raise VoidUpdate(ErrorCode.INVALID_MESSAGE, f"event.data: {refused}")


# ── what known events imply ─────────────────────────────────────────────────────────────────────────────────────────


def _imply_waypoint_visited(event: Event) -> list[Op]:
    place = _member(event)
    ops: list[Op] = [
        ("add", "visited_waypoints", "visited_waypoints", place),
        ("set", "current_location", "current_location", _as_json(place)),
    ]
    distance = event.data.get("distance_traveled")
    if (type(distance) is float or type(distance) is int) and distance >= 0:
        ops.append(("incr", "distance_meters", "distance_meters", _amount(distance, "distance_traveled")))
    return ops


def _imply_location_reached(event: Event) -> list[Op]:
    return [("set", "current_location", "current_location", _as_json(event.content_id or ""))]


def _imply_quest_started(event: Event) -> list[Op]:
    quest = _member(event)
    return [("add_unless", "active_quests", "active_quests", quest, "completed_quests")]


def _imply_quest_completed(event: Event) -> list[Op]:
    quest = _member(event)
    return [
        ("remove", "active_quests", "active_quests", quest),
        ("add", "completed_quests", "completed_quests", quest),
    ]


def _imply_item_collected(event: Event) -> list[Op]:
    count = event.data.get("count")
    if count is None:
        return [("add", "inventory", "inventory", _member(event))]
    key = event.content_id or ""
    if len(key) > KEY_CHARS_MAX:
        raise VoidUpdate(ErrorCode.INVALID_EFFECT, "event.content_id: too long for a key (128 characters)")
    return [("incr", f"collectibles.{key}", "collectibles", _amount(count, "count"))]


def _imply_nothing(event: Event) -> list[Op]:
    # Its effect is not on the state: the flush adds achievements to the profile and completion to its columns.
    return []


# The places of a game are few and come again and again; none is longer than CONTENT_ID_CHARS_MAX.
@lru_cache(maxsize=4096)
def _as_json(place: str) -> bytes:
    return quoted(place).encode()


def _member(event: Event) -> str:
    member = event.content_id or ""
    if len(member) > SET_MEMBER_CHARS_MAX:
        raise VoidUpdate(ErrorCode.INVALID_EFFECT, "event.content_id: too long for a member of a set (128 characters)")
    return member


def _amount(number: object, field: str) -> int:
    if type(number) is int and 0 <= number <= 1_000_000:
        return number * COUNTER_SCALE
    try:
        return to_millionths(number)
    except ValueRefused as refused:
        raise VoidUpdate(ErrorCode.INVALID_EFFECT, f"event.data.{field}: {refused}") from None


KNOWN_EVENTS: Final[dict[str, KnownEvent]] = {
    "waypoint_visited": KnownEvent(True, _imply_waypoint_visited),
    "location_reached": KnownEvent(True, _imply_location_reached),
    "quest_started": KnownEvent(True, _imply_quest_started),
    "quest_completed": KnownEvent(True, _imply_quest_completed),
    "item_collected": KnownEvent(True, _imply_item_collected),
    "achievement_unlocked": KnownEvent(True, _imply_nothing),
    "experience_completed": KnownEvent(False, _imply_nothing),
}
