"""Other ways to play: a game engine's bursts, an idle crowd, storms of reconnects, journals that come home."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from loadtest.gpx import move
from loadtest.scenario import (
    CLOSE,
    DROP,
    OPEN,
    Doing,
    Pause,
    PlayerView,
    Scenario,
    effects,
    event,
    pause,
    think,
)
from loadtest.storyline import Story


class UnitySession(Scenario):
    """A game engine's client: bursts of positions and state changes, then a while of nothing."""

    updates_per_s: ClassVar[float] = 0.7

    burst_updates: int = 12
    burst_rate_per_s: float = 3.0
    quiet_s: float = 13.0

    def play(self, player: PlayerView) -> Iterator[Doing]:
        rng = player.random
        x, y, z = rng.uniform(-50, 50), 0.0, rng.uniform(-50, 50)
        items = player.experience.items or ("gear", "lens", "key")
        yield think(rng.random() * self.quiet_s)
        while True:
            for _ in range(max(1, round(rng.expovariate(1 / self.burst_updates)))):
                chance = rng.random()
                if chance < 0.75:
                    x, z = round(x + rng.gauss(0, 1.5), 2), round(z + rng.gauss(0, 1.5), 2)
                    pose = {"x": x, "y": y, "z": z, "yaw": round(rng.uniform(0, 360), 1)}
                    yield effects({"op": "set", "path": "pose", "value": pose})
                elif chance < 0.87:
                    yield effects({"op": "incr", "path": "records.score", "value": rng.randrange(1, 50)})
                elif chance < 0.95:
                    flag = rng.choice(("door_open", "lamp_lit", "bridge_down", "engine_on"))
                    yield effects({"op": "set", "path": f"flags.{flag}", "value": rng.random() < 0.5})
                else:
                    yield event("item_collected", rng.choice(items))
                yield pause(rng.expovariate(self.burst_rate_per_s))
            yield think(rng.expovariate(1 / self.quiet_s))


class Idle(Scenario):
    """Connected, in a hand and not played with: heartbeats, and an update now and then."""

    updates_per_s: ClassVar[float] = 1 / 60

    update_every_s: float = 60.0

    def play(self, player: PlayerView) -> Iterator[Doing]:
        rng = player.random
        yield pause(rng.random() * self.update_every_s)
        places = player.experience.waypoints
        while True:
            place = rng.choice(places)
            lat, lng = move(place.lat, place.lng, rng.gauss(0, 40), rng.gauss(0, 40))
            yield event("position_reported", lat=lat, lng=lng)
            yield think(rng.expovariate(1 / self.update_every_s))


class ReconnectStorm(Scenario):
    """Everybody plays; every so often all connections are cut within a second, and all come back."""

    # Storms are times of the clock: --rate changes what is played between them, not when they come.
    storm_every_s: float = 20.0
    storm_width_s: float = 1.0
    update_every_s: float = 5.0

    def play(self, player: PlayerView) -> Iterator[Doing]:
        rng = player.random
        story = Story(player.experience, rng)
        every_s = 1 / player.rate_per_s if player.rate_per_s else self.update_every_s
        yield Pause(max(0.0, -player.now_s) + rng.random() * every_s, is_fixed=True)
        storm_s = self.storm_every_s + rng.random() * self.storm_width_s
        while True:
            if player.now_s >= storm_s:
                yield DROP
                storm_s += self.storm_every_s
            yield story.next_step()
            gap_s = rng.expovariate(1 / every_s)
            while player.now_s < storm_s < player.now_s + gap_s:
                first_s = storm_s - player.now_s
                yield Pause(first_s, is_fixed=True)
                gap_s -= first_s
                yield DROP
                storm_s += self.storm_every_s
            yield Pause(gap_s, is_fixed=True)


class OfflineReturn(Scenario):
    """Players who walked for hours without a network: their journals come home, then they go off again."""

    updates_per_s: ClassVar[float] = 1.0
    is_closed_at_first: ClassVar[bool] = True

    hours: float = 3.0
    journal_updates: int = 120
    online_s: float = 40.0
    offline_s: float = 20.0

    def play(self, player: PlayerView) -> Iterator[Doing]:
        rng = player.random
        places = player.experience.waypoints
        yield pause(rng.random() * self.offline_s)
        while True:
            count = max(1, round(rng.uniform(0.5, 1.5) * self.journal_updates))
            ago_s = sorted((rng.uniform(1, self.hours * 3600) for _ in range(count)), reverse=True)
            for past_s in ago_s:
                place = rng.choice(places)
                visit = {"distance_traveled": round(rng.uniform(10, 200), 1), "time_spent": rng.randrange(5, 240)}
                yield event("waypoint_visited", place.id, data=visit, lat=place.lat, lng=place.lng, past_s=past_s)
            yield OPEN
            yield think(rng.uniform(0.5, 1.5) * self.online_s)
            yield CLOSE
            yield pause(rng.uniform(0.5, 1.5) * self.offline_s)
