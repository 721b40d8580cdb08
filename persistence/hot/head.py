"""
The head of a hot copy, as Python reads it: the numbers that `lua/parts/head.lua` describes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

_HEAD = struct.Struct("<8d")
_EARLIER_FIELDS = (b"version", b"base_version", b"offset", b"base_offset", b"state_fields", b"state_bytes")


class Head(NamedTuple):
    """See `lua/parts/head.lua`; offsets in bytes, `active_ms` by the clock of Redis."""

    version: int
    base_version: int
    offset: int
    base_offset: int
    state_fields: int
    state_bytes: int
    connection: int
    active_ms: int


def unpack_head(packed: bytes) -> Head:
    return Head(*map(int, _HEAD.unpack(packed)))


def find_head(fields: Mapping[bytes, bytes]) -> Head:
    """
    The head of a whole progress hash, also of one that version 0.1.0 made and no script has touched since.

    Raises:
        KeyError: this is no progress.
    """
    packed = fields.get(b"head")
    if packed is not None:
        return unpack_head(packed)
    return Head._make([*(int(fields[name]) for name in _EARLIER_FIELDS), 0, 0])
