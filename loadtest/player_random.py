"""
Random numbers of one player, in a hundred bytes: the standard generator keeps two and a half kilobytes of state, which
is a tenth of all that a simulated player may cost.

The numbers are those of SplitMix64 (Steele, Lea, Flood, 2014), which passes the usual batteries; what is made of them
(choices, distributions) are the functions of `random`. Pure.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

_MASK = (1 << 64) - 1
_TO_FLOAT = 2.0**-53


class PlayerRandom:
    """The methods of `random.Random` that stories need; the same seed gives the same numbers."""

    __slots__ = ("_state", "gauss_next")

    def __init__(self, seed: str) -> None:
        self._state = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "big")
        self.gauss_next: float | None = None

    def random(self) -> float:
        # The same as `_next`, without a call: stories ask for little else.
        self._state = state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((state ^ (state >> 31)) >> 11) * _TO_FLOAT

    def getrandbits(self, bits: int) -> int:
        value = got = 0
        while got < bits:
            value, got = (value << 64) | self._next(), got + 64
        return value >> (got - bits)

    def _next(self) -> int:
        self._state = state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        return state ^ (state >> 31)

    def choice(self, values: Sequence[Any]) -> Any:
        if not values:
            raise IndexError("nothing to choose from")
        return values[self._randbelow(len(values))]

    def _randbelow(self, end: int) -> int:
        """What `random.Random` asks `getrandbits` for, without a second call for each number."""
        bits = end.bit_length()
        if bits > 64:
            value = self.getrandbits(bits)
            while value >= end:
                value = self.getrandbits(bits)
            return value
        value = self._next() >> (64 - bits)
        while value >= end:
            value = self._next() >> (64 - bits)
        return value


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
