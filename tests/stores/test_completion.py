"""A flush notes when an experience was completed: by which update, whatever comes after it, and once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from protocol.experience import CompletionRule, ExperienceDefinition
from tests.stores.conftest import Stores

AT_MS = 1_700_000_000_000
HARBOUR = ExperienceDefinition(
    "harbour",
    "Harbour",
    completion=CompletionRule(
        ("m:visited_waypoints.pier", "m:inventory.lamp"), (("c:collectibles.shells", 3_000_000),)
    ),
)


def visit(place: str) -> dict[str, Any]:
    return {"type": "waypoint_visited", "content_id": place}


def change(op: str, path: str, value: Any) -> list[dict[str, Any]]:
    return [{"op": op, "path": path, "value": value}]


async def flush(stores: Stores) -> tuple[float, datetime | None]:
    flusher = stores.flusher(experiences={"harbour": HARBOUR})
    try:
        await flusher.flush_due(ahead_s=3600.0)
    finally:
        await flusher.close()
    (row,) = await stores.fetch("SELECT completion_percentage, completed_at FROM experience_progress")
    return row["completion_percentage"], row["completed_at"]


def at(step: int) -> datetime:
    return datetime.fromtimestamp(AT_MS / 1000 + step, UTC)


async def test_the_update_that_makes_the_state_complete_is_when_it_was_completed(stores: Stores) -> None:
    player = stores.player("harbour")
    await player.hello()
    await player.send(player.make(visit("pier"), at_ms=AT_MS + 1000))
    assert await flush(stores) == (33.33, None)
    await player.send(
        player.make(None, change("incr", "collectibles.shells", 3), at_ms=AT_MS + 2000),
        player.make(None, change("add", "inventory", "lamp"), at_ms=AT_MS + 3000),
        player.make(visit("quay"), at_ms=AT_MS + 4000),
    )
    assert await flush(stores) == (100.0, at(3))
    await player.send(player.make(None, change("remove", "inventory", "lamp"), at_ms=AT_MS + 5000))
    assert await flush(stores) == (100.0, at(3))


async def test_who_was_complete_between_two_flushes_alone_has_completed_it(stores: Stores) -> None:
    """Whether somebody who gave the lamp away at once had completed the harbour depended on when flushes came."""
    player = stores.player("harbour")
    await player.hello()
    await player.send(
        player.make(visit("pier"), change("incr", "collectibles.shells", 4), at_ms=AT_MS + 1000),
        player.make(None, change("add", "inventory", "lamp"), at_ms=AT_MS + 2000),
        player.make(None, change("incr", "collectibles.shells", -2), at_ms=AT_MS + 3000),
    )
    assert await flush(stores) == (100.0, at(2))


async def test_taking_away_completes_nothing(stores: Stores) -> None:
    player = stores.player("harbour")
    await player.hello()
    await player.send(
        player.make(visit("pier"), change("add", "inventory", "lamp"), at_ms=AT_MS + 1000),
        player.make(None, change("remove", "inventory", "lamp"), at_ms=AT_MS + 2000),
        player.make(None, change("incr", "collectibles.shells", 3), at_ms=AT_MS + 3000),
    )
    assert await flush(stores) == (66.66, None)


async def test_an_event_completes_whatever_the_state_holds(stores: Stores) -> None:
    player = stores.player("harbour")
    await player.hello()
    await player.send(
        player.make(visit("pier"), at_ms=AT_MS + 1000),
        player.make({"type": "experience_completed"}, at_ms=AT_MS + 2000),
        player.make({"type": "experience_completed"}, at_ms=AT_MS + 3000),
    )
    assert await flush(stores) == (100.0, at(2))
