"""
What a simulated player does next: believable steps of every kind the protocol knows.

Owns the mix. Each player has a story of its own, fixed by its seed: it walks from waypoint to waypoint, picks things
up, starts and finishes quests, and now and then does something that no gateway may accept (`expected_code`), because a
void update must use up its number and nothing else. Stories stay small: a state never grows near its bounds.

Pure; when steps are made is up to simulation.py.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

from loadtest.experience import Experience, distance_m
from loadtest.scenario import Update
from protocol.experience import Waypoint

# What there is to play with in an experience that says nothing of it.
ITEMS = tuple(f"item_{number:02}" for number in range(24))
COLLECTIBLES = ("artist_tools", "mystical_flowers", "brass_tokens", "river.stones")
QUESTS = ("discover_woander", "explore_el_paseo", "find_the_library", "collect_artist_tools", "follow_the_creek")
FLAGS = ("mailbox_opened", "door_unlocked", "gravity_car_activated", "owl_seen")
FRIENDS = ("ada", "bruno", "chloé", "daichi", "éowyn")
ACHIEVEMENTS = ("first_waypoint", "marathon_walker", "quest_master", "night_walker")

DURABLE_PART = 0.01
PAST_PART = 0.03
PAST_S_MAX = 600


StoryStep = Update


class Story:
    """The endless story of one player."""

    __slots__ = (
        "_achievements",
        "_active",
        "_at",
        "_collectibles",
        "_is_completed",
        "_items",
        "_legs_m",
        "_quests",
        "_rng",
        "_visits",
        "_waypoints",
    )

    def __init__(self, experience: Experience, rng: random.Random) -> None:
        self._waypoints = experience.waypoints
        self._legs_m = _measure_legs(experience.waypoints)
        self._items = experience.items or ITEMS
        self._collectibles = experience.collectibles or COLLECTIBLES
        self._quests = experience.quests or QUESTS
        self._achievements = experience.achievements or ACHIEVEMENTS
        self._rng = rng
        self._at = rng.randrange(len(self._waypoints))
        self._active: list[str] = []
        self._visits = 0
        self._is_completed = False

    def next_step(self) -> StoryStep:
        # One number says both: which chapter, and how far into its place in the table.
        place = self._rng.random() * _PLACES
        number = int(place)
        step = _CHAPTERS[number](self)
        chance = place - number
        if chance < PAST_PART + DURABLE_PART:  # one in 25: the others are as they are
            if chance < PAST_PART:
                return step._replace(past_s=self._rng.randrange(1, PAST_S_MAX))
            return step._replace(is_durable=True)
        return step

    def _visit(self) -> StoryStep:
        waypoints = self._waypoints
        self._at = (self._at + 1) % len(waypoints)
        here = waypoints[self._at]
        self._visits += 1
        if self._visits > len(waypoints) and not self._is_completed:
            self._is_completed = True
            return StoryStep({"type": "experience_completed", "data": {"visits": self._visits}})
        walked_m = self._legs_m[self._at]
        place = self._rng.random() * 235  # as in `next_step`, one number for two
        spent_s = int(place)
        data = {"distance_traveled": walked_m, "time_spent": 5 + spent_s}
        event = {
            "type": "waypoint_visited",
            "content_id": here.id,
            "data": data,
            "lat": here.lat,
            "lng": here.lng,
        }
        effects = [{"op": "max", "path": "records.longest_leg", "value": walked_m}] if place - spent_s < 0.2 else None
        return StoryStep(event, effects)

    def _collect_item(self) -> StoryStep:
        return StoryStep({"type": "item_collected", "content_id": self._rng.choice(self._items)})

    def _collect_counted(self) -> StoryStep:
        count = 1 + int(self._rng.random() * 5)
        return StoryStep(
            {"type": "item_collected", "content_id": self._rng.choice(self._collectibles), "data": {"count": count}}
        )

    def _quest(self) -> StoryStep:
        if self._active and self._rng.random() < 0.5:
            quest = self._active.pop(self._rng.randrange(len(self._active)))
            opened = [{"op": "add", "path": "unlocked_areas", "value": f"{quest}_area"}]
            data = {"completion_time_seconds": self._rng.randrange(60, 1800)}
            return StoryStep({"type": "quest_completed", "content_id": quest, "data": data}, opened)
        quest = self._rng.choice(self._quests)
        if quest not in self._active:
            self._active.append(quest)
        return StoryStep({"type": "quest_started", "content_id": quest})

    def _arrive(self) -> StoryStep:
        here = self._waypoints[self._at]
        return StoryStep({"type": "location_reached", "content_id": here.id, "lat": here.lat, "lng": here.lng})

    def _change_flags(self) -> StoryStep:
        flag = f"flags.{self._rng.choice(FLAGS)}"
        if self._rng.random() < 0.25:
            return StoryStep(None, [{"op": "unset", "path": flag}])
        return StoryStep(None, [{"op": "set", "path": flag, "value": self._rng.random() < 0.5}])

    def _count(self) -> StoryStep:
        amount = round(self._rng.uniform(-3, 10), self._rng.randrange(0, 6))
        return StoryStep(
            None,
            [
                {"op": "incr", "path": "records.score", "value": amount},
                {"op": "max", "path": "records.best", "value": self._rng.randrange(1000)},
            ],
        )

    def _remember(self) -> StoryStep:
        room = {
            "id": self._rng.choice(("attic", "cellar", "größe")),
            "seen": self._rng.sample(range(9), 3),
            "half": 0.5,
        }
        return StoryStep(None, [{"op": "set", "path": "current_room", "value": room}])

    def _meet(self) -> StoryStep:
        op = "remove" if self._rng.random() < 0.3 else "add"
        return StoryStep(None, [{"op": op, "path": "friends_met", "value": self._rng.choice(FRIENDS)}])

    def _achieve(self) -> StoryStep:
        return StoryStep({"type": "achievement_unlocked", "content_id": self._rng.choice(self._achievements)})

    def _write_note(self) -> StoryStep:
        text = "".join(self._rng.choices("abc äöü ✨ \\\"'\n", k=self._rng.randrange(1, 200)))
        return StoryStep({"type": "note_written", "data": {"text": text, "tags": ["walk", "note"]}})

    def _break_rules(self) -> StoryStep:
        """Something wrong of each sort. None of them depends on the state, so the answer is sure."""
        return self._rng.choice(
            (
                StoryStep({"type": "waypoint_visited", "data": {"distance_traveled": 3.5}}, expected_code=102),
                StoryStep({"type": "item_collected", "content_id": self._items[0], "lat": 91.5}, expected_code=102),
                StoryStep(None, [{"op": "incr", "path": "inventory", "value": 1}], expected_code=106),
                StoryStep(None, [{"op": "incr", "path": "records.score", "value": 1e12}], expected_code=106),
                StoryStep(None, [{"op": "set", "path": "flags", "value": True}], expected_code=106),
                StoryStep(None, [{"op": "grow", "path": "flags.owl_seen", "value": True}], expected_code=106),
                StoryStep(
                    {"type": "item_collected", "content_id": "left_behind"},
                    [{"op": "add", "path": "distance_meters", "value": "far"}],
                    expected_code=106,
                ),
            )
        )


# One table for all players: each of theirs would be a kilobyte.
_WEIGHED: tuple[tuple[Callable[[Story], StoryStep], int], ...] = (
    (Story._visit, 40),
    (Story._collect_item, 14),
    (Story._collect_counted, 14),
    (Story._quest, 9),
    (Story._arrive, 4),
    (Story._change_flags, 6),
    (Story._count, 5),
    (Story._remember, 3),
    (Story._meet, 2),
    (Story._achieve, 1),
    (Story._write_note, 1),
    (Story._break_rules, 1),
)
_CHAPTERS = tuple(chapter for chapter, weight in _WEIGHED for _ in range(weight))
_PLACES = len(_CHAPTERS)


@functools.lru_cache(maxsize=64)
def _measure_legs(waypoints: tuple[Waypoint, ...]) -> tuple[float, ...]:
    """How far it is to each waypoint from the one before it, the last before the first; the same for all players."""
    before = (waypoints[-1], *waypoints[:-1])
    return tuple(round(distance_m(a.lat, a.lng, b.lat, b.lng), 1) for a, b in zip(before, waypoints, strict=True))
