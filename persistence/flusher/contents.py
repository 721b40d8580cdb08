"""
The numbers of contents: what rollups say instead of (experience, event type, content id).

Promise: a number that is handed out is that of a committed row, or of one that the caller's own transaction made. Rows
are never changed and never go, so what was seen committed may be remembered for as long as there is room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from persistence.cold.queries import queries

Content = tuple[str, str, str]
"""(experience, event type, content id)."""

REMEMBERED_MAX = 100_000
"""Contents remembered at once, about 30 MB. Past it the older half is asked for again when it comes up."""


class ContentIds:
    """What one process remembers; its connections share it."""

    def __init__(self, remembered_max: int = REMEMBERED_MAX) -> None:
        self._known: dict[Content, int] = {}
        self._remembered_max = remembered_max

    async def find_or_make(self, connection: Any, wanted: Iterable[Content]) -> dict[Content, int]:
        """
        The number of each, made where there is none: in order, so that two who make the same never wait in a circle.
        Those that are new here are to be given to `remember` once the transaction is committed.
        """
        known = self._known
        found: dict[Content, int] = {}
        missing: list[Content] = []
        for content in set(wanted):
            number = known.get(content)
            if number is None:
                missing.append(content)
            else:
                found[content] = number
        if missing:
            sql = queries("flush")
            missing.sort()
            for query in ("find_content_ids", "make_contents", "find_content_ids"):
                # Somebody else may have made one between the first look and ours: the second look finds it.
                rows = await connection.fetch(sql[query], *(list(column) for column in zip(*missing, strict=True)))
                found.update({(row["experience_id"], row["event_type"], row["content_id"]): row["id"] for row in rows})
                missing = [content for content in missing if content not in found]
                if not missing:
                    break
        assert not missing, "a content was made and is not there"
        return found

    def remember(self, committed: Mapping[Content, int]) -> None:
        """Numbers from a transaction that has been committed."""
        known = self._known
        known.update(committed)
        if len(known) > self._remembered_max:
            for content in list(known)[: len(known) - self._remembered_max // 2]:
                del known[content]
