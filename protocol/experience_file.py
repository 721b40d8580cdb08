"""
Reads a definition of an experience from its TOML text.

Promise: what `parse_experience` takes is consistent: everything that is referred to is there, nothing is there twice,
nothing unknown was skipped. A refusal names the file, the key, what is wrong and what to write instead.

Not here: what a definition means (experience.py), and finding the files, which is up to whoever has them.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from protocol.experience import (
    EXPERIENCE_ID,
    CompletionRule,
    ExperienceDefinition,
    Privacy,
    Thing,
    Waypoint,
)
from protocol.limits import (
    COUNTER_SCALE,
    KEY_CHARS_MAX,
    LAT_MAX,
    LNG_MAX,
    SET_MEMBER_CHARS_MAX,
    STATE_FIELDS_MAX,
)
from protocol.values import is_clean_text

FORMAT: Final = 1

NAME_TEXT_CHARS_MAX: Final = 200
THINGS_MAX: Final = 5_000
"""Of each kind: more would not fit into a state anyway."""

RETENTION_DAYS_MAX: Final = 36_500
DECIMALS_MAX: Final = 7
"""Seven places of a degree are a centimetre: more than any phone knows."""
PRECISION_M_MAX: Final = 100_000.0

# What collects under a name as a member may also be counted under it as a key.
assert SET_MEMBER_CHARS_MAX <= KEY_CHARS_MAX


class ExperienceRefused(ValueError):
    """A definition that cannot be used: which file, which key, what is wrong and what to write instead."""

    def __init__(self, source: str, key: str, reason: str, advice: str) -> None:
        self.source, self.key, self.reason, self.advice = source, key, reason, advice
        where = f"{source}: {key}" if key else source
        super().__init__(f"{where}: {reason}; {advice}")


def parse_experience(text: str, source: str, *, experience_id: str | None = None) -> ExperienceDefinition:
    """
    The definition in a TOML text. `source` names it in refusals, usually the file; `experience_id` is what its file is
    named after.

    Raises:
        ExperienceRefused: it is not TOML, or not a definition.
    """
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as refused:
        raise ExperienceRefused(source, "", f"not TOML ({refused})", "mend that line") from None
    top = _Table(source, "", raw)
    version = top.take("format", _whole(1, 1_000), 0)
    if version != FORMAT:
        raise top.refused(
            "format", "a format this release does not know" if version else "missing", f"write format = {FORMAT}"
        )
    found_id = top.take("id", _id_text, "")
    if not found_id:
        raise top.refused("id", "missing", f'write id = "{experience_id or "my-experience"}"')
    if not EXPERIENCE_ID.fullmatch(found_id):
        raise top.refused("id", "no experience can be called that", "use letters, digits and . _ - (at most 100)")
    if experience_id is not None and found_id != experience_id:
        raise top.refused("id", f"{found_id!r}, but the file is named after {experience_id!r}", "make the two the same")
    things = {kind: _read_things(top, kind) for kind in ("quests", "items", "achievements")}
    waypoints = _read_waypoints(top, {kind: {thing.id for thing in some} for kind, some in things.items()})
    definition = ExperienceDefinition(
        experience_id=found_id,
        name=top.take("name", _name_text, found_id),
        waypoints=waypoints,
        quests=things["quests"],
        items=things["items"],
        achievements=things["achievements"],
        completion=_read_completion(top, waypoints, things["quests"], things["items"]),
        privacy=_read_privacy(top),
        unknown_content=top.take("unknown_content", _one_of("report", "refuse", "ignore"), "report"),
    )
    top.end()
    return definition


T = TypeVar("T")
D = TypeVar("D")
Check = Callable[[Any], T]


class _Wrong(ValueError):
    """A value that a check refuses: what is wrong, and what to write."""

    def __init__(self, reason: str, advice: str) -> None:
        self.reason, self.advice = reason, advice
        super().__init__(reason)


class _Table:
    """One table of a definition; keys are taken one by one, and what is left at the end is a mistake."""

    def __init__(self, source: str, path: str, raw: dict[str, Any]) -> None:
        self._source, self._path, self._left = source, path, dict(raw)
        self._known: list[str] = []

    def take(self, key: str, check: Callable[[Any], T], default: D) -> T | D:
        self._known.append(key)
        if key not in self._left:
            return default
        try:
            return check(self._left.pop(key))
        except _Wrong as wrong:
            raise self.refused(key, wrong.reason, wrong.advice) from None

    def need(self, key: str, check: Callable[[Any], T], example: str) -> T:
        if key not in self._left:
            raise self.refused(key, "missing", f"write {key} = {example}")
        return cast(T, self.take(key, check, None))

    def table(self, key: str) -> _Table:
        raw = self.take(key, _table, {})
        return _Table(self._source, self._name(key), raw)

    def tables(self, key: str) -> list[_Table]:
        raw = self.take(key, _tables, [])
        return [_Table(self._source, f"{self._name(key)}[{number}]", one) for number, one in enumerate(raw, 1)]

    def end(self) -> None:
        """Nothing may be left: a misspelled key would do nothing, silently."""
        for key in self._left:
            near = difflib.get_close_matches(key, self._known, n=1)
            raise self.refused(
                key,
                "there is no such key",
                f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(set(self._known)))}",
            )

    def refused(self, key: str, reason: str, advice: str) -> ExperienceRefused:
        return ExperienceRefused(self._source, self._name(key), reason, advice)

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def _read_things(top: _Table, kind: str) -> tuple[Thing, ...]:
    things: list[Thing] = []
    seen: set[str] = set()
    for table in top.tables(kind):
        thing_id = _take_id(table, seen)
        things.append(Thing(thing_id, table.take("name", _name_text, thing_id), table.take("note", _name_text, "")))
        table.end()
    return tuple(things)


def _read_waypoints(top: _Table, known: dict[str, set[str]]) -> tuple[Waypoint, ...]:
    waypoints: list[Waypoint] = []
    seen: set[str] = set()
    for table in top.tables("waypoints"):
        waypoint_id = _take_id(table, seen)
        waypoints.append(
            Waypoint(
                id=waypoint_id,
                name=table.take("name", _name_text, waypoint_id),
                lat=table.need("lat", _degrees(LAT_MAX), "37.905696"),
                lng=table.need("lng", _degrees(LNG_MAX), "-122.547701"),
                radius_m=table.take("radius_m", _metres, None),
                note=table.take("note", _name_text, ""),
                items=table.take("items", _list_of(known["items"], "items"), ()),
                collectibles=table.take("collectibles", _counts(known["items"]), ()),
                starts=table.take("starts", _list_of(known["quests"], "quests"), ()),
                completes=table.take("completes", _list_of(known["quests"], "quests"), ()),
                opens=table.take("opens", _list_of(None, "areas"), ()),
                flags=table.take("flags", _list_of(None, "flags"), ()),
                achievements=table.take("achievements", _list_of(known["achievements"], "achievements"), ()),
            )
        )
        table.end()
    return tuple(waypoints)


def _read_completion(
    top: _Table, waypoints: tuple[Waypoint, ...], quests: tuple[Thing, ...], items: tuple[Thing, ...]
) -> CompletionRule | None:
    table = top.table("completion")
    item_ids = [item.id for item in items]
    members: list[str] = []
    for key, name, ids in (
        ("waypoints", "visited_waypoints", [waypoint.id for waypoint in waypoints]),
        ("quests", "completed_quests", [quest.id for quest in quests]),
        ("items", "inventory", item_ids),
    ):
        members += [f"m:{name}.{one}" for one in table.take(key, _all_or_some(ids, key), ())]
    counters = tuple(
        (f"c:collectibles.{key}", count * COUNTER_SCALE)
        for key, count in table.take("collectibles", _counts(set(item_ids)), ())
    )
    by_event = table.take("by_event", _yes_or_no, True)
    table.end()
    count = len(members) + len(counters)
    if count > STATE_FIELDS_MAX:
        raise table.refused("waypoints", f"{count} things are asked for", f"ask for at most {STATE_FIELDS_MAX}")
    if not count:
        if not by_event:
            raise table.refused("by_event", "nothing could complete this experience", "name waypoints, quests or items")
        return None
    return CompletionRule(tuple(members), counters, by_event)


def _read_privacy(top: _Table) -> Privacy:
    table = top.table("privacy")
    privacy = Privacy(
        keep_location=table.take("keep_location", _yes_or_no, True),
        location_decimals=table.take("location_decimals", _whole(0, DECIMALS_MAX), None),
        precision_m=table.take("precision_m", _number(1.0, PRECISION_M_MAX), None),
        event_retention_days=table.take("event_retention_days", _whole(1, RETENTION_DAYS_MAX), None),
    )
    table.end()
    if privacy.location_decimals is not None and privacy.precision_m is not None:
        raise table.refused("precision_m", "location_decimals says it already", "keep one of the two")
    return privacy


def _take_id(table: _Table, seen: set[str]) -> str:
    one = table.need("id", _id_text, '"8_inter_gravity_car"')
    if one in seen:
        raise table.refused("id", f"{one!r} is there twice", "give each its own id")
    seen.add(one)
    return one


# ── checks of single values ─────────────────────────────────────────────────────────────────────────────────────────


def _id_text(raw: Any) -> str:
    if type(raw) is not str or not 1 <= len(raw) <= SET_MEMBER_CHARS_MAX or not is_clean_text(raw):
        raise _Wrong("not an id", f"write text of 1 to {SET_MEMBER_CHARS_MAX} characters")
    return raw


def _name_text(raw: Any) -> str:
    if type(raw) is not str or not 1 <= len(raw) <= NAME_TEXT_CHARS_MAX or not is_clean_text(raw):
        raise _Wrong("not a name", f"write text of 1 to {NAME_TEXT_CHARS_MAX} characters")
    return raw


def _yes_or_no(raw: Any) -> bool:
    if type(raw) is not bool:
        raise _Wrong("neither true nor false", "write true or false, without quotes")
    return raw


def _whole(low: int, high: int) -> Check[int]:
    def check(raw: Any) -> int:
        if type(raw) is not int or not low <= raw <= high:
            raise _Wrong("out of bounds", f"write a whole number from {low} to {high}")
        return raw

    return check


def _number(low: float, high: float) -> Check[float]:
    def check(raw: Any) -> float:
        if type(raw) not in (int, float) or not low <= raw <= high:
            raise _Wrong("out of bounds", f"write a number from {low:g} to {high:g}")
        return float(raw)

    return check


def _degrees(degrees_max: float) -> Check[float]:
    return _number(-degrees_max, degrees_max)


def _metres(raw: Any) -> float:
    return _number(0.1, PRECISION_M_MAX)(raw)


def _one_of(*choices: str) -> Check[Any]:
    def check(raw: Any) -> str:
        if raw not in choices:
            raise _Wrong("not one of the choices", "write " + " or ".join(f'"{choice}"' for choice in choices))
        return str(raw)

    return check


def _list_of(known: set[str] | None, kind: str) -> Check[tuple[str, ...]]:
    def check(raw: Any) -> tuple[str, ...]:
        if type(raw) is not list or len(raw) > THINGS_MAX:
            raise _Wrong("not a list", f'write a list of {kind}, as in ["one", "two"]')
        ids = tuple(_id_text(one) for one in raw)
        if len(set(ids)) != len(ids):
            raise _Wrong("the same thing twice", "name each once")
        if known is not None:
            for one in ids:
                _check_known(one, known, kind)
        return ids

    return check


def _all_or_some(ids: list[str], kind: str) -> Check[tuple[str, ...]]:
    def check(raw: Any) -> tuple[str, ...]:
        if raw == "all":
            return tuple(ids)
        if type(raw) is not list:
            raise _Wrong("neither all nor a list", f'write "all", or a list of {kind}')
        return _list_of(set(ids), kind)(raw)

    return check


def _counts(known: set[str]) -> Check[tuple[tuple[str, int], ...]]:
    def check(raw: Any) -> tuple[tuple[str, int], ...]:
        if type(raw) is not dict or len(raw) > THINGS_MAX:
            raise _Wrong("not a table of numbers", "write { artist_tools = 2 }")
        for key, count in raw.items():
            _check_known(key, known, "items")
            if type(count) is not int or not 1 <= count <= 1_000_000:
                raise _Wrong(f"{key} is not a count", "write a whole number from 1 to 1000000")
        return tuple(raw.items())

    return check


def _check_known(one: str, known: set[str], kind: str) -> None:
    if one not in known:
        near = difflib.get_close_matches(one, known, n=1)
        raise _Wrong(
            f"{one!r} is none of the {kind}",
            f"did you mean {near[0]!r}?" if near else f"add it with [[{kind}]], or correct it",
        )


def _table(raw: Any) -> dict[str, Any]:
    if type(raw) is not dict:
        raise _Wrong("not a table", "write it as a [table]")
    return raw


def _tables(raw: Any) -> list[dict[str, Any]]:
    if type(raw) is not list or not all(type(one) is dict for one in raw):
        raise _Wrong("not a list of tables", "write each as a [[table]]")
    if len(raw) > THINGS_MAX:
        raise _Wrong(f"{len(raw)} of them", f"at most {THINGS_MAX}")
    return raw
