"""What may stand in an update: checked before it gets a number."""

from __future__ import annotations

from typing import Any, Final


def check_sendable(value: Any) -> None:
    """
    Refuse what a codec would write but no gateway reads: it would answer "bad frame", and the step would be used up.
    What a gateway reads and rejects is its own business.
    """
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str:
                raise TypeError(f"a key is text, not {type(key).__name__}")
            if type(inner) not in _SCALARS:
                check_sendable(inner)
    elif kind is list or kind is tuple:
        for inner in value:
            if type(inner) not in _SCALARS:
                check_sendable(inner)
    elif value is not None and kind not in _SCALARS:
        raise TypeError(f"{kind.__name__} has no place in an update")


_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
