"""People with phones in a city: they walk, stop, look, find, and put the phone into a pocket."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

from loadtest.gpx import Leg, list_legs, move
from loadtest.scenario import WAKE, Doing, PlayerView, Scenario, Update, effects, event, pause, suspend, think
from protocol.experience import Waypoint


class ArWalk(Scenario):
    """From waypoint to waypoint (or along --track) at walking speed: visits, finds, quests, pauses, a pocket."""

    updates_per_s: ClassVar[float] = 0.1

    walking_speed_m_s: float = 1.35
    position_every_s: float = 10.0
    gps_noise_m: float = 6.0
    pause_s: float = 15.0
    suspend_chance: float = 0.15
    suspend_s: float = 30.0

    def play(self, player: PlayerView) -> Iterator[Doing]:
        rng = player.random
        speed_m_s = max(0.3, rng.gauss(self.walking_speed_m_s, 0.2))
        legs = list_legs(player.tracks, player.experience, rng)
        carried: set[str] = set()
        yield think(rng.random() * self.position_every_s)  # nobody starts on the second
        while True:
            for leg in legs:
                yield from self._walk(player, leg, speed_m_s)
                yield from self._look_around(player, leg, carried)
                if rng.random() < self.suspend_chance:
                    pocket_s = rng.expovariate(1 / self.suspend_s)
                    yield suspend(max(1, math.ceil(pocket_s)))
                    yield pause(pocket_s)
                    yield WAKE
            yield event("experience_completed", data={"legs": len(legs)})

    def _walk(self, player: PlayerView, leg: Leg, speed_m_s: float) -> Iterator[Doing]:
        rng = player.random
        walk_s = leg.length_m / speed_m_s
        at_s = self.position_every_s
        while at_s < walk_s:
            yield pause(self.position_every_s)
            lat, lng = leg.find_place(at_s / walk_s)
            lat, lng = move(lat, lng, rng.gauss(0, self.gps_noise_m), rng.gauss(0, self.gps_noise_m))
            yield event("position_reported", lat=lat, lng=lng, data={"accuracy_m": round(rng.uniform(3, 25), 1)})
            at_s += self.position_every_s
        yield pause(max(0.0, walk_s - at_s + self.position_every_s))

    def _look_around(self, player: PlayerView, leg: Leg, carried: set[str]) -> Iterator[Doing]:
        rng = player.random
        look_s = rng.expovariate(1 / self.pause_s)
        lat, lng = leg.find_place(1.0)
        if leg.name is None:
            yield think(look_s / 4)
            return
        data = {"distance_traveled": round(leg.length_m, 1), "time_spent": round(look_s)}
        yield event("waypoint_visited", leg.name, data=data, lat=lat, lng=lng)
        yield think(look_s)
        if leg.waypoint is not None:
            for step in list_finds(leg.waypoint, carried):
                yield step
                yield think(rng.uniform(0.5, 4))


def list_finds(waypoint: Waypoint, carried: set[str]) -> Iterator[Update]:
    """What is to be done at a waypoint; what is carried already is not picked up again."""
    for item in waypoint.items:
        if item not in carried:
            carried.add(item)
            yield event("item_collected", item)
    for kind, count in waypoint.collectibles:
        yield event("item_collected", kind, data={"count": count})
    for flag in waypoint.flags:
        yield effects({"op": "set", "path": f"flags.{flag}", "value": True})
    for quest in waypoint.completes:
        yield event("quest_completed", quest)
    for quest in waypoint.starts:
        yield event("quest_started", quest)
    for achievement in waypoint.achievements:
        yield event("achievement_unlocked", achievement)
