"""Players' progress for services: reads from either store without a session, changes as actions, history in pages."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from persistence.actions.shapes import InvalidAction
from persistence.errors import ProgressMissing, StoreUnavailable
from persistence.hot.store import HotStore
from persistence.player_progress import PlayerProgress
from tests.servers import Servers
from tests.stores.conftest import StorePlayer, Stores, empty_database

DAY_MS = 86_400_000


@pytest.fixture
async def database_url(module_database_url: str) -> str:
    await empty_database(module_database_url)
    return module_database_url


@pytest.fixture
async def progress(stores: Stores) -> AsyncIterator[PlayerProgress]:
    async with PlayerProgress(stores.hot, stores.cold, caller="quest-service") as opened:
        yield opened


async def walked(stores: Stores, player: StorePlayer) -> None:
    """A player who has been at two places and carries a lamp, in Redis alone."""
    await player.hello()
    for place in ("1_inter", "2_inter"):
        await player.send(player.make({"type": "waypoint_visited", "content_id": place}))
    await player.send(player.make({"type": "item_collected", "content_id": "lamp"}))


async def forget(stores: Stores, player: StorePlayer) -> None:
    """The copy has expired."""
    await player.leave()
    await stores.flush()
    assert await stores.hot._client.delete(stores.hot._keys.progress(player.key)) == 1


async def test_reads_show_what_is_accepted(stores: Stores, progress: PlayerProgress) -> None:
    player = stores.player()
    await walked(stores, player)
    user_id, experience = player.key
    state = await progress.get_player_state(user_id, experience)
    assert state.state["visited_waypoints"] == ["1_inter", "2_inter"] and state.version == 4
    assert await progress.get_inventory(user_id, experience) == ["lamp"]
    assert await progress.list_visited_waypoints(user_id, experience) == ["1_inter", "2_inter"]
    assert await progress.has_visited_waypoint(user_id, experience, "1_inter")
    assert not await progress.has_visited_waypoint(user_id, experience, "3_inter")
    assert (progress.reads, progress.hot_reads) == (5, 5)


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
async def test_after_expiry_a_read_works_from_postgres_without_a_session(
    stores: Stores, progress: PlayerProgress, warm: bool
) -> None:
    player = stores.player()
    await walked(stores, player)
    await forget(stores, player)
    user_id, experience = player.key
    assert await progress.get_inventory(user_id, experience, warm=warm) == ["lamp"]
    assert await progress.has_visited_waypoint(user_id, experience, "2_inter", warm=warm)
    state = await progress.get_player_state(user_id, experience, warm=warm)
    assert state.state["inventory"] == ["lamp"]
    assert progress.hot_reads == (2 if warm else 0)
    assert await stores.hot.find_session(user_id) is None
    ttl_s = await stores.hot._client.ttl(stores.hot._keys.progress(player.key))
    assert 0 < ttl_s <= 3600 if warm else ttl_s == -2


async def test_many_who_miss_at_once_read_postgres_once(stores: Stores) -> None:
    player = stores.player()
    await walked(stores, player)
    await forget(stores, player)
    everybody_missed = asyncio.Event()
    reads, missed = 0, 0
    read = stores.cold.find_progress

    def note(is_hot: bool) -> None:
        nonlocal missed
        missed += not is_hot
        if missed == 50:
            everybody_missed.set()

    async def counted(*args: object, **kwargs: object) -> object:
        nonlocal reads
        reads += 1
        await asyncio.wait_for(everybody_missed.wait(), 5)
        return await read(*args, **kwargs)  # type: ignore[arg-type]

    stores.cold.find_progress = counted  # type: ignore[method-assign, assignment]
    progress = PlayerProgress(stores.hot, stores.cold, caller="quest-service", on_read=note)
    found = await asyncio.gather(*[progress.get_inventory(*player.key) for _ in range(50)])
    assert found == [["lamp"]] * 50 and reads == 1
    await progress.close()


async def test_read_counts_as_a_use_of_an_idle_copy(stores: Stores, progress: PlayerProgress) -> None:
    player = stores.player()
    await walked(stores, player)
    await player.leave()
    await stores.flush()
    key = stores.hot._keys.progress(player.key)
    for read in (
        lambda: progress.get_player_state(*player.key),
        lambda: progress.get_inventory(*player.key),
        lambda: progress.has_visited_waypoint(*player.key, "1_inter"),
    ):
        await stores.hot._client.expire(key, 10)
        await read()
        assert await stores.hot._client.ttl(key) > 3000


async def test_read_of_a_player_who_plays_does_not_let_the_copy_expire(
    stores: Stores, progress: PlayerProgress
) -> None:
    player = stores.player()
    await walked(stores, player)
    await progress.get_player_state(*player.key)
    assert await stores.hot._client.ttl(stores.hot._keys.progress(player.key)) == -1


async def test_full_redis_is_not_warmed(stores: Stores) -> None:
    player = stores.player()
    await walked(stores, player)
    await forget(stores, player)

    async def nearly_full() -> float:
        return 0.7

    stores.hot.find_memory_share = nearly_full  # type: ignore[method-assign]
    progress = PlayerProgress(stores.hot, stores.cold, caller="quest-service")
    assert await progress.get_inventory(*player.key) == ["lamp"]
    assert await stores.hot.find_progress(player.key) is None


async def test_nothing_is_made_for_whom_nobody_knows(stores: Stores, progress: PlayerProgress) -> None:
    stranger = str(uuid.uuid4())
    for ask in (progress.get_player_state, progress.get_inventory):
        with pytest.raises(ProgressMissing):
            await ask(stranger, "wylding-woods")
    with pytest.raises(ProgressMissing):
        await progress.add_to_inventory(stranger, "wylding-woods", "lamp")
    assert await progress.find_profile(stranger) is None
    assert (await progress.list_history(stranger)).events == []
    assert await stores.fetch("SELECT * FROM users") == []


async def test_arguments_that_fit_nothing_are_refused_before_anything_is_asked(progress: PlayerProgress) -> None:
    user_id = str(uuid.uuid4())
    for ask in (
        lambda: progress.get_inventory("ann", "wylding-woods"),
        lambda: progress.get_inventory(user_id, "a:b"),
        lambda: progress.list_history(user_id, "x", limit=0),
        lambda: progress.list_history(user_id, "x", limit=101),
        lambda: progress.list_history(user_id, "x", cursor="newest"),
        lambda: progress.list_history(user_id, cursor="1.2.3"),
        lambda: progress.list_history(user_id, since_ms=2, until_ms=2),
    ):
        with pytest.raises(ValueError):
            await ask()


async def test_redis_that_is_away_is_said_and_not_read_past(stores: Stores) -> None:
    """Postgres alone could be behind what is accepted."""
    player = stores.player()
    await walked(stores, player)
    await stores.flush()
    away = await HotStore.open("redis://127.0.0.1:1/0")
    progress = PlayerProgress(away, stores.cold, caller="quest-service")
    with pytest.raises(StoreUnavailable):
        await progress.get_inventory(*player.key)
    ticket = await progress.add_to_inventory(*player.key, "rope")
    assert ticket.state == "requested", "it is written down, and happens when Redis is back"
    await away.close()
    back = PlayerProgress(stores.hot, stores.cold, caller="quest-service")
    (action,) = await back.journal.list_requested(
        (await stores.fetch("SELECT id FROM experience_progress"))[0][0].hex, 9
    )
    assert action.id == ticket.id
    await back.issuer.issue_requested(player.key, action.row_id or "")
    assert await back.get_inventory(*player.key) == ["lamp", "rope"]


async def test_changes_are_accepted_then_saved_in_the_callers_name(stores: Stores, progress: PlayerProgress) -> None:
    player = stores.player()
    await walked(stores, player)
    user_id, experience = player.key
    ticket = await progress.add_to_inventory(user_id, experience, "rope", reason="a prize")
    assert ticket.state == "accepted" and ticket.version == 5
    await progress.remove_from_inventory(user_id, experience, "lamp")
    await progress.update_location(user_id, experience, "attic")
    last = await progress.log_event(
        user_id, experience, "waypoint_visited", "3_inter", {"distance_traveled": 10}, lat=37.9, lng=-122.5
    )
    waiting = asyncio.create_task(progress.wait_saved(last))
    await stores.flush()
    saved = await waiting
    assert (saved.state, saved.operator, saved.role, saved.action) == ("done", "quest-service", "service", "log_event")
    state = (await progress.get_player_state(user_id, experience)).state
    assert state["inventory"] == ["rope"] and state["current_location"] == "3_inter"
    assert state["distance_meters"] == 10
    page = await progress.list_history(user_id, experience, limit=4)
    assert [event["event_type"] for event in page.events] == [
        "waypoint_visited",
        "location_reached",
        "operator_edit",
        "operator_edit",
    ]
    assert page.events[0]["location_lat"] == 37.9 and page.events[0]["device_id"] == "ops"


async def test_wait_saved_lets_it_be_flushed_at_once(stores: Stores, progress: PlayerProgress) -> None:
    player = stores.player()
    await walked(stores, player)
    await stores.flush()
    ticket = await progress.add_to_inventory(*player.key, "rope")
    flusher = stores.flusher()
    assert await flusher.flush_due() == 0, "nothing is due for five seconds"
    waiting = asyncio.create_task(progress.wait_saved(ticket, 5.0))
    async with asyncio.timeout(5):
        while not waiting.done():
            await flusher.flush_due()
            await asyncio.sleep(0.01)
    await flusher.close()
    assert (await waiting).state == "done"


async def test_wait_saved_gives_up_in_time(stores: Stores, progress: PlayerProgress) -> None:
    player = stores.player()
    await walked(stores, player)
    ticket = await progress.add_to_inventory(*player.key, "rope")
    with pytest.raises(TimeoutError):
        await progress.wait_saved(ticket, 0.2)


async def test_change_without_effect_is_void_and_says_why(stores: Stores, progress: PlayerProgress) -> None:
    player = stores.player()
    await walked(stores, player)
    await player.send(player.make(None, [{"op": "set", "path": "coins", "value": "many"}]))
    ticket = await progress.edit_state(*player.key, [{"op": "incr", "path": "coins", "value": 1}])
    assert (ticket.state, ticket.code) == ("void", 106)
    await stores.flush()
    assert (await progress.wait_saved(ticket)).state == "refused"
    with pytest.raises(InvalidAction):
        await progress.add_to_inventory(*player.key, "x" * 129)


async def test_change_with_an_id_happens_once(stores: Stores, progress: PlayerProgress) -> None:
    player = stores.player()
    await walked(stores, player)
    action_id = str(uuid.uuid4())
    effects = [{"op": "incr", "path": "coins", "value": 5}]
    for _ in range(2):
        ticket = await progress.edit_state(*player.key, effects, action_id=action_id)
        assert ticket.state == "accepted"
    await stores.flush()
    ticket = await progress.edit_state(*player.key, effects, action_id=action_id)
    assert (ticket.state, ticket.version) == ("accepted", 5)
    assert (await progress.get_player_state(*player.key)).state["coins"] == 5


# --- history ---------------------------------------------------------------------------------------------------------


async def all_pages(progress: PlayerProgress, user_id: str, experience: str | None, **filters: object) -> list[int]:
    """The seqs of all events, page by page."""
    found: list[int] = []
    cursor: str | None = None
    while True:
        page = await progress.list_history(user_id, experience, limit=3, cursor=cursor, **filters)  # type: ignore[arg-type]
        found += [event["seq"] for event in page.events]
        cursor = page.cursor
        if cursor is None:
            return found


async def test_history_is_paged_and_filtered(stores: Stores, progress: PlayerProgress) -> None:
    player = stores.player()
    await player.hello()
    start_ms = await stores.hot.time_ms() - 80 * DAY_MS
    # Every tenth day, so in several partitions; what happened and what came first are not the same order.
    days = [0, 10, 20, 70, 60, 50, 40]
    for n, day in enumerate(days):
        event = {"type": "waypoint_visited" if n % 2 else "item_collected", "content_id": f"c{n % 3}"}
        await player.send(player.make(event, at_ms=start_ms + day * DAY_MS))
    await stores.flush()
    user_id, experience = player.key
    assert await all_pages(progress, user_id, experience) == [7, 6, 5, 4, 3, 2, 1], "newest accepted first"
    assert await all_pages(progress, user_id, experience, event_type="waypoint_visited") == [6, 4, 2]
    assert await all_pages(progress, user_id, experience, content_id="c0") == [7, 4, 1]
    between = {"since_ms": start_ms + 20 * DAY_MS, "until_ms": start_ms + 60 * DAY_MS}
    assert await all_pages(progress, user_id, experience, **between) == [7, 6, 3]
    assert await all_pages(progress, user_id, experience, event_type="waypoint_visited", **between) == [6]
    assert await all_pages(progress, user_id, "west-of-house") == []


async def test_history_over_all_experiences_goes_by_when_it_happened(stores: Stores, progress: PlayerProgress) -> None:
    user_id = str(uuid.uuid4())
    start_ms = await stores.hot.time_ms() - DAY_MS
    for experience, moments in (("wylding-woods", (5, 1, 3, 3)), ("west-of-house", (2, 3, 4))):
        player = stores.player(experience, user_id, device=experience)
        await player.hello()
        for moment in moments:
            await player.send(player.make({"type": "step"}, at_ms=start_ms + moment * 1000))
        await player.leave()
    await stores.flush()
    seen: list[tuple[int, str, int]] = []
    cursor: str | None = None
    while True:
        page = await progress.list_history(user_id, limit=2, cursor=cursor)
        seen += [(e["timestamp"] - start_ms, e["experience_id"], e["seq"]) for e in page.events]
        cursor = page.cursor
        if cursor is None:
            break
    assert [moment for moment, _, _ in seen] == [5000, 4000, 3000, 3000, 3000, 2000, 1000]
    assert len(set(seen)) == 7, "events of one moment are neither skipped nor repeated between pages"
    only = await progress.list_history(user_id, since_ms=start_ms + 2000, until_ms=start_ms + 3000)
    assert [event["experience_id"] for event in only.events] == ["west-of-house"]


async def test_leaderboard_shows_the_best_and_where_one_stands(stores: Stores, progress: PlayerProgress) -> None:
    ids = []
    for metres in (5, 12.5, 12.5, 1):
        player = stores.player()
        await player.hello()
        visit = {"type": "waypoint_visited", "content_id": "1_inter", "data": {"distance_traveled": metres}}
        await player.send(player.make(visit))
        ids.append(player.key.user_id)
    await stores.flush()
    board = await progress.list_leaderboard("wylding-woods", limit=3, user_id=ids[3])
    assert [(row.rank, row.score) for row in board.rows] == [(1, 12.5), (1, 12.5), (3, 5)]
    assert {row.user_id for row in board.rows} == set(ids[:3])
    assert board.me is not None and (board.me.rank, board.me.score) == (4, 1)
    assert (await progress.list_leaderboard("wylding-woods")).me is None
    for bad in ({"board": "no path"}, {"limit": 0}, {"user_id": "ann"}):
        with pytest.raises(ValueError):
            await progress.list_leaderboard("wylding-woods", **bad)  # type: ignore[arg-type]


async def test_players_reach_only_the_player_they_name(stores: Stores, progress: PlayerProgress) -> None:
    ann, bob = stores.player(), stores.player()
    await walked(stores, ann)
    await bob.hello()
    await stores.flush()
    assert await progress.get_inventory(*bob.key) == []
    assert (await progress.list_history(bob.key.user_id)).events == []


async def test_standalone_access_has_stores_of_its_own(servers: Servers, stores: Stores) -> None:
    player = stores.player()
    await walked(stores, player)
    async with await PlayerProgress.open(stores.redis_url, stores.database_url, caller="script") as progress:
        assert await progress.get_inventory(*player.key) == ["lamp"]
        await stores.hot.note_active_players({"wylding-woods": [(player.key.user_id, 1)]})
        assert await progress.count_active_players("wylding-woods") == 1
        assert await progress.count_active_players() == 1
