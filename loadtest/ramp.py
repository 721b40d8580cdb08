"""
The ramp: when each player comes, and when it goes for good.

A ramp is stages, one after the other, comma-separated:

    linear:N:S   to N players, evenly, in S seconds (also downwards)
    step:N       to N players at once
    hold:S       as many as there are, for S seconds
    spike:N:S    N more at once, who go again after S seconds

Without one, all players come in `--ramp-s`. Pure: the same seed gives the same times in every process.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass

AT_ONCE_S = 1.0  # what comes at once comes within this: a crowd of phones has no common clock


@dataclass(frozen=True, slots=True)
class Stage:
    kind: str
    players: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Stay:
    """Of one player, in seconds after the start of the ramp; `until_s` None: to the end."""

    from_s: float
    until_s: float | None = None


def parse_ramp(text: str) -> tuple[Stage, ...]:
    """Raises ValueError, naming the stage."""
    stages = []
    for part in text.split(","):
        kind, *numbers = part.strip().split(":")
        try:
            if kind in ("linear", "spike") and len(numbers) == 2:
                stage = Stage(kind, int(numbers[0]), float(numbers[1]))
            elif kind == "step" and len(numbers) == 1:
                stage = Stage(kind, int(numbers[0]), 0.0)
            elif kind == "hold" and len(numbers) == 1:
                stage = Stage(kind, 0, float(numbers[0]))
            else:
                raise ValueError
            if not (0 <= stage.players <= 1_000_000 and 0 <= stage.seconds <= 86_400):
                raise ValueError
        except ValueError:
            raise ValueError(f"{part.strip()!r} is no stage: use linear:N:S, step:N, hold:S or spike:N:S") from None
        stages.append(stage)
    return tuple(stages)


def count_players(stages: Sequence[Stage]) -> int:
    """How many different players such a ramp needs."""
    return len(_plan(stages, random.Random(0), is_even=True))


def find_length_s(stages: Sequence[Stage]) -> float:
    """When the last stage is over."""
    return sum(stage.seconds for stage in stages)


def plan_stays(players: int, stages: Sequence[Stage], seed: int, *, is_even: bool = False) -> list[Stay]:
    """
    When each of `players` is there, by number. Who comes when is shuffled, so that every process has its part of every
    stage. `is_even`: at even distances instead of at random (a Poisson process, given how many there are).
    """
    rng = random.Random(f"ramp/{seed}")
    stays = _plan(stages, rng, is_even=is_even)
    if len(stays) > players:
        raise ValueError(f"the ramp needs {len(stays)} players")
    last_s = find_length_s(stages)
    stays += [Stay(last_s)] * (players - len(stays))
    order = list(range(players))
    rng.shuffle(order)
    placed = stays[:]
    for place, stay in zip(order, stays, strict=True):
        placed[place] = stay
    return placed


def _plan(stages: Sequence[Stage], rng: random.Random, *, is_even: bool) -> list[Stay]:
    stays: list[Stay] = []
    present: list[tuple[float, int]] = []  # those who stay until they are sent: (-when they came, number)
    at_s = 0.0

    def come(count: int, seconds: float, until_s: float | None = None) -> None:
        times = [seconds * (i + 0.5) / count if is_even else rng.random() * seconds for i in range(count)]
        for time_s in sorted(times):
            if until_s is None:
                heapq.heappush(present, (-(at_s + time_s), len(stays)))
            stays.append(Stay(at_s + time_s, until_s + rng.random() * AT_ONCE_S if until_s is not None else None))

    for stage in stages:
        if stage.kind == "spike":
            come(stage.players, min(AT_ONCE_S, stage.seconds), at_s + stage.seconds)
        elif stage.kind in ("linear", "step"):
            seconds = stage.seconds if stage.kind == "linear" else AT_ONCE_S
            missing = stage.players - len(present)
            come(max(0, missing), seconds)
            for number in range(max(0, -missing)):  # who came last goes first
                _, player = heapq.heappop(present)
                stays[player] = Stay(stays[player].from_s, at_s + seconds * (number + 0.5) / -missing)
        at_s += stage.seconds
    return stays
