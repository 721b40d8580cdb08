"""The nearest real name for one that does not exist."""

from __future__ import annotations

from collections.abc import Iterable

NEAR = 0.7  # how alike two names must be, from 0 to 1: a letter or two wrong; a far name misleads


def find_nearest(name: str, names: Iterable[str]) -> str | None:
    # Imported here: it is needed only when something is wrong already.
    from difflib import get_close_matches

    folded = {candidate.lower().replace("-", "_"): candidate for candidate in names}
    found = get_close_matches(name.lower().replace("-", "_"), folded, n=1, cutoff=NEAR)
    return folded[found[0]] if found else None


def suggest(name: str, names: Iterable[str]) -> str:
    """' (did you mean X?)', or nothing when no name is near."""
    nearest = find_nearest(name, names)
    return f" (did you mean {nearest}?)" if nearest else ""
