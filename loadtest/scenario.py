"""
Scenarios: what a player does, as a small class that yields one doing after the other.

    from loadtest.scenario import Scenario, event, pause

    class MyWalk(Scenario):
        'From waypoint to waypoint, with a look around at each.'
        look_s: float = 20.0

        def play(self, player):
            for place in player.experience.waypoints:
                yield pause(player.random.expovariate(1 / self.look_s))
                yield event("waypoint_visited", place.id, lat=place.lat, lng=place.lng)

`wayhold loadtest --scenario my_walk.py:MyWalk --param look_s=5` plays it. Annotated values of the class are its
parameters. A scenario never waits for the gateway: what it yields is done when it is due, and `pause` moves the time
when the next thing is due, so a slow gateway cannot slow the players down. A `play` that ends leaves its player
connected, doing nothing.

Pure. Not here: doing it (simulation.py), finding scenarios by name (scenario_choice.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from loadtest.experience import Experience
from loadtest.track import Track


class Update(NamedTuple):
    """One update. `past_s`: it happened that long ago. `expected_code`: it is wrong and must be answered as void."""

    event: dict[str, Any] | None = None
    effects: list[dict[str, Any]] | None = None
    is_durable: bool = False
    past_s: float = 0.0
    expected_code: int | None = None


class Pause(NamedTuple):
    """
    What comes next is due so much later. `is_think`: a player who thinks; --think-s may say how long. `is_fixed`: a
    time of the clock; --rate does not change it.
    """

    seconds: float
    is_think: bool = False
    is_fixed: bool = False


@dataclass(frozen=True, slots=True)
class Suspend:
    """The app goes to the background; the next update or `Wake` brings it back."""

    expected_s: int


@dataclass(frozen=True, slots=True)
class Query:
    of: str
    args: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Simple:
    """`wake`: the app comes back. `drop`: the connection is cut. `close`/`open`: the app is closed, and opened again;
    updates made in between wait in the journal. `leave`: the session ends. `watch`: one look at the live figures."""

    what: str


Doing = Update | Pause | Suspend | Query | Simple

WAKE, DROP, CLOSE, OPEN, LEAVE, WATCH = map(Simple, ("wake", "drop", "close", "open", "leave", "watch"))


class PlayerView(Protocol):
    """
    What a scenario knows of its player. `random` is the player's own and the only one to use: it makes runs repeatable.
    `rate_per_s` is what --rate asks for, None where it does not; `seconds` how long the play lasts.
    """

    @property
    def index(self) -> int: ...
    @property
    def players(self) -> int: ...
    @property
    def random(self) -> random.Random: ...
    @property
    def experience(self) -> Experience: ...
    @property
    def tracks(self) -> Sequence[Track]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def rate_per_s(self) -> float | None: ...
    @property
    def now_s(self) -> float:
        """The time of play at which the next thing is due; negative during the ramp."""
        ...


class Scenario:
    """
    What players do. `updates_per_s` is about how many one makes, so that --rate can speed a story up or slow it down;
    0: this scenario keeps to --rate by itself.
    """

    updates_per_s: ClassVar[float] = 0.0
    is_closed_at_first: ClassVar[bool] = False

    def __init__(self, **parameters: Any) -> None:
        """Raises ValueError for a parameter that it does not have, or a value of the wrong kind."""
        known = self.list_parameters()
        for name, value in parameters.items():
            if name not in known:
                has = ", ".join(sorted(known)) or "none"
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has {has}")
            kind = type(known[name])
            try:
                fits = value if isinstance(value, kind) else _parse(kind, value)
            except ValueError:
                raise ValueError(f"{name} wants {kind.__name__}, not {value!r}") from None
            setattr(self, name, fits)

    @classmethod
    def list_parameters(cls) -> dict[str, Any]:
        """Name → default."""
        found: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            for name, annotation in vars(base).get("__annotations__", {}).items():
                if not name.startswith("_") and "ClassVar" not in str(annotation) and hasattr(cls, name):
                    found[name] = getattr(cls, name)
        return found

    def parameters(self) -> dict[str, Any]:
        """Name → value, for the report."""
        return {name: getattr(self, name) for name in self.list_parameters()}

    def play(self, player: PlayerView) -> Iterator[Doing]:
        """What this player does, in order. Called once for each player."""
        raise NotImplementedError


def _parse(kind: type, text: Any) -> Any:
    if kind is bool:
        if str(text).lower() in ("1", "true", "yes", "on"):
            return True
        if str(text).lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError(text)
    value = kind(text)
    if isinstance(value, float) and value != value:
        raise ValueError(text)
    return value


# --- what a scenario yields, in words -----------------------------------------------------------------------------


def event(
    type: str,
    content_id: str | None = None,
    *,
    data: dict[str, Any] | None = None,
    lat: float | None = None,
    lng: float | None = None,
    effects: list[dict[str, Any]] | None = None,
    durable: bool = False,
    past_s: float = 0.0,
) -> Update:
    """Something happened."""
    made: dict[str, Any] = {"type": type}
    if content_id is not None:
        made["content_id"] = content_id
    if data is not None:
        made["data"] = data
    if lat is not None and lng is not None:
        made["lat"], made["lng"] = lat, lng
    return Update(made, effects, durable, past_s)


def effects(*effects: dict[str, Any], durable: bool = False) -> Update:
    """The state changes, without an event."""
    return Update(None, list(effects), durable)


def pause(seconds: float) -> Pause:
    return Pause(seconds)


def think(seconds: float) -> Pause:
    """A pause whose length --think-s may replace."""
    return Pause(seconds, is_think=True)


def suspend(expected_s: int) -> Suspend:
    return Suspend(expected_s)


def query(of: str, **args: Any) -> Query:
    return Query(of, args or None)
