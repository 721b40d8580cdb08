"""A crowd of several kinds, and the people who watch it."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from typing import ClassVar

from loadtest.scenario import CLOSE, WATCH, Doing, Pause, PlayerView, Scenario, pause
from loadtest.scenarios.ar_walk import ArWalk
from loadtest.scenarios.games import Idle, OfflineReturn, ReconnectStorm, UnitySession


class LiveopsWatch(Scenario):
    """Players walk, and one in so many is an operator who watches the figures on the ops port instead."""

    updates_per_s: ClassVar[float] = ArWalk.updates_per_s

    watcher_in: int = 20
    look_every_s: float = 1.0

    def play(self, player: PlayerView) -> Iterator[Doing]:
        if player.index % max(1, self.watcher_in):
            yield from ArWalk().play(player)
            return
        yield pause(player.random.random() * self.look_every_s)
        while True:
            yield WATCH
            yield Pause(self.look_every_s, is_fixed=True)


class Mixed(Scenario):
    """Several kinds of players at once, by weight."""

    updates_per_s: ClassVar[float] = 0.22

    weights: str = "ar-walk:60,unity-session:15,idle:15,offline-return:5,reconnect-storm:5"

    _KINDS: ClassVar[dict[str, type[Scenario]]] = {
        "ar-walk": ArWalk,
        "unity-session": UnitySession,
        "idle": Idle,
        "offline-return": OfflineReturn,
        "reconnect-storm": ReconnectStorm,
        "liveops-watch": LiveopsWatch,
    }

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self._scenarios: list[Scenario] = []
        weights = []
        for part in filter(None, map(str.strip, self.weights.split(","))):
            name, _, weight = part.partition(":")
            if name not in self._KINDS:
                raise ValueError(f"weights knows no {name!r}: use {', '.join(self._KINDS)}")
            try:
                weights.append(float(weight or 1))
            except ValueError:
                raise ValueError(f"weights wants numbers, not {part!r}") from None
            if not 0 < weights[-1] < 1e6:
                raise ValueError(f"weights wants numbers above 0, not {part!r}")
            self._scenarios.append(self._KINDS[name]())
        if not weights:
            raise ValueError("weights is empty")
        self._upto = list(itertools.accumulate(weights))

    def choose(self, player: PlayerView) -> Scenario:
        """By number rather than by chance: small crowds have every kind, too."""
        part = (player.index * 0.6180339887498949) % 1.0 * self._upto[-1]
        return self._scenarios[min(bisect.bisect(self._upto, part), len(self._scenarios) - 1)]

    def play(self, player: PlayerView) -> Iterator[Doing]:
        chosen = self.choose(player)
        if chosen.is_closed_at_first:
            yield CLOSE
        yield from chosen.play(player)
