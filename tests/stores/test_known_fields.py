"""What a connection knows of its fields: the same results as operations, and none where somebody else has written."""

from __future__ import annotations

from typing import Any

import pytest

from persistence.hot.known_fields import FIELDS_MAX, KnownFields
from persistence.hot.shapes import HotUpdate, Outcome
from protocol.entry import EntryIds
from tests.stores.conftest import StorePlayer, Stores

IDS = EntryIds()
WALK = [{"op": "incr", "path": "steps", "value": 0.5}, {"op": "set", "path": "pose", "value": "up"}]


def walk(player: StorePlayer, place: str, steps: float = 1) -> HotUpdate:
    return player.make({"type": "waypoint_visited", "content_id": place}, [{**WALK[0], "value": steps}, WALK[1]])


async def get_fields(stores: Stores, player: StorePlayer) -> dict[str, bytes]:
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None
    return progress.fields


def watch_calls(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Groups of each call that goes out from here on."""
    calls: list[int] = []
    apply = stores.hot._apply

    async def watched(groups: Any) -> Any:
        calls.append(len(groups))
        return await apply(groups)

    monkeypatch.setattr(stores.hot, "_apply", watched)
    return calls


async def make_knowing(stores: Stores) -> StorePlayer:
    """A player whose connection knows what its next walk will leave."""
    player = stores.player()
    await player.hello()
    await player.send(walk(player, "a"))
    assert player.known.foresee([walk(player, "b")]) is not None
    player.seq -= 1
    return player


async def test_what_is_foreseen_is_written_and_entered_like_any_update(stores: Stores) -> None:
    player = await make_knowing(stores)
    verdict = await player.send(walk(player, "b", 2.25), walk(player, "a", -1))
    assert (verdict.outcome, verdict.accepted, verdict.taken) == (Outcome.OK, 3, 2)
    fields = await get_fields(stores, player)
    assert fields["c:steps"] == b"2250000"
    assert {"m:visited_waypoints.a", "m:visited_waypoints.b"} <= set(fields)
    assert fields["v:current_location"] == b'"a"'
    await stores.flush()
    rows = await stores.fetch("SELECT seq, content_id FROM player_progress_events WHERE seq > 0 ORDER BY seq")
    assert [(row["seq"], row["content_id"]) for row in rows] == [(1, "a"), (2, "b"), (3, "a")]


async def test_somebody_else_wrote_in_between_and_nothing_of_theirs_is_lost(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = await make_knowing(stores)
    # Another gateway writes for the same connection, as an operator's action does: the version moves on.
    other = KnownFields()
    mine, player.known = player.known, other
    await player.send(walk(player, "b", 10))
    player.known = mine
    calls = watch_calls(stores, monkeypatch)
    verdict = await player.send(walk(player, "c", 100))
    assert calls == [1, 1]  # what was foreseen behind the old version was refused and asked again
    assert (verdict.outcome, verdict.taken) == (Outcome.OK, 1)
    assert (await get_fields(stores, player))["c:steps"] == b"111000000"
    await player.send(walk(player, "d", 1000))
    assert calls == [1, 1, 1]  # it knows again
    assert (await get_fields(stores, player))["c:steps"] == b"1111000000"


async def test_a_repeat_of_what_was_foreseen_changes_nothing(stores: Stores) -> None:
    player = await make_knowing(stores)
    update = walk(player, "b", 5)
    before = KnownFields()
    before.version, before.fields = player.known.version, dict(player.known.fields)
    await player.send(update)
    player.known = before  # the answer was lost
    player.told -= 1
    verdict = await player.send(update)
    assert (verdict.outcome, verdict.accepted, verdict.taken, verdict.repeated) == (Outcome.OK, 2, 0, 1)
    assert (await get_fields(stores, player))["c:steps"] == b"6000000"


async def test_a_repeat_between_new_updates_is_not_taken_for_the_next_one(stores: Stores) -> None:
    player = await make_knowing(stores)
    first, second = walk(player, "b"), walk(player, "c")
    verdict = await player.send(first, first, second)
    assert (verdict.accepted, verdict.taken, verdict.repeated) == (3, 2, 1)
    assert (await get_fields(stores, player))["c:steps"] == b"3000000"


async def test_a_bound_is_judged_by_the_operations(stores: Stores) -> None:
    player = await make_knowing(stores)
    verdict = await player.send(walk(player, "b", 8_999_999_999), walk(player, "c", 8_999_999_999))
    assert verdict.voids and verdict.voids[0][:2] == (3, 106)
    assert (await get_fields(stores, player))["c:steps"] == b"9000000000000000"
    big = [{"op": "set", "path": "pose", "value": "x" * 8000}] + [
        {"op": "set", "path": f"poses.{n}", "value": "x" * 8000} for n in range(7)
    ]
    await player.send(player.make(None, big))
    verdict = await player.send(player.make(None, [{"op": "set", "path": "pose", "value": "y" * 8100}]))
    assert not verdict.voids
    more = [{"op": "set", "path": f"poses.{n}", "value": "z" * 8190} for n in range(7)]
    verdict = await player.send(player.make(None, [*more, {"op": "set", "path": "pose", "value": "z" * 8190}]))
    assert [void[:2] for void in verdict.voids] == [(6, 105)]
    assert (await get_fields(stores, player))["v:pose"] == b'"' + b"y" * 8100 + b'"'


async def test_what_was_removed_is_not_foreseen(stores: Stores) -> None:
    player = await make_knowing(stores)
    await player.send(player.make(None, [{"op": "unset", "path": "steps"}]))
    verdict = await player.send(walk(player, "b", 3))
    assert verdict.taken == 1
    assert (await get_fields(stores, player))["c:steps"] == b"3000000"


async def test_what_is_known_is_bounded(stores: Stores) -> None:
    player = await make_knowing(stores)
    for first in range(0, 2 * FIELDS_MAX, 8):
        await player.send(
            player.make(None, [{"op": "set", "path": f"p.{n}", "value": 1} for n in range(first, first + 8)])
        )
        assert len(player.known.fields) <= FIELDS_MAX
