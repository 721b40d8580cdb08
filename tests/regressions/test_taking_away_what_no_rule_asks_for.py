"""
Whether an experience was complete between two flushes was looked for whenever anything was taken away: each flush of a
player who loses health read the whole state from before and walked through it: 0.6 ms for one of a thousand members.
"""

from __future__ import annotations

from typing import Any

import pytest

from persistence.flusher import write
from persistence.flusher.completion import find_completed_at
from protocol.values import canonical_text, quoted
from tests.stores.conftest import Stores
from tests.stores.conftest import stores as stores
from tests.stores.test_completion import AT_MS, change, flush, visit


async def test_the_state_from_before_is_read_only_when_all_that_is_missing_was_taken_away(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[Any] = []

    def walk(*args: Any, **how: Any) -> Any:
        walked.append(args)
        return find_completed_at(*args, **how)

    monkeypatch.setattr(write, "find_completed_at", walk)
    player = stores.player("harbour")
    await player.hello()
    await player.send(
        player.make(visit("pier"), [*change("incr", "health", -5), *change("add", "inventory", "lamp")], at_ms=AT_MS)
    )
    assert await flush(stores) == (66.66, None)
    await player.send(player.make(None, change("remove", "inventory", "lamp"), at_ms=AT_MS))
    assert await flush(stores) == (33.33, None)
    assert not walked, "the shells were never there"

    await player.send(
        player.make(None, [*change("add", "inventory", "lamp"), *change("incr", "collectibles.shells", 3)]),
        player.make(None, [*change("incr", "collectibles.shells", -1), *change("remove", "inventory", "lamp")]),
    )
    _, completed_at = await flush(stores)
    assert completed_at is not None and len(walked) == 1


@pytest.mark.parametrize("text", ["lamp", 'a "lamp"', "l\\mp", "lämpchen 灯", "tab\tbed", "a/b", "\u007f\u2028"])
def test_names_are_written_in_effects_as_they_are_looked_for(text: str) -> None:
    assert quoted(text) in canonical_text([{"value": text}])
