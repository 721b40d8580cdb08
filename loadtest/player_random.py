"""
Random numbers of one player, in four hundred bytes: the standard generator keeps two and a half kilobytes of state,
which is a tenth of all that a simulated player may cost.

The numbers are BLAKE2b of the seed and a counter, eight at a time: a third of the time of a generator that is written
in Python, and beyond doubt as numbers. What is made of them (distributions) are the functions of `random`. Pure.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Sequence
from typing import Any

_TO_FLOAT = 2.0**-53
_unpack = struct.Struct("<8Q").unpack


class PlayerRandom:
    """The methods of `random.Random` that stories need; the same seed gives the same numbers."""

    __slots__ = ("_blocks", "_key", "_numbers", "gauss_next")

    def __init__(self, seed: str) -> None:
        self._key = hashlib.blake2b(seed.encode(), digest_size=16).digest()
        self._blocks = 0
        self._numbers: list[int] = []  # of this block, those that are left
        self.gauss_next: float | None = None

    def random(self) -> float:
        numbers = self._numbers
        return ((numbers.pop() if numbers else self._begin_block()) >> 11) * _TO_FLOAT

    def getrandbits(self, bits: int) -> int:
        value = got = 0
        while got < bits:
            number = self._numbers.pop() if self._numbers else self._begin_block()
            value, got = (value << 64) | number, got + 64
        return value >> (got - bits)

    def choice(self, values: Sequence[Any]) -> Any:
        if not values:
            raise IndexError("nothing to choose from")
        return values[int(self.random() * len(values))]

    def _randbelow(self, end: int) -> int:
        """What the functions of `random` ask for."""
        if end < 1 << 32:
            return int(self.random() * end)
        bits = end.bit_length()
        value = self.getrandbits(bits)
        while value >= end:
            value = self.getrandbits(bits)
        return value

    def _begin_block(self) -> int:
        """The first number of the next eight."""
        self._blocks += 1
        self._numbers = list(_unpack(hashlib.blake2b(b"%d" % self._blocks, key=self._key).digest()))
        return self._numbers.pop()


_BORROWED = (
    *("choices", "sample", "shuffle", "randrange", "randint", "uniform", "triangular"),
    *("gauss", "normalvariate", "lognormvariate", "expovariate", "paretovariate", "weibullvariate", "betavariate"),
    *("gammavariate", "vonmisesvariate", "randbytes"),
)
for _name in _BORROWED:
    setattr(PlayerRandom, _name, vars(random.Random)[_name])


def make_random(seed: str) -> random.Random:
    """A generator that behaves as one of `random`."""
    made: Any = PlayerRandom(seed)
    return made  # type: ignore[no-any-return]
