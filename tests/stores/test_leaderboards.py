"""Leaderboards on real stores: filled from Postgres, kept up by flushers, bounded, and without whoever was erased."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

import persistence.hot.boards
import persistence.leaderboards
from persistence.board import Board, parse_board
from persistence.cold.store import ColdStore
from persistence.erase import erase_player
from persistence.errors import StoreUnavailable
from persistence.flusher.flusher import Flusher
from persistence.hot.boards import BOARD_S, BOARDS_MAX, BoardAbsent, BoardView
from persistence.hot.keys import board_key, board_versions_key, boards_key
from persistence.leaderboards import BoardPage, Leaderboards, Standing
from tests.stores.conftest import StorePlayer, Stores
from tests.waiting import wait_until

WOODS = "wylding-woods"
DISTANCE, TOOLS = parse_board("distance"), parse_board("collectibles.artist_tools")
M = 1_000_000


@pytest.fixture
async def boards(stores: Stores) -> AsyncIterator[Leaderboards]:
    opened = Leaderboards(stores.hot, stores.cold)
    yield opened
    await opened.close()


async def walked(stores: Stores, metres: float, user_id: str | None = None) -> StorePlayer:
    """A player who has walked so far, not yet flushed."""
    player = stores.player(user_id=user_id)
    await player.hello()
    await walk(player, metres)
    return player


async def walk(player: StorePlayer, metres: float) -> None:
    event = {"type": "waypoint_visited", "content_id": "1_gate", "data": {"distance_traveled": metres}}
    await player.send(player.make(event))


def rows_of(page: BoardPage) -> list[tuple[str, float, int | None]]:
    return [(row.user_id, row.score / M, row.rank) for row in page.rows]


async def count_fills(boards: Leaderboards, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The boards that are read from Postgres from now on."""
    fills: list[str] = []
    listed = boards._list_scores

    async def counted(experience: str, board: Board) -> Any:
        fills.append(board.name)
        return await listed(experience, board)

    monkeypatch.setattr(boards, "_list_scores", counted)
    return fills


async def test_a_board_shows_what_is_saved_and_equal_scores_share_a_place(stores: Stores, boards: Leaderboards) -> None:
    first, second, third = [await walked(stores, metres) for metres in (30.5, 20, 20)]
    nobody = stores.player()
    await nobody.hello()
    await stores.flush()
    await walk(third, 1_000)

    page = await boards.read(WOODS, DISTANCE, third.key.user_id, 10)
    # Equal scores stand in the order of Redis, by user id from the end.
    tied = sorted([second.key.user_id, third.key.user_id], reverse=True)
    assert rows_of(page) == [(first.key.user_id, 30.5, 1), (tied[0], 20, 2), (tied[1], 20, 2)]
    assert page.me == Standing(third.key.user_id, 20 * M, 2)
    assert [row.user_id for row in (await boards.read(WOODS, DISTANCE, "", 1)).rows] == [first.key.user_id]
    assert (await boards.read(WOODS, DISTANCE, nobody.key.user_id, 10)).me is None
    assert (await boards.read("west-of-house", DISTANCE, first.key.user_id, 10)) == BoardPage([], None)


async def test_flushes_keep_a_board_without_another_look_at_postgres(
    stores: Stores, boards: Leaderboards, monkeypatch: pytest.MonkeyPatch
) -> None:
    fills = await count_fills(boards, monkeypatch)
    one = await walked(stores, 10)
    await stores.flush()
    await boards.read(WOODS, DISTANCE, "", 10)
    await boards.read(WOODS, TOOLS, "", 10)
    await boards.read(WOODS, parse_board("completion"), "", 10)

    other = await walked(stores, 25)
    await one.send(one.make(effects=[{"op": "incr", "path": "collectibles.artist_tools", "value": 2.5}]))
    await one.send(one.make({"type": "experience_completed"}))
    await stores.flush()
    page = await boards.read(WOODS, DISTANCE, one.key.user_id, 10)
    assert rows_of(page) == [(other.key.user_id, 25, 1), (one.key.user_id, 10, 2)]
    assert page.me is not None and page.me.rank == 2
    assert rows_of(await boards.read(WOODS, TOOLS, "", 10)) == [(one.key.user_id, 2.5, 1)]
    assert rows_of(await boards.read(WOODS, parse_board("completion"), "", 10)) == [(one.key.user_id, 100, 1)]

    # A counter may go down again, and to nothing: then its player is on the board no more.
    await one.send(one.make(effects=[{"op": "incr", "path": "collectibles.artist_tools", "value": -2.5}]))
    await stores.flush()
    assert (await boards.read(WOODS, TOOLS, one.key.user_id, 10)) == BoardPage([], None)
    assert fills == ["distance", "collectibles.artist_tools", "completion"]


async def test_a_board_lives_for_minutes_and_ends_with_all_that_belongs_to_it(
    stores: Stores, boards: Leaderboards, monkeypatch: pytest.MonkeyPatch
) -> None:
    fills = await count_fills(boards, monkeypatch)
    client = stores.hot._client
    empty = parse_board("steps")
    await boards.read(WOODS, empty, "", 10)
    player = await walked(stores, 10)
    await player.send(player.make(effects=[{"op": "incr", "path": "steps", "value": 3}]))
    await stores.flush()
    assert rows_of(await boards.read(WOODS, empty, "", 10)) == [(player.key.user_id, 3, 1)]
    assert fills == ["steps"], "a board without players is a board, too"

    keys = [board_key(WOODS, "steps"), board_versions_key(WOODS, "steps"), boards_key(WOODS)]
    ends = [await client.pexpiretime(key) for key in keys]
    now_ms = await stores.hot.time_ms()
    assert all(0 < end - now_ms <= BOARD_S * 1000 for end in ends)
    assert abs(ends[0] - ends[1]) <= 1
    for key in keys:
        assert await client.pexpire(key, 1)
    await wait_until("the board is gone", lambda: is_gone(client, keys))
    await boards.read(WOODS, empty, "", 10)
    assert fills == ["steps", "steps"]


async def is_gone(client: Any, keys: list[str]) -> bool:
    return not await client.exists(*keys)


async def test_of_two_saves_the_later_one_counts_whoever_comes_first(stores: Stores) -> None:
    player = str(uuid.uuid4())
    now_ms = await stores.hot.time_ms()
    assert await stores.hot.note_scores(WOODS, "distance", [(player, 3, 30)], now_ms) == -1

    opened = await stores.hot.open_board(WOODS, DISTANCE, "", 10, "mine")
    assert opened == BoardAbsent(is_ours=True)
    # Saved while the board is being filled, after the read of Postgres that is under way.
    assert await stores.hot.note_scores(WOODS, "distance", [(player, 3, 30)], now_ms) == 1
    assert await stores.hot.fill_board(WOODS, DISTANCE, "mine", [(player, 2, 20)], now_ms)
    for version, score, noted in [(3, 99, 0), (2, 99, 0), (4, 40, 1), (6, 0, 1), (5, 50, 0)]:
        assert await stores.hot.note_scores(WOODS, "distance", [(player, version, score)], now_ms) == noted
        view = await stores.hot.open_board(WOODS, DISTANCE, player, 10, "")
        assert isinstance(view, BoardView)
        assert view.score == {3: 30, 2: 30, 4: 40}.get(version)


async def test_one_asker_fills_and_the_others_wait(
    stores: Stores, boards: Leaderboards, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = await walked(stores, 10)
    await stores.flush()
    other_node = Leaderboards(stores.hot, stores.cold)
    fills = await count_fills(boards, monkeypatch)
    others = await count_fills(other_node, monkeypatch)
    asked = [node.read(WOODS, DISTANCE, player.key.user_id, 10) for node in (boards, other_node) for _ in range(20)]
    pages = await asyncio.gather(*asked)
    assert {page.me for page in pages} == {Standing(player.key.user_id, 10 * M, 1)}
    assert len(fills) + len(others) == 1
    await other_node.close()


async def test_a_lease_that_nobody_uses_is_waited_for_and_lapses(
    stores: Stores, boards: Leaderboards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistence.leaderboards, "WAIT_S", 0.1)
    assert await stores.hot.open_board(WOODS, DISTANCE, "", 10, "of the dead") == BoardAbsent(is_ours=True)
    with pytest.raises(StoreUnavailable, match="is being filled"):
        await boards.read(WOODS, DISTANCE, "", 10)
    await stores.hot._client.pexpire(board_versions_key(WOODS, "distance"), 1)
    await wait_until("the lease is over", lambda: is_gone(stores.hot._client, [board_versions_key(WOODS, "distance")]))
    assert await boards.read(WOODS, DISTANCE, "", 10) == BoardPage([], None)
    # Who comes back with the lease of before is refused.
    assert not await stores.hot.fill_board(WOODS, DISTANCE, "of the dead", [("x", 1, 1)], 0)
    assert await boards.read(WOODS, DISTANCE, "", 10) == BoardPage([], None)


async def test_while_postgres_is_away_boards_that_are_there_answer(stores: Stores, boards: Leaderboards) -> None:
    player = await walked(stores, 10)
    await stores.flush()
    away = Leaderboards(stores.hot, await ColdStore.open("postgresql://wayhold@127.0.0.1:1/wayhold"))
    for _ in range(2):
        # The second time as well: a lease that could not be used was given back.
        with pytest.raises(StoreUnavailable, match="postgres"):
            await away.read(WOODS, DISTANCE, player.key.user_id, 10)
    await boards.read(WOODS, DISTANCE, player.key.user_id, 10)
    page = await away.read(WOODS, DISTANCE, player.key.user_id, 10)
    assert page.me == Standing(player.key.user_id, 10 * M, 1)
    await away.close()


async def test_a_full_board_is_exact_down_to_its_last_place(
    stores: Stores, boards: Leaderboards, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (persistence.hot.boards, persistence.leaderboards):
        monkeypatch.setattr(module, "BOARD_PLAYERS_MAX", 3)
    high, mid, low, equal, below = [await walked(stores, metres) for metres in (50, 40, 30, 30, 20)]
    await stores.flush()

    async def place_of(player: StorePlayer) -> tuple[float, int | None] | None:
        me = (await boards.read(WOODS, DISTANCE, player.key.user_id, 10)).me
        return None if me is None else (me.score / M, me.rank)

    # One of the two who are equal has no room; both are third.
    assert [await place_of(p) for p in (high, mid, low, equal, below)] == [
        *[(50, 1), (40, 2), (30, 3), (30, 3)],
        (20, None),
    ]
    assert len((await boards.read(WOODS, DISTANCE, "", 10)).rows) == 3
    # Somebody climbs from below: the floor rises, and the board is as it would be if it were filled now.
    await walk(below, 25)
    await stores.flush()
    assert [await place_of(p) for p in (high, below, mid, low)] == [(50, 1), (45, 2), (40, 3), (30, None)]
    stranger = stores.player()
    await stranger.hello()
    await stores.flush()
    assert await place_of(stranger) is None


async def test_a_player_who_falls_below_a_full_board_leaves_it(
    stores: Stores, boards: Leaderboards, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (persistence.hot.boards, persistence.leaderboards):
        monkeypatch.setattr(module, "BOARD_PLAYERS_MAX", 2)
    steps = parse_board("steps")
    players = []
    for count in (30, 20, 10):
        player = stores.player()
        await player.hello()
        await player.send(player.make(effects=[{"op": "incr", "path": "steps", "value": count}]))
        players.append(player)
    await stores.flush()
    await boards.read(WOODS, steps, "", 10)
    await players[0].send(players[0].make(effects=[{"op": "incr", "path": "steps", "value": -25}]))
    await stores.flush()
    # 10 is more than 5, and nobody on this board knows of 10: so 5 has no place here, and is told none.
    page = await boards.read(WOODS, steps, players[0].key.user_id, 10)
    assert rows_of(page) == [(players[1].key.user_id, 20, 1)]
    assert page.me == Standing(players[0].key.user_id, 5 * M, None)


async def test_who_falls_while_a_board_is_filled_is_not_put_above_those_who_were_not_read(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistence.hot.boards, "BOARD_PLAYERS_MAX", 2)
    falls, stays = str(uuid.uuid4()), str(uuid.uuid4())
    now_ms = await stores.hot.time_ms()
    assert await stores.hot.open_board(WOODS, DISTANCE, "", 10, "mine") == BoardAbsent(is_ours=True)
    assert await stores.hot.note_scores(WOODS, "distance", [(falls, 2, 5)], now_ms) == 1
    assert await stores.hot.fill_board(WOODS, DISTANCE, "mine", [(falls, 1, 30), (stays, 1, 20)], now_ms)
    assert await stores.hot.open_board(WOODS, DISTANCE, falls, 10, "") == BoardView([(stays, 20)], 20, None, 0)


async def test_a_board_that_would_remember_too_many_players_goes(
    stores: Stores, boards: Leaderboards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistence.hot.boards, "BOARD_VERSIONS_MAX", 4)
    await boards.read(WOODS, DISTANCE, "", 10)
    keys = [board_key(WOODS, "distance"), board_versions_key(WOODS, "distance")]
    # State and floor of the board are two of the fields that are counted.
    players = [await walked(stores, metres) for metres in (1, 2)]
    for _ in range(3):
        for player in players:
            await walk(player, 1)
        await stores.flush()
    assert not await is_gone(stores.hot._client, keys)
    players += [await walked(stores, metres) for metres in (4, 5)]
    await stores.flush()
    assert await is_gone(stores.hot._client, keys)
    assert (await stores.hot.list_boards([WOODS]))[1] == {}
    assert len((await boards.read(WOODS, DISTANCE, "", 10)).rows) == len(players)


async def test_an_experience_has_a_bounded_number_of_boards(stores: Stores, boards: Leaderboards) -> None:
    for number in range(BOARDS_MAX):
        await boards.read(WOODS, parse_board(f"steps_{number}"), "", 10)
    with pytest.raises(StoreUnavailable, match="too many boards"):
        await boards.read(WOODS, TOOLS, "", 10)
    # There is always room for these, and in other experiences.
    await boards.read(WOODS, DISTANCE, "", 10)
    await boards.read(WOODS, parse_board("completion"), "", 10)
    await boards.read("west-of-house", TOOLS, "", 10)
    await stores.hot._client.zadd(boards_key(WOODS), {"steps_0": 1})
    await boards.read(WOODS, TOOLS, "", 10)


async def test_an_erased_player_is_on_no_board_and_does_not_come_back(stores: Stores, boards: Leaderboards) -> None:
    player, other = await walked(stores, 30), await walked(stores, 10)
    await stores.flush()
    await boards.read(WOODS, DISTANCE, "", 10)
    user_id, before_ms = player.key.user_id, await stores.hot.time_ms()
    await erase_player(stores.hot, stores.database_url, user_id)
    assert [row.user_id for row in (await boards.read(WOODS, DISTANCE, "", 10)).rows] == [other.key.user_id]

    # A flusher that stood still since its commit, and a node that has read Postgres before the erase.
    assert await stores.hot.note_scores(WOODS, "distance", [(user_id, 9, 90)], before_ms) == 0
    assert await stores.hot.open_board(WOODS, TOOLS, "", 10, "slow") == BoardAbsent(is_ours=True)
    assert await stores.hot.fill_board(WOODS, TOOLS, "slow", [(user_id, 9, 90)], before_ms)
    for board in (DISTANCE, TOOLS):
        assert user_id not in [row.user_id for row in (await boards.read(WOODS, board, "", 10)).rows]
        for key in (board_key(WOODS, board.name), board_versions_key(WOODS, board.name)):
            held = await stores.hot._client.dump(key) or b""
            assert user_id.encode() not in held

    # Starting anew: what is saved from now on counts.
    again = StorePlayer(stores.hot, stores.cold, player.key, "another phone")
    started_ms = await stores.hot.time_ms()
    cold = await stores.cold.open_progress(again.key, again.device, time.time() + 10)
    await stores.hot.install(cold, started_ms)
    await again.hello_without_hydrate()
    await walk(again, 5)
    await stores.flush()
    page = await boards.read(WOODS, DISTANCE, user_id, 10)
    assert page.me == Standing(user_id, 5 * M, 2)


async def test_only_counters_make_a_board(stores: Stores, boards: Leaderboards) -> None:
    player = stores.player()
    await player.hello()
    await player.send(
        player.make(
            effects=[
                {"op": "set", "path": "number", "value": 7},
                {"op": "set", "path": "route", "value": [3, 1]},
                {"op": "set", "path": "room", "value": {"seen": 2}},
                {"op": "set", "path": "flags.floor", "value": 4},
                {"op": "incr", "path": "collectibles.a.dotted «key»", "value": 0.000001},
                {"op": "max", "path": "record", "value": 9_000_000_000},
                {"op": "incr", "path": "debt", "value": -5},
            ]
        )
    )
    await stores.flush()
    for name in ("number", "route", "route.0", "room.seen", "flags.floor", "debt", "nothing", "inventory.0", "room"):
        assert await boards.read("wylding-woods", parse_board(name), player.key.user_id, 10) == BoardPage([], None), (
            name
        )
    for name, score in [("collectibles.a.dotted «key»", 1), ("record", 9_000_000_000 * M)]:
        page = await boards.read(WOODS, parse_board(name), player.key.user_id, 10)
        assert page.me == Standing(player.key.user_id, score, 1), name


async def test_a_full_redis_does_not_stop_a_flush(stores: Stores, boards: Leaderboards) -> None:
    await boards.read(WOODS, DISTANCE, "", 10)
    player = await walked(stores, 10)
    client = stores.hot._client
    await client.config_set("maxmemory", 1)
    try:
        await stores.flush()
    finally:
        await client.config_set("maxmemory", 0)
    assert (await boards.read(WOODS, DISTANCE, player.key.user_id, 10)).me == Standing(player.key.user_id, 10 * M, 1)


async def test_boards_are_those_of_the_rows_however_flushers_interleave(stores: Stores, boards: Leaderboards) -> None:
    """After each round of random steps and flushes by two flushers at once, every board is what a new one would be."""
    rng = random.Random(5)
    players: list[StorePlayer] = []
    names = ["distance", "steps", "collectibles.artist_tools"]
    flushers: list[Flusher] = [stores.flusher(), stores.flusher()]
    for _ in range(6):
        player = stores.player()
        await player.hello()
        players.append(player)
    for turn in range(8):
        for _ in range(30):
            player = rng.choice(players)
            path = rng.choice(["distance_meters", "steps", "collectibles.artist_tools"])
            value = rng.choice([-3, -0.5, 1, 2.000001, 10])
            await player.send(player.make(effects=[{"op": "incr", "path": path, "value": value}]))
        await asyncio.gather(*[flusher.flush_due(ahead_s=3600.0) for flusher in flushers])
        await stores.flush()
        kept = [await boards.read(WOODS, parse_board(name), players[0].key.user_id, 10) for name in names]
        if turn % 2:
            continue
        for name in names:
            await stores.hot._client.delete(board_key(WOODS, name), board_versions_key(WOODS, name))
        assert kept == [await boards.read(WOODS, parse_board(name), players[0].key.user_id, 10) for name in names]
    for flusher in flushers:
        await flusher.close()
