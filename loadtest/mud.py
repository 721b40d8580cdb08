"""
The mud: what goes wrong on the way between a player and the gateway, and how often.

Owns the levels, and the schedule of mishaps of one player. Each kind comes at random, on average once in so many
seconds (`…_every_s`, 0: never).

    drop-out         no network for 2 to 30 s; afterwards the old socket goes on, or the network has forgotten it
    half-open        the socket falls silent and nobody is told
    address change   the old socket falls silent, the player comes back from another address
    app kill         the app dies; what its journal had written is there when it is opened again
    power cut        the phone dies; what the journal had not synced is gone
    second device    the same player goes on with another phone, and comes back to the first one later

Pure. Not here: what a phone does then (phone.py, simulation.py).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace

DROPOUT_S_MIN, DROPOUT_S_MAX = 2.0, 30.0
OTHER_PHONE_S_MIN, OTHER_PHONE_S_MAX = 5.0, 40.0
CLOSED_S_MIN, CLOSED_S_MAX = 0.5, 8.0

DROPOUT, HALF_OPEN, ADDRESS_CHANGE = "dropout", "half_open", "address_change"
APP_KILL, POWER_CUT, SECOND_DEVICE = "app_kill", "power_cut", "second_device"
KINDS = (DROPOUT, HALF_OPEN, ADDRESS_CHANGE, APP_KILL, POWER_CUT, SECOND_DEVICE)


@dataclass(frozen=True, slots=True)
class Mud:
    """How bad the network and the phones are. Latency and jitter are of one way; skews are drawn up to both sides."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    dropout_every_s: float = 0.0
    half_open_every_s: float = 0.0
    address_change_every_s: float = 0.0
    app_kill_every_s: float = 0.0
    power_cut_every_s: float = 0.0
    second_device_every_s: float = 0.0
    clock_skew_s: float = 0.0

    @property
    def has_link(self) -> bool:
        """The bytes of these players cannot go straight through."""
        return any(
            (self.latency_ms, self.jitter_ms, self.dropout_every_s, self.half_open_every_s, self.address_change_every_s)
        )

    @property
    def needs_journals(self) -> bool:
        """Phones die and must find their updates again."""
        return self.app_kill_every_s > 0 or self.power_cut_every_s > 0

    def find_every_s(self, kind: str) -> float:
        every_s: float = getattr(self, f"{kind}_every_s")
        return every_s


LEVELS = {
    "none": Mud(),
    "light": Mud(
        latency_ms=25,
        jitter_ms=15,
        dropout_every_s=600,
        half_open_every_s=1800,
        address_change_every_s=1200,
        clock_skew_s=5,
    ),
    "heavy": Mud(
        latency_ms=60,
        jitter_ms=60,
        dropout_every_s=90,
        half_open_every_s=300,
        address_change_every_s=240,
        app_kill_every_s=300,
        power_cut_every_s=600,
        second_device_every_s=600,
        clock_skew_s=7200,
    ),
}
# What a single flag may say, in the order of the help; the flag of a field is --mud- and its name.
FLAGS = tuple(field.name for field in fields(Mud))


def choose_mud(level: str, **single: float | None) -> Mud:
    """A level with single values put in its place; None leaves the level's."""
    return replace(LEVELS[level], **{name: value for name, value in single.items() if value is not None})


class Mishaps:
    """What happens to one player, one thing after the other."""

    __slots__ = ("_kinds", "_mud", "_random", "_weights")

    def __init__(self, mud: Mud, rng: random.Random) -> None:
        self._mud = mud
        self._random = rng
        self._kinds = [kind for kind in KINDS if mud.find_every_s(kind) > 0]
        self._weights = [1 / mud.find_every_s(kind) for kind in self._kinds]

    def next(self) -> tuple[float, str] | None:
        """After how many seconds, and what; None where nothing ever happens."""
        if not self._kinds:
            return None
        (kind,) = self._random.choices(self._kinds, self._weights)
        return self._random.expovariate(sum(self._weights)), kind

    def draw_dropout_s(self) -> float:
        return self._random.uniform(DROPOUT_S_MIN, DROPOUT_S_MAX)

    def draw_closed_s(self) -> float:
        """For how long an app that died stays closed."""
        return self._random.uniform(CLOSED_S_MIN, CLOSED_S_MAX)

    def draw_other_phone_s(self) -> float:
        return self._random.uniform(OTHER_PHONE_S_MIN, OTHER_PHONE_S_MAX)

    def draw_chance(self) -> float:
        return self._random.random()
