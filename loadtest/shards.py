"""
Shards: a test that several machines run together, each its part of the players. `--shard 2/3` is the second of three.

Every machine is given the same flags but this one; players are numbered over all of them, so that a merged report knows
each once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shard:
    number: int = 1
    of: int = 1

    def find_part(self, players: int) -> tuple[int, int]:
        """The first player of this shard, and how many it has."""
        first = players * (self.number - 1) // self.of
        return first, players * self.number // self.of - first

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_shard(text: str) -> Shard:
    """Raises ValueError."""
    try:
        number, of = map(int, text.split("/"))
    except ValueError:
        raise ValueError(f"{text!r} is no shard: use I/N, 1/3 for the first of three") from None
    if not 1 <= number <= of <= 1000:
        raise ValueError(f"{text!r} is no shard: they are 1/{of} to {of}/{of}")
    return Shard(number, of)
