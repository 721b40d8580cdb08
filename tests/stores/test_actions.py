"""Operators' actions on real servers: applied in order and saved once, whoever dies and whatever Redis forgets."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

import pytest

from persistence.actions.issuer import ActionIssuer, Issued
from persistence.actions.journal import WAITING_MAX, ActionJournal
from persistence.actions.shapes import Action, ActionRequest, InvalidAction
from persistence.erase import erase_player
from persistence.errors import ActionsWaiting, ProgressMissing
from persistence.flusher.flusher import STEPS
from persistence.hot.shapes import ActionOutcome, HotAction
from persistence.warmer import Warmer
from protocol.state import document
from tests.stores.conftest import ENTRY_IDS, StorePlayer, Stores, empty_database

ADD_LAMP = [{"op": "add", "path": "inventory", "value": "lamp"}]


class Desk:
    """An operator's place: a journal and an issuer of its own, as every node has them."""

    def __init__(self, at: Stores) -> None:
        self.stores = at
        self.journal = ActionJournal(at.cold)
        self.warmer = Warmer(at.hot, at.cold)
        self.issuer = ActionIssuer(at.hot, self.journal, self.warmer)

    async def request(self, player: StorePlayer, effects: Any = None, event: Any = None, **fields: Any) -> Action:
        wanted = ActionRequest(
            id=fields.pop("id", None) or str(uuid.uuid4()),
            operator="ann",
            role="operator",
            action=fields.pop("action", "grant_item"),
            reason="a test",
            event=event,
            effects=effects,
            **fields,
        )
        return await self.journal.request(player.key, wanted)

    async def state_of(self, action: Action) -> str:
        found = await self.journal.find(action.id)
        assert found is not None
        return found.state

    async def issue_waiting(self) -> None:
        """What the sweepers of the gateways do."""
        waiting, _ = await self.journal.list_waiting(0.0, 1000)
        for key, row_id in waiting:
            await self.issuer.issue_requested(key, row_id)


@pytest.fixture
async def database_url(module_database_url: str) -> str:
    await empty_database(module_database_url)
    return module_database_url


@pytest.fixture
def desk(stores: Stores) -> Desk:
    return Desk(stores)


async def stored_events(at: Stores, player: StorePlayer) -> list[tuple[str, int, str, Any]]:
    rows = await at.fetch(
        "SELECT e.device_id, e.seq, e.event_type, e.effects FROM player_progress_events e"
        " JOIN experience_progress p ON p.id = e.experience_progress_id JOIN player_profiles f ON f.id = p.player_id"
        " WHERE f.user_id = $1 ORDER BY e.version",
        player.key.user_id,
    )
    return [(r["device_id"], r["seq"], r["event_type"], json.loads(r["effects"] or "null")) for r in rows]


async def state_in_postgres(at: Stores, player: StorePlayer) -> dict[str, Any]:
    (row,) = await at.fetch(
        "SELECT p.state FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id WHERE f.user_id = $1",
        player.key.user_id,
    )
    state: dict[str, Any] = json.loads(row["state"])
    return state


async def test_action_is_requested_then_accepted_then_done(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    action = await desk.request(player, ADD_LAMP)
    assert (action.ops_seq, action.state) == (1, "requested")
    report = await desk.issuer.issue(action)
    assert report.issued is Issued.ACCEPTED
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None and document(progress.fields) == {"inventory": ["lamp"]}
    assert await desk.state_of(action) == "requested"
    await stores.flush()
    done = await desk.journal.find(action.id)
    assert done is not None and done.state == "done" and done.done_at is not None
    assert done.result == {"version": report.version}
    assert await stored_events(stores, player) == [("ops", 1, "operator_edit", ADD_LAMP)]
    (row,) = await stores.fetch("SELECT session_id, data FROM player_progress_events")
    assert str(row["session_id"]) == action.id, "an event of the stream ops says which action it is"
    assert json.loads(row["data"]) == {"action": "grant_item"}


async def test_action_with_an_event_is_stored_under_its_type(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    event = {"type": "waypoint_visited", "content_id": "1_inter", "data": {"distance_traveled": 2.5, "time_spent": 30}}
    await desk.issuer.issue(await desk.request(player, None, event))
    await stores.flush()
    assert [(device, kind) for device, _, kind, _ in await stored_events(stores, player)] == [
        ("ops", "waypoint_visited")
    ]
    assert (await state_in_postgres(stores, player))["distance_meters"] == 2.5


async def test_issuing_again_on_any_node_changes_nothing(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    action = await desk.request(player, [{"op": "incr", "path": "coins", "value": 5}])
    others = [Desk(stores) for _ in range(5)]
    reports = await asyncio.gather(*[other.issuer.issue(action) for other in [desk, *others]])
    assert {report.issued for report in reports} == {Issued.ACCEPTED}
    await stores.flush()
    await desk.issuer.issue(action)
    await stores.flush()
    assert (await state_in_postgres(stores, player))["coins"] == 5
    assert len(await stored_events(stores, player)) == 1


async def test_the_same_id_asks_for_the_same_action(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    wanted = str(uuid.uuid4())
    first, second = await asyncio.gather(*[desk.request(player, ADD_LAMP, id=wanted) for _ in range(2)])
    assert first == second and first.ops_seq == 1
    with pytest.raises(InvalidAction, match="another action"):
        await desk.request(player, ADD_LAMP, id=wanted, action="take_item")


async def test_concurrent_requests_get_one_number_each(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    actions = await asyncio.gather(*[desk.request(player, ADD_LAMP) for _ in range(20)])
    assert sorted(action.ops_seq or 0 for action in actions) == list(range(1, 21))


async def test_later_action_first_issues_the_earlier_ones(stores: Stores, desk: Desk) -> None:
    """The node that asked for the first two died between writing them down and applying them."""
    player = stores.player()
    await player.hello()
    order = [{"op": "set", "path": "title", "value": n} for n in (1, 2, 3)]
    actions = [await desk.request(player, [effect]) for effect in order]
    assert (await desk.issuer.issue(actions[2])).issued is Issued.ACCEPTED
    await stores.flush()
    assert [await desk.state_of(action) for action in actions] == ["done"] * 3
    assert [seq for _, seq, _, _ in await stored_events(stores, player)] == [1, 2, 3]
    assert (await state_in_postgres(stores, player))["title"] == 3


async def test_void_action_is_refused_and_uses_its_number_up(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make({"type": "x"}, [{"op": "set", "path": "coins", "value": "many"}]))
    action = await desk.request(player, [{"op": "incr", "path": "coins", "value": 1}])
    report = await desk.issuer.issue(action)
    assert report.issued is Issued.VOID and report.void is not None and report.void[0] == 106
    assert (await desk.issuer.issue(action)).void == report.void, "asked again, it is void again"
    following = await desk.request(player, ADD_LAMP)
    assert (await desk.issuer.issue(following)).issued is Issued.ACCEPTED
    await stores.flush()
    refused = await desk.journal.find(action.id)
    assert refused is not None and refused.state == "refused" and "another kind" in (refused.message or "")
    assert await desk.state_of(following) == "done"
    assert [(device, seq) for device, seq, _, _ in await stored_events(stores, player)] == [("phone", 1), ("ops", 2)]


async def test_what_can_never_be_done_is_not_written_down(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    for effects, event in (
        ([{"op": "add", "path": "flags", "value": "x"}], None),
        ([{"op": "explode", "path": "a"}], None),
        (None, {"type": "waypoint_visited"}),
    ):
        with pytest.raises(InvalidAction):
            await desk.request(player, effects, event)
    with pytest.raises(InvalidAction, match="UUID"):
        await desk.request(player, ADD_LAMP, id="x")
    assert await stores.fetch("SELECT * FROM liveops_actions") == []


async def test_only_progress_that_exists_is_acted_on(stores: Stores, desk: Desk) -> None:
    with pytest.raises(ProgressMissing):
        await desk.request(stores.player(), ADD_LAMP)
    assert await stores.fetch("SELECT * FROM users") == []


async def test_waiting_actions_of_a_progress_are_bounded(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    await stores.fetch(
        "INSERT INTO liveops_actions"
        " (id, experience_progress_id, ops_seq, user_id, experience_id, operator, role, action)"
        " SELECT gen_random_uuid(), p.id, n, f.user_id, p.experience_id, 'ann', 'operator', 'x'"
        " FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id, generate_series(1, $1) n",
        WAITING_MAX,
    )
    with pytest.raises(ActionsWaiting):
        await desk.request(player, ADD_LAMP)


async def test_action_on_a_player_who_is_away_is_flushed_and_leaves_the_copy_to_expire(
    stores: Stores, desk: Desk
) -> None:
    player = stores.player()
    await player.hello()
    await player.leave()
    await stores.flush()
    await stores.hot._client.delete(stores.hot._keys.progress(player.key))
    report = await desk.issuer.issue(await desk.request(player, ADD_LAMP))
    assert report.issued is Issued.ACCEPTED and report.push == 0
    progress_key = stores.hot._keys.progress(player.key)
    assert await stores.hot._client.ttl(progress_key) == -1, "what is pending must not expire"
    await stores.flush()
    assert await stores.hot._client.ttl(progress_key) > 0
    assert await stores.hot.find_session(player.key.user_id) is None, "no session is opened"
    assert await state_in_postgres(stores, player) == {"inventory": ["lamp"]}


async def test_edit_is_no_play_and_an_event_is(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    start_ms = await stores.hot.time_ms() - 100_000
    for n in range(3):
        await player.send(player.make({"type": "step"}, at_ms=start_ms + n * 10_000))
    await stores.flush()
    await desk.issuer.issue(await desk.request(player, ADD_LAMP))
    await stores.flush()
    (row,) = await stores.fetch("SELECT playtime_ms, last_update_at FROM experience_progress")
    assert row["playtime_ms"] == 20_000
    assert round(row["last_update_at"].timestamp() * 1000) == start_ms + 20_000
    event = {"type": "step", "at": start_ms + 25_000}
    await desk.issuer.issue(await desk.request(player, None, event))
    await stores.flush()
    (row,) = await stores.fetch("SELECT playtime_ms FROM experience_progress")
    assert row["playtime_ms"] == 25_000


async def test_rollups_count_edits_as_updates_and_not_as_days_played(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    await desk.issuer.issue(await desk.request(player, ADD_LAMP))
    await stores.flush()
    tables = ("experience_hours", "player_days", "content_hours", "content_player_days")

    async def counts() -> list[int]:
        return [(await stores.fetch(f"SELECT count(*) FROM {table}"))[0][0] for table in tables]

    assert await counts() == [1, 0, 0, 0]
    await stores.fetch("SELECT rebuild_rollups()")
    assert await counts() == [1, 0, 0, 0], "computed anew it is the same"
    event = {"type": "waypoint_visited", "content_id": "1_inter"}
    await desk.issuer.issue(await desk.request(player, None, event))
    await stores.flush()
    assert await counts() == [1, 1, 1, 1], "what a service says that the player did counts"
    await stores.fetch("SELECT rebuild_rollups()")
    assert await counts() == [1, 1, 1, 1]


async def test_quarantined_progress_keeps_its_actions_waiting(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make({"type": "step"}))
    progress = await stores.hot.find_progress(player.key)
    assert progress is not None
    assert await stores.hot.quarantine(player.key, progress.copy, progress.version, "", "refused")
    action = await desk.request(player, ADD_LAMP)
    assert (await desk.issuer.issue(action)).issued is Issued.WAITS
    await stores.hot.release_quarantine(player.key)
    await desk.issue_waiting()
    await stores.flush()
    assert await desk.state_of(action) == "done"


async def test_erased_player_takes_the_actions_along(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    action = await desk.request(player, ADD_LAMP)
    await erase_player(stores.hot, stores.database_url, player.key.user_id)
    assert (await desk.issuer.issue(action)).issued is Issued.GONE
    assert await stores.fetch("SELECT * FROM liveops_actions") == []
    # Anew, with a new device: the old action must not find the new row.
    again = stores.player(user_id=player.key.user_id, device="another phone")
    started_ms = await stores.hot.time_ms()
    cold = await stores.cold.open_progress(again.key, again.device, time.time() + 10)
    assert await stores.hot.install(cold, started_ms) == (True, 0)
    assert await again.hello_without_hydrate() is not None
    assert (await desk.issuer.issue(action)).issued is Issued.GONE
    await stores.flush()
    assert await state_in_postgres(stores, again) == {}


async def test_action_of_a_number_that_postgres_lost_is_refused(stores: Stores, desk: Desk) -> None:
    """Postgres came back from a backup without the action whose entry was still pending; a new one got its number."""
    player = stores.player()
    await player.hello()
    lost = await desk.request(player, ADD_LAMP)
    await desk.issuer.issue(lost)
    await stores.fetch("DELETE FROM liveops_actions")
    following = await desk.request(player, [{"op": "add", "path": "inventory", "value": "rope"}])
    assert following.ops_seq == lost.ops_seq
    await desk.issuer.issue(following)
    await stores.flush()
    assert following.row_id is not None
    assert await desk.journal.refuse_overtaken(following.row_id) == [following.id]
    assert await desk.state_of(following) == "refused"
    assert await state_in_postgres(stores, player) == {"inventory": ["lamp"]}


@pytest.mark.parametrize("step", STEPS)
async def test_flusher_that_dies_at_any_step_neither_loses_nor_doubles_an_action(
    stores: Stores, desk: Desk, step: str
) -> None:
    class Died(BaseException):
        pass

    def die(at: str) -> None:
        if at == step:
            raise Died

    player = stores.player()
    await player.hello()
    await player.send(player.make({"type": "step"}))
    action = await desk.request(player, [{"op": "incr", "path": "coins", "value": 5}])
    await desk.issuer.issue(action)
    flusher = stores.flusher(at_step=die)
    with pytest.raises(Died):
        await flusher.flush_due(ahead_s=3600)
    await flusher.close()
    await desk.issue_waiting()
    await player.send(player.make({"type": "step"}))
    await stores.flush()
    assert await desk.state_of(action) == "done"
    assert (await state_in_postgres(stores, player))["coins"] == 5
    assert [(device, seq) for device, seq, _, _ in await stored_events(stores, player)] == [
        ("phone", 1),
        ("ops", 1),
        ("phone", 2),
    ]


@pytest.mark.parametrize("is_saved", [False, True], ids=["before the save", "after the save"])
async def test_redis_that_forgets_everything_costs_no_action(stores: Stores, desk: Desk, is_saved: bool) -> None:
    player = stores.player()
    await player.hello()
    action = await desk.request(player, [{"op": "incr", "path": "coins", "value": 5}])
    await desk.issuer.issue(action)
    if is_saved:
        await stores.flush()
    await stores.hot._client.flushall()
    following = await desk.request(player, [{"op": "incr", "path": "coins", "value": 1}])
    assert (await desk.issuer.issue(following)).issued is Issued.ACCEPTED
    await stores.flush()
    assert (await state_in_postgres(stores, player))["coins"] == 6
    assert [await desk.state_of(one) for one in (action, following)] == ["done", "done"]
    assert [seq for _, seq, _, _ in await stored_events(stores, player)] == [1, 2]


async def test_redis_that_went_back_before_a_saved_action_takes_the_next_one(stores: Stores, desk: Desk) -> None:
    """Nothing is pending there, so no flush would find out: the number that is missing does."""
    player = stores.player()
    await player.hello()
    actions = [await desk.request(player, [{"op": "incr", "path": "coins", "value": 1}])]
    await desk.issuer.issue(actions[0])
    await stores.flush()
    keys = list(stores.hot._keys.of_group(player.key)[:3])
    kept = {key: await stores.hot._client.dump(key) for key in keys}
    actions.append(await desk.request(player, [{"op": "incr", "path": "coins", "value": 10}]))
    await desk.issuer.issue(actions[1])
    await stores.flush()
    await stores.hot._client.delete(*keys)
    for key, body in kept.items():
        if body is not None:
            await stores.hot._client.restore(key, 0, body)
    actions.append(await desk.request(player, [{"op": "incr", "path": "coins", "value": 100}]))
    assert (await desk.issuer.issue(actions[2])).issued is Issued.ACCEPTED
    await stores.flush()
    assert (await state_in_postgres(stores, player))["coins"] == 111
    assert [await desk.state_of(one) for one in actions] == ["done"] * 3


async def test_redis_that_went_back_before_a_saved_action_is_found_out(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    await stores.flush()
    keys = list(stores.hot._keys.of_group(player.key)[:3])
    kept = {key: await stores.hot._client.dump(key) for key in keys}
    action = await desk.request(player, [{"op": "incr", "path": "coins", "value": 5}])
    await desk.issuer.issue(action)
    await stores.flush()
    await stores.hot._client.delete(*keys)
    for key, body in kept.items():
        if body is not None:
            await stores.hot._client.restore(key, 0, body)
    following = await desk.request(player, [{"op": "incr", "path": "coins", "value": 1}])
    assert (await desk.issuer.issue(following)).issued is Issued.ACCEPTED
    await stores.flush()
    assert await desk.state_of(following) == "requested", "the copy was of a history that is over"
    await desk.issue_waiting()
    await stores.flush()
    assert (await state_in_postgres(stores, player))["coins"] == 6
    assert [await desk.state_of(one) for one in (action, following)] == ["done", "done"]


async def test_the_same_action_in_two_histories_is_two_entries(stores: Stores, desk: Desk) -> None:
    """An entry id tells histories apart, so the id of the action must not be one."""
    player = stores.player()
    await player.hello()
    action = await desk.request(player, ADD_LAMP)
    first = desk.issuer._make(action, False)
    second = desk.issuer._make(action, False)
    assert first.entry_id != second.entry_id and first.seq == second.seq


async def test_script_says_what_it_found(stores: Stores, desk: Desk) -> None:
    player = stores.player()
    await player.hello()
    action = desk.issuer._make(await desk.request(player, ADD_LAMP), False)
    strange = HotAction(action.key, "0" * 32, 1, ENTRY_IDS.next(), action.body, action.ops, action.push)
    assert (await stores.hot.apply_action(strange)).outcome is ActionOutcome.OTHER_ROW
    assert (await stores.hot.apply_action(action)).outcome is ActionOutcome.NO_DEVICE
    await desk.warmer.install_device(player.key, "ops")
    assert (await stores.hot.apply_action(action)).outcome is ActionOutcome.APPLIED
    assert (await stores.hot.apply_action(action)).outcome is ActionOutcome.REPEATED
    action.seq = 3
    assert (await stores.hot.apply_action(action)).outcome is ActionOutcome.EARLIER_MISSING
    await stores.hot._client.set(stores.hot._keys.fence(player.key.user_id), await stores.hot.time_ms() + 60_000)
    assert (await stores.hot.apply_action(action)).outcome is ActionOutcome.FENCED


async def test_waiting_actions_are_listed_page_by_page(stores: Stores, desk: Desk) -> None:
    players = [stores.player() for _ in range(5)]
    for player in players:
        await player.hello()
        await desk.request(player, ADD_LAMP)
    found, place = [], None
    while True:
        page, place = await desk.journal.list_waiting(0.0, 2, place)
        found += [key for key, _ in page]
        if place is None:
            break
    assert found == [player.key for player in players]
    assert await desk.journal.list_waiting(3600.0, 100) == ([], None)


async def test_action_on_nobody_in_particular_is_marked_by_who_executes_it(stores: Stores, desk: Desk) -> None:
    wanted = ActionRequest(str(uuid.uuid4()), "ann", "admin", "maintenance", details={"on": True})
    action = await desk.journal.insert(wanted)
    assert (action.row_id, action.ops_seq, action.state) == (None, None, "requested")
    assert action.payload == {"details": {"on": True}}
    await desk.journal.mark(action.id, "done", result={"players": 3})
    await desk.journal.mark(action.id, "refused", "too late: the first word stays")
    found = await desk.journal.find(action.id)
    assert found is not None and (found.state, found.message, found.result) == ("done", None, {"players": 3})
    with pytest.raises(InvalidAction, match="no such player"):
        await desk.journal.insert(ActionRequest(str(uuid.uuid4()), "ann", "admin", "ban"), user_id=str(uuid.uuid4()))


async def test_audit_log_is_read_newest_first_page_by_page(stores: Stores, desk: Desk) -> None:
    player, other = stores.player(), stores.player()
    await player.hello()
    await other.hello()
    actions = [await desk.request(player, ADD_LAMP) for _ in range(3)]
    await desk.request(other, ADD_LAMP)
    page, place = await desk.journal.list_newest(2, user_id=player.key.user_id)
    assert [action.id for action in page] == [actions[2].id, actions[1].id] and place is not None
    page, place = await desk.journal.list_newest(2, user_id=player.key.user_id, before=place)
    assert [action.id for action in page] == [actions[0].id] and place is None
    everything, _ = await desk.journal.list_newest(10)
    assert len(everything) == 4
