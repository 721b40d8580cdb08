"""What operators do reaches players, Postgres and the audit log, whole and once, whoever dies on the way."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from gateway.liveops.actions import LiveOpsActions, service
from gateway.liveops.actions.catalogue import ACTIONS, Target
from gateway.liveops.actions.executors import Waits
from gateway.liveops.errors import ApiError
from persistence.actions.bans import Bans
from persistence.actions.maintenance import find_maintenance_end
from persistence.actions.shapes import Action
from persistence.errors import StoreUnavailable
from persistence.operators import Operator, Role
from persistence.player_progress import PlayerProgress
from persistence.progress_key import ProgressKey
from protocol.client.client_errors import ClientStopped
from protocol.client.journal import MemoryJournal
from protocol.client.player_client import PlayerClient
from tests.integration.gateway_rig import EXPERIENCE, Bare, Rig, hello_frame, new_user, run_flusher, run_rig, token
from tests.waiting import wait_until

ANN = Operator("ann", Role.ADMIN)


@pytest.fixture
async def rig(redis_url: str, database_url: str) -> AsyncIterator[Rig]:
    async with run_rig(redis_url, database_url) as running, run_flusher(redis_url, database_url):
        yield running


class Desk:
    """An operator at the API, without HTTP."""

    def __init__(self, rig: Rig, database_url: str, **more: Any) -> None:
        self.progress = PlayerProgress(rig.hot, rig.cold, caller="live-ops")
        self.actions = LiveOpsActions(rig.hot, rig.cold, database_url, progress=self.progress, **more)
        self.database_url = database_url

    async def act(
        self, action: str, target: dict[str, Any], *, key: str | None = None, operator: Operator = ANN, **payload: Any
    ) -> dict[str, Any]:
        wanted = await self.actions.check(operator, action, target, payload, "because", key)
        return await self.actions.submit(operator, wanted)

    async def preview(self, action: str, target: dict[str, Any], **payload: Any) -> dict[str, Any]:
        return await self.actions.preview(ANN, await self.actions.check(ANN, action, target, payload, "because"))

    async def undo(self, action_id: str, key: str | None = None) -> dict[str, Any]:
        return await self.actions.undo(ANN, action_id, "it was wrong", key)

    async def rows(self) -> list[Any]:
        connection = await asyncpg.connect(self.database_url)
        try:
            found: list[Any] = await connection.fetch("SELECT * FROM liveops_actions ORDER BY created_at")
            return found
        finally:
            await connection.close()

    async def execute_sql(self, sql: str, *args: Any) -> None:
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute(sql, *args)
        finally:
            await connection.close()

    async def fetchval(self, sql: str, *args: Any) -> Any:
        connection = await asyncpg.connect(self.database_url)
        try:
            return await connection.fetchval(sql, *args)
        finally:
            await connection.close()


@asynccontextmanager
async def open_desk(rig: Rig, database_url: str, **more: Any) -> AsyncIterator[Desk]:
    desk = Desk(rig, database_url, **more)
    try:
        yield desk
    finally:
        await desk.actions.close()
        await desk.progress.close()


@pytest.fixture
async def desk(rig: Rig, database_url: str) -> AsyncIterator[Desk]:
    async with open_desk(rig, database_url) as opened:
        yield opened


def whom(user_id: str) -> dict[str, Any]:
    return {"player": user_id, "experience": EXPERIENCE}


async def refused(awaited: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await awaited
    error: ApiError = caught.value
    return error


async def bye(player: Bare) -> dict[str, Any]:
    return await player.wait_for("bye")


async def hello_is_refused(rig: Rig, user_id: str, **fields: Any) -> dict[str, Any]:
    async with rig.bare() as bare:
        await bare.send(hello_frame(user_id, **fields))
        said = await bare.expect("bye")
        assert await bare.close_code() == said["code"]
        return said


# ── the state of a player ───────────────────────────────────────────────────────────────────────────────────────────


async def test_grant_reaches_the_client_and_postgres_before_it_is_done_and_undo_takes_it(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1)
        preview = await desk.preview("grant_item", whom(user_id), item="lamp")
        assert preview["preview"]["after"] == {"inventory": ["lamp"]} and not await desk.rows()
        granted = await desk.act("grant_item", whom(user_id), item="lamp")
        assert granted["state"] == "done"
        push = await player.wait_for("push")
        assert push["data"]["effects"] == [{"op": "add", "path": "inventory", "value": "lamp"}]
        state = await desk.fetchval("SELECT state::text FROM experience_progress")
        assert json.loads(state)["inventory"] == ["lamp"]
        undone = await desk.undo(granted["id"])
        assert undone["state"] == "done" and undone["undo_of"] == granted["id"]
        push = await player.wait_for("push")
        assert push["data"]["effects"] == [{"op": "remove", "path": "inventory", "value": "lamp"}]
        assert (await desk.actions.find(granted["id"]))["undone_by"] == undone["id"]
        again = await refused(desk.undo(granted["id"]))
        assert again.status == 409 and "taken back already" in again.message
    assert len(await desk.rows()) == 2


async def test_undo_takes_nothing_that_was_there_before(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1, effects=[{"op": "add", "path": "inventory", "value": "lamp"}])
        granted = await desk.act("grant_item", whom(user_id), item="lamp")
        error = await refused(desk.undo(granted["id"]))
        assert error.code == "CANNOT_UNDO" and "changed nothing" in error.message


async def test_undo_is_refused_when_the_player_has_moved_on(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1, effects=[{"op": "set", "path": "current_location", "value": "attic"}])
        moved = await desk.act("move", whom(user_id), location="cellar")
        await player.accept(2, effects=[{"op": "set", "path": "current_location", "value": "garden"}])
        undone = await desk.undo(moved["id"])
        assert undone["state"] == "refused" and "the state has moved on: current_location" in undone["message"]
        await player.accept(3, effects=[{"op": "set", "path": "current_location", "value": "cellar"}])
        # One that was refused does not stand in the way of another.
        assert (await desk.undo(moved["id"]))["state"] == "done"
    state = await desk.fetchval("SELECT state::text FROM experience_progress")
    assert json.loads(state)["current_location"] == "attic"


async def test_undo_of_a_count_keeps_what_was_counted_since(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        edited = await desk.act(
            "edit_state",
            whom(user_id),
            effects=[
                {"op": "incr", "path": "coins", "value": 100},
                {"op": "set", "path": "flags.lit", "value": True},
                {"op": "remove", "path": "inventory", "value": "rope"},
            ],
        )
        await player.accept(1, effects=[{"op": "incr", "path": "coins", "value": 7}])
        assert (await desk.undo(edited["id"]))["state"] == "done"
    state = json.loads(await desk.fetchval("SELECT state::text FROM experience_progress"))
    assert state["coins"] == 7 and state["flags"] == {}


async def test_same_key_is_the_same_action_and_another_action_with_it_is_refused(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id):
        effects = [{"op": "incr", "path": "coins", "value": 5}]
        answers = await asyncio.gather(
            *(desk.act("edit_state", whom(user_id), key="k1", effects=effects) for _ in range(5))
        )
        assert len({answer["id"] for answer in answers}) == 1
        assert (await refused(desk.act("grant_item", whom(user_id), key="k1", item="lamp"))).code == "KEY_REUSED"
        undone = [await desk.undo(answers[0]["id"], key="u1") for _ in range(2)]
        assert undone[0]["id"] == undone[1]["id"]
        for other in ("kick", "force_flush"):
            assert (await refused(desk.act(other, {"player": user_id}, key="u1"))).code == "KEY_REUSED"
        assert (await refused(desk.act("grant_item", whom(user_id), key="u1", item="lamp"))).code == "KEY_REUSED"
    assert [row["state"] for row in await desk.rows()] == ["done", "done"]
    assert json.loads(await desk.fetchval("SELECT state::text FROM experience_progress"))["coins"] == 0


async def test_of_undos_at_once_one_is_done_and_a_repeated_one_is_the_same(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1)
        effects = [{"op": "incr", "path": "coins", "value": 5}]
        edited = await desk.act("edit_state", whom(user_id), effects=effects)
        banned = await desk.act("ban", {"player": user_id})
        for action in (edited, banned):
            undos = [desk.undo(action["id"], key) for key in ("a" + action["id"], "b" + action["id"]) for _ in "123"]
            answers = await asyncio.gather(*undos, return_exceptions=True)
            done = {answer["id"] for answer in answers if isinstance(answer, dict)}
            errors = [answer for answer in answers if not isinstance(answer, dict)]
            assert len(done) == 1 and len(answers) - len(errors) >= 1, answers
            assert all(isinstance(error, ApiError) and error.status == 409 for error in errors), errors
        assert (await desk.progress.get_player_state(user_id, EXPERIENCE)).state["coins"] == 0
    assert [row["state"] for row in await desk.rows()] == ["done"] * 4


async def test_undo_can_be_taken_back_and_large_values_go_there_and_back(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    old, new = {"text": "ä" * 3500, "list": [[1, 2.5], []]}, "x" * 8000
    async with rig.player(user_id) as player:
        await player.accept(1, effects=[{"op": "set", "path": "note", "value": old}])
        effects = [{"op": "set", "path": "note", "value": new}, {"op": "unset", "path": "other.thing"}]
        edited = await desk.act("edit_state", whom(user_id), effects=effects)
        undone = await desk.undo(edited["id"])
        assert (edited["state"], undone["state"]) == ("done", "done")
        assert (await desk.progress.get_player_state(user_id, EXPERIENCE)).state["note"] == old
        assert (await desk.undo(undone["id"]))["state"] == "done"
        assert (await desk.progress.get_player_state(user_id, EXPERIENCE)).state["note"] == new


async def test_effects_that_many_times_change_one_thing_are_taken_back_or_refused(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1, effects=[{"op": "incr", "path": "coins", "value": 1}])
        effects: list[dict[str, Any]] = [
            {"op": "add", "path": "inventory", "value": "lamp"},
            {"op": "remove", "path": "inventory", "value": "lamp"},
            {"op": "incr", "path": "coins", "value": 0.25},
            {"op": "incr", "path": "coins", "value": 2},
            {"op": "max", "path": "best", "value": 9},
        ]
        edited = await desk.act("edit_state", whom(user_id), effects=effects)
        assert (await desk.undo(edited["id"]))["state"] == "done"
        state = (await desk.progress.get_player_state(user_id, EXPERIENCE)).state
        assert state["coins"] == 1 and "best" not in state and state["inventory"] == []
        effects = [{"op": "set", "path": "title", "value": 1}, {"op": "unset", "path": "title"}]
        edited = await desk.act("edit_state", whom(user_id), effects=effects)
        assert "more than once" in (await refused(desk.undo(edited["id"]))).message


async def test_profile_is_edited_and_put_back(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id):
        first = await desk.act("edit_profile", {"player": user_id}, stats={"title": "guide", "hat": 3})
        second = await desk.act("edit_profile", {"player": user_id}, stats={"title": "warden", "hat": None})
        stats = json.loads(await desk.fetchval("SELECT stats::text FROM player_profiles"))
        assert first["state"] == second["state"] == "done" and stats["title"] == "warden" and "hat" not in stats
        late = await desk.undo(first["id"])
        assert late["state"] == "refused" and "hat, title" in late["message"]
        assert (await desk.undo(second["id"]))["state"] == "done"
        stats = json.loads(await desk.fetchval("SELECT stats::text FROM player_profiles"))
        assert (stats["title"], stats["hat"]) == ("guide", 3)
    error = await refused(desk.act("edit_profile", {"player": user_id}, stats={"achievements": []}))
    assert error.status == 422


# ── sending players away ────────────────────────────────────────────────────────────────────────────────────────────


async def test_kick_closes_4202_with_the_message_and_a_retry_does_not_kick_who_came_back(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1)
        kicked = await desk.act("kick", {"player": user_id}, key="k", message="be kind")
        said = await bye(player)
        assert (said["code"], said["message"]) == (4202, "be kind") and await player.close_code() == 4202
        assert kicked["state"] == "done"
    async with rig.player(user_id, made=1) as player:
        assert (await desk.act("kick", {"player": user_id}, key="k", message="be kind"))["id"] == kicked["id"]
        await player.accept(2)
    await desk.act("force_flush", {"player": user_id})
    reasons = await desk.fetchval("SELECT array_agg(end_reason) FROM player_sessions WHERE ended_at IS NOT NULL")
    assert reasons == ["kicked"]
    assert (await desk.act("kick", {"player": user_id}))["state"] == "done"
    assert (await desk.act("kick", {"player": user_id}))["message"] == "the player is not there"


async def test_kick_is_told_by_the_next_verdict_when_the_notice_is_lost(
    rig: Rig, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sessions.node.take_close_notice", lambda node, notice: None)
    user_id = new_user()
    async with rig.player(user_id) as player:
        await desk.act("kick", {"player": user_id}, message="be kind")
        await player.update(1)
        said = await bye(player)
        assert (said["code"], said["message"]) == (4202, "be kind")


async def test_ended_session_lets_the_client_begin_another(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await desk.act("end_session", {"player": user_id})
        assert (await bye(player))["code"] == 4007
        resume = player.resume()
    async with rig.player(user_id, resume=resume) as player:
        assert player.welcome["resumed"] is False


async def test_ban_closes_4203_and_holds_warm_cold_with_a_new_token_and_after_redis_forgot(
    rig: Rig, desk: Desk
) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1)
        banned = await desk.act("ban", {"player": user_id}, for_s=3600, message="until the fair is over")
        said = await bye(player)
        assert await player.close_code() == 4203 and banned["state"] == "done"
        assert said["message"] == "until the fair is over" and 3_500_000 < said["retry_after_ms"] <= 3_600_000
        resume = player.resume()
    for fields in ({}, {"device": "another phone"}, {"resume": resume}, {"experience": "elsewhere"}):
        said = await hello_is_refused(rig, user_id, **fields)
        assert (said["code"], said["message"]) == (4203, "until the fair is over"), fields
    await rig.hot._client.flushall()
    assert (await hello_is_refused(rig, user_id))["code"] == 4203
    # Redis came back from before the ban: the copy is there, the ban is not, until the watch brings it back.
    assert await rig.hot.find_ban(user_id) is None
    await rig.node.watch._note_all_bans()
    assert (await hello_is_refused(rig, user_id))["code"] == 4203
    preview = await desk.preview("unban", {"player": user_id})
    assert preview["preview"]["before"]["banned"] and not preview["warnings"]
    lifted = await desk.act("unban", {"player": user_id})
    assert lifted["state"] == "done"
    async with rig.player(user_id, device="another phone"):
        assert (await desk.act("unban", {"player": user_id}))["message"] == "the player is not banned"
        assert (await desk.undo(lifted["id"]))["state"] == "done"
    assert (await hello_is_refused(rig, user_id))["message"] == "until the fair is over"


async def test_banned_client_stays_away_with_the_words_of_the_ban_and_loses_no_step(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    journal = MemoryJournal("phone")

    def make_client() -> PlayerClient:
        return PlayerClient(rig.url, lambda: token(user_id), EXPERIENCE, journal=journal)

    client = make_client()
    await client.start()
    await client.wait_connected(10)
    await client.update({"type": "waypoint_visited", "content_id": "attic"})
    await client.wait_saved(1, 10)
    await desk.act("ban", {"player": user_id}, message="until the fair is over")
    with pytest.raises(ClientStopped) as stopped:
        while True:
            await client.update({"type": "waypoint_visited", "content_id": "garden"})
            await client.wait_saved(client.made, 10)
    assert (stopped.value.code, stopped.value.reason) == (4203, "until the fair is over")
    made = client.made
    await client.stop()
    await desk.act("unban", {"player": user_id})
    client = make_client()
    await client.start()
    await client.wait_saved(made, 10)
    await client.stop()
    assert await desk.fetchval("SELECT count(*) FROM player_progress_events WHERE device_id <> 'ops'") == made


async def test_ban_holds_for_a_warm_player_while_postgres_is_away(rig: Rig, desk: Desk, database_url: str) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1)
        await desk.act("ban", {"player": user_id})
        await player.close_code()
    await rig.cold.close()
    assert (await hello_is_refused(rig, user_id))["code"] == 4203


@pytest.mark.slow
async def test_ban_is_over_when_its_time_is(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await desk.act("ban", {"player": user_id}, for_s=1)
        await player.close_code()
    async with asyncio.timeout(10):
        while await rig.hot.find_ban(user_id) is not None:  # noqa: ASYNC110 - Redis' own clock ends it
            await asyncio.sleep(0.05)
    async with rig.player(user_id):
        pass


async def test_ban_that_was_left_halfway_does_not_come_after_the_unban_that_was_asked_for_later(
    rig: Rig, desk: Desk, database_url: str
) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        async with open_desk(rig, database_url, at_step=dies_at("row written")) as dying:
            with suppress(Died):
                await dying.act("ban", {"player": user_id})
        assert (await desk.act("ban", {"player": user_id}))["state"] == "done"
        await player.close_code()
        assert (await desk.act("unban", {"player": user_id}))["state"] == "done"
    assert await desk.actions.sweep(0) == 1
    assert [row["state"] for row in await desk.rows()] == ["refused", "done", "done"]
    async with rig.player(user_id):
        pass


# ── everybody ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_message_reaches_those_it_is_for_once(rig: Rig, desk: Desk) -> None:
    async with rig.player() as one, rig.player() as other, rig.player(experience="elsewhere") as stranger:
        sent = await desk.act("message", {"experience": EXPERIENCE}, text="the gate closes", key="m")
        assert sent["result"] == {"players": 2}
        assert (await desk.act("message", {"experience": EXPERIENCE}, text="the gate closes", key="m"))["id"] == sent[
            "id"
        ]
        everybody = await desk.act("message", {"all": True}, text="good night")
        assert everybody["result"] == {"players": 3}
        for player in (one, other):
            assert [(await player.wait_for("push"))["data"]["text"] for _ in "12"] == ["the gate closes", "good night"]
        assert (await stranger.wait_for("push"))["data"] == {"text": "good night"}
    error = await refused(desk.act("message", {"all": True}, text="x", operator=Operator("sue", Role.SUPPORT)))
    assert error.status == 403
    error = await refused(
        desk.act("message", {"player": None, "all": True}, text="x", operator=Operator("sue", Role.SUPPORT))
    )
    assert error.status == 403


async def test_maintenance_sends_everybody_away_refuses_hellos_and_ends(rig: Rig, desk: Desk) -> None:
    async with rig.player() as player:
        begun = await desk.act("maintenance", {}, on=True, message="back at nine")
        assert begun["state"] == "done"
        assert (await player.wait_for("push"))["data"]["text"] == "back at nine"
        await rig.node.watch.look()
        said = await bye(player)
        assert (said["code"], said["message"]) == (4005, "back at nine") and said["retry_after_ms"] >= 20_000
    assert (await hello_is_refused(rig, new_user()))["code"] == 4005
    assert (await desk.undo(begun["id"]))["state"] == "done"
    await rig.node.watch.look()
    async with rig.player():
        pass


async def test_undo_of_a_maintenance_does_not_end_the_one_that_was_begun_since(rig: Rig, desk: Desk) -> None:
    first = await desk.act("maintenance", {}, on=True, at="2199-01-01T00:00:00Z")
    second = await desk.act("maintenance", {}, on=True, at="2199-01-02T00:00:00Z")
    assert (await refused(desk.undo(first["id"]))).code == "CANNOT_UNDO"
    assert await desk.fetchval("SELECT is_on FROM maintenance")
    assert (await desk.undo(second["id"]))["state"] == "done"
    assert not await desk.fetchval("SELECT is_on FROM maintenance")


async def test_maintenance_ends_by_itself_when_its_time_is_over_once_and_leaves_a_later_one_alone(
    rig: Rig, desk: Desk, database_url: str
) -> None:
    error = await refused(desk.act("maintenance", {}, on=True, until="2001-01-01T00:00:00Z"))
    assert error.code == "INVALID"
    begun = await desk.act("maintenance", {}, on=True, until="2199-01-01T00:00:00Z")
    await desk.actions.end_maintenance()
    assert await desk.fetchval("SELECT is_on FROM maintenance")
    over = "jsonb_set(payload, '{details,payload,until}', '\"2001-01-01T00:00:00Z\"')"
    await desk.execute_sql(f"UPDATE liveops_actions SET payload = {over}")
    async with open_desk(rig, database_url) as another:
        await asyncio.gather(desk.actions.end_maintenance(), another.actions.end_maintenance())
    assert not await desk.fetchval("SELECT is_on FROM maintenance")
    ends = [row for row in await desk.rows() if str(row["id"]) != begun["id"]]
    assert [(row["operator"], row["state"], str(row["undo_of"])) for row in ends] == [("ann", "done", begun["id"])]
    await desk.act("maintenance", {}, on=True)
    await desk.actions.end_maintenance()
    assert await desk.fetchval("SELECT is_on FROM maintenance")


async def test_maintenance_is_known_to_a_node_that_starts_while_postgres_is_away(rig: Rig, desk: Desk) -> None:
    await desk.act("maintenance", {}, on=True, message="back at nine")
    await rig.cold.close()
    rig.node.watch._maintenance = None
    await rig.node.watch.look()
    assert (await hello_is_refused(rig, new_user()))["message"] == "back at nine"


async def test_maintenance_begins_at_its_time(rig: Rig, desk: Desk) -> None:
    await desk.act("maintenance", {}, on=True, at="2199-01-01T00:00:00Z", message="one day")
    await rig.node.watch.look()
    async with rig.player():
        assert not rig.node.watch.is_maintenance


async def test_drained_node_sends_its_players_on_and_takes_them_again(
    rig: Rig, desk: Desk, redis_url: str, database_url: str
) -> None:
    async with run_rig(redis_url, database_url) as elsewhere, rig.player() as player:
        drained = await desk.act("drain", {"node": rig.node.name})
        assert drained["state"] == "done" and (await bye(player))["code"] == 4001
        assert (await hello_is_refused(rig, new_user()))["code"] == 4001
        assert not rig.node.health.judge().is_ready
        async with elsewhere.player():
            pass
        assert (await desk.undo(drained["id"]))["state"] == "done"
        async with rig.player():
            pass
    assert (await desk.act("drain", {"node": "nobody"}))["message"] == "no gateway of that name is there"


async def test_undo_of_a_drain_does_not_end_the_one_that_was_asked_for_since(rig: Rig, desk: Desk) -> None:
    """Two operators drained a node one after the other; when the first took theirs back, players came again."""
    first = await desk.act("drain", {"node": rig.node.name})
    second = await desk.act("drain", {"node": rig.node.name})
    assert (await refused(desk.undo(first["id"]))).code == "CANNOT_UNDO"
    assert rig.node.is_draining
    assert (await desk.undo(second["id"]))["state"] == "done"
    # Nor does one that was left halfway come after the later word.
    await desk.execute_sql("UPDATE liveops_actions SET state = 'requested', done_at = NULL WHERE id = $1", first["id"])
    await desk.actions.sweep(0)
    assert (await desk.actions.find(first["id"]))["state"] == "refused" and not rig.node.is_draining


# ── dying on the way ────────────────────────────────────────────────────────────────────────────────────────────────


class Died(BaseException):
    """The ops process was killed: nothing of ours may catch it."""


def dies_at(step: str) -> Callable[[str], None]:
    def die(at: str) -> None:
        if at == step:
            raise Died

    return die


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "steps", "payload"),
    [
        ("message", ["row written", "begin", "page sent", "done", "marked"], {"text": "hello"}),
        ("kick", ["row written", "begin", "farewell said", "done", "marked"], {}),
        ("ban", ["row written", "ban written", "ban noted", "farewell said", "done", "marked"], {"for_s": 60}),
        ("grant_item", ["row written", "issued"], {"item": "lamp"}),
        ("edit_profile", ["row written", "begin", "done", "marked"], {"stats": {"hat": 1}}),
        ("erase", ["row written", "begin", "erased", "done", "marked"], {}),
        ("maintenance", ["row written", "maintenance written", "page sent", "done", "marked"], {"on": False}),
    ],
)
async def test_action_whose_process_dies_at_any_step_is_finished_by_the_next_and_leaves_one_row(
    rig: Rig, database_url: str, action: str, steps: list[str], payload: dict[str, Any]
) -> None:
    for step in steps:
        user_id = new_user()
        target = {} if ACTIONS[action].target is Target.NOBODY else {"player": user_id}
        async with rig.player(user_id) as player, open_desk(rig, database_url) as desk:
            await player.accept(1)
            known = {row["id"] for row in await desk.rows()}
            async with open_desk(rig, database_url, at_step=dies_at(step)) as dying:
                with suppress(Died):
                    await dying.act(action, target, key=step, **payload)
                await asyncio.gather(*dying.actions._running.values(), return_exceptions=True)
            await desk.actions.sweep(0)
            # The operator's client asks again, as it does after a lost answer.
            answer = await desk.act(action, target, key=step, **payload)
            assert answer["state"] == "done", (step, answer)
            new = [row for row in await desk.rows() if row["id"] not in known]
            assert [(str(row["id"]), row["state"]) for row in new] == [(answer["id"], "done")], step
            if action == "erase":
                assert user_id not in new[0]["payload"] and new[0]["user_id"] is None
            if action == "message":
                await player.wait_for("push")
                assert await rig.hot.push(user_id, answer["id"], b"") == 1, "told once"


async def test_action_that_a_store_holds_up_stays_requested_and_is_finished_when_it_is_back(
    rig: Rig, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        with monkeypatch.context() as patched:

            async def away(*_: Any) -> None:
                raise StoreUnavailable("redis", "note_bans", "away")

            patched.setattr(rig.hot, "note_bans", away)
            banned = await desk.act("ban", {"player": user_id}, key="b")
            assert banned["state"] == "requested"
        assert await desk.actions.sweep(0) == 1
        assert (await desk.actions.find(banned["id"]))["state"] == "done"
        assert await player.close_code() == 4203
    assert len(await desk.rows()) == 1


async def test_actions_that_wait_for_long_hold_up_none_that_come_after_them(
    rig: Rig, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep took the fifty oldest, one after the other: fifty that waited kept all others from being finished."""
    monkeypatch.setattr(service, "SWEEP_PAGE", 4)
    monkeypatch.setattr(service, "ANSWER_S", 0.05)
    user_id, stuck = new_user(), asyncio.Event()
    async with rig.player(user_id) as player:
        await player.accept(1)
        executors = desk.actions._executors._executors

        async def wait(_: Action) -> Any:
            await stuck.wait()

        async def away(_: Action) -> Any:
            raise StoreUnavailable("redis", "push", "away")

        says, executors["message"], executors["force_flush"] = executors["message"], away, wait
        for _ in range(9):
            await desk.act("force_flush", {"player": user_id})
        said = await desk.act("message", {"player": user_id}, text="hello")
        assert said["state"] == "requested"
        for task in list(desk.actions._running.values()):
            task.cancel()
        await asyncio.sleep(0)
        executors["message"] = says
        assert await desk.actions.sweep(0) == 1
        assert (await desk.actions.find(said["id"]))["state"] == "done"
        stuck.set()


async def test_sweep_of_slow_actions_ends_in_time_and_the_next_one_goes_on_where_it_stopped(
    rig: Rig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five hundred that took as long as they may kept one sweep busy for four minutes."""
    monkeypatch.setattr(service, "SWEEP_PAGE", 8)
    monkeypatch.setattr(service, "SWEEP_WIDTH", 3)
    now_s, begun, user_id = 0.0, list[str](), new_user()
    async with rig.player(user_id), open_desk(rig, database_url, clock=lambda: now_s) as desk:

        async def take_long(action: Action) -> Any:
            nonlocal now_s
            begun.append(action.id)
            now_s += service.SWEEP_FOR_S / 15
            raise Waits("for a gateway that does not answer")

        desk.actions._executors._executors["force_flush"] = take_long
        asked = [(await desk.act("force_flush", {"player": user_id}))["id"] for _ in range(40)]
        begun.clear()
        rounds = []
        for _ in range(4):
            from_s = now_s
            await desk.actions.sweep(0)
            assert now_s - from_s <= service.SWEEP_FOR_S + service.ANSWER_S + 1
            rounds.append(list(begun))
            begun.clear()
        assert rounds[0] + rounds[1] + rounds[2] == asked, "each once, whatever became of those before it"
        assert all(rounds) and rounds[3] == rounds[0], "then from the beginning"


async def test_maintenance_ends_in_time_while_a_sweep_and_a_first_look_hang(
    rig: Rig, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end was looked for between two sweeps only."""
    for name in ("SWEEP_S", "MAINTENANCE_LOOK_S", "ANSWER_S"):
        monkeypatch.setattr(service, name, 0.05)
    # The first look lasts as long as it may; the others need that time on a busy machine.
    monkeypatch.setattr(service, "MAINTENANCE_END_S", 1.0)
    user_id, stuck, looks = new_user(), asyncio.Event(), 0

    async def wait(_: Action) -> Any:
        stuck.set()
        await asyncio.Event().wait()

    async def hang_once(cold: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            await asyncio.Event().wait()
        return await find_maintenance_end(cold)

    async with rig.player(user_id):
        desk.actions._executors._executors["force_flush"] = wait
        await desk.act("force_flush", {"player": user_id})
        begun = await desk.act("maintenance", {}, on=True, until="2199-01-01T00:00:00Z")
    for task in list(desk.actions._running.values()):
        task.cancel()
    over = "jsonb_set(payload, '{details,payload,until}', '\"2001-01-01T00:00:00Z\"')"
    await desk.execute_sql(f"UPDATE liveops_actions SET payload = {over} WHERE id = $1", begun["id"])
    await desk.execute_sql("UPDATE liveops_actions SET created_at = created_at - interval '1 minute'")
    stuck.clear()
    monkeypatch.setattr(service, "ANSWER_S", service.SWEEP_FOR_S)
    monkeypatch.setattr(service, "find_maintenance_end", hang_once)
    running = asyncio.create_task(desk.actions.run(asyncio.Event()))
    try:
        await asyncio.wait_for(stuck.wait(), 10)

        async def is_over() -> bool:
            return not await desk.fetchval("SELECT is_on FROM maintenance")

        await wait_until("the maintenance whose time is over has ended", is_over, 10)
    finally:
        running.cancel()
        await asyncio.wait({running})
    # The sweep still hangs; the end itself may be at its last step.
    assert looks > 1 and "action force_flush" in {task.get_name() for task in desk.actions._running.values()}


async def test_dead_letters_are_replayed_and_dropped_with_their_rows_in_one_transaction(
    rig: Rig, desk: Desk, database_url: str
) -> None:
    user_id = new_user()
    constraint = "ALTER TABLE player_progress_events ADD CONSTRAINT no_cars CHECK (content_id <> 'car')"
    await desk.fetchval(constraint)
    async with rig.player(user_id) as player:
        for seq in (1, 2, 3):
            await player.accept(seq, event={"type": "waypoint_visited", "content_id": "car"})
        await player.wait_saved(3)
        first, second, third = await desk.fetchval("SELECT array_agg(id::text ORDER BY seq) FROM dead_letters")
        preview = await desk.preview("replay_dead_letter", {}, id=first)
        assert preview["warnings"] == []
        again = await desk.act("replay_dead_letter", {}, id=first)
        assert again["state"] == "refused" and "no_cars" in again["message"]
        await desk.fetchval("ALTER TABLE player_progress_events DROP CONSTRAINT no_cars")
        async with open_desk(rig, database_url, at_step=dies_at("done")) as dying:
            with suppress(Died):
                await dying.act("replay_dead_letter", {}, key="r", id=first)
        assert (await desk.act("replay_dead_letter", {}, key="r", id=first))["state"] == "done"
        assert (await desk.act("drop_dead_letter", {}, id=second))["state"] == "done"
        assert (await desk.act("drop_dead_letter", {}, id=second))["state"] == "refused"
        assert await desk.fetchval("SELECT count(*) FROM dead_letters WHERE dropped_at IS NULL") == 1
        assert await desk.fetchval("SELECT array_agg(seq) FROM player_progress_events") == [1]
    rows = await desk.rows()
    assert [row["state"] for row in rows] == ["refused", "done", "done", "refused"]
    assert {str(row["user_id"]) for row in rows[:3]} == {user_id} and third


async def test_quarantined_progress_is_released_by_its_id(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1)
        await player.wait_saved(1)
        key = ProgressKey(user_id, EXPERIENCE)
        hash_key = rig.hot._keys.progress(key)
        await rig.hot._client.hset(hash_key, "v:bad", b'"\\u0000"')
        await player.accept(2)
        async with asyncio.timeout(10):
            while not await rig.hot.list_quarantined():  # noqa: ASYNC110 - a flusher does it
                await asyncio.sleep(0.05)
        assert "is in quarantine" in (await desk.act("force_flush", {"player": user_id}))["message"]
        await rig.hot._client.hdel(hash_key, "v:bad")
        row_id = await desk.fetchval("SELECT id::text FROM experience_progress")
        assert (await desk.act("release_quarantine", {}, progress=row_id))["state"] == "done"
        await player.wait_saved(2)


async def test_dead_letter_and_quarantine_that_are_not_there_are_refused_in_a_row(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id):
        for action in ("replay_dead_letter", "drop_dead_letter"):
            assert (await desk.act(action, {}, id=str(uuid.uuid4())))["message"] == "there is no such letter (any more)"
        released = await desk.act("release_quarantine", whom(user_id))
        assert released["message"] == "this progress is not in quarantine (any more)"
    assert [row["state"] for row in await desk.rows()] == ["refused"] * 3


# ── who may, and what is nonsense ───────────────────────────────────────────────────────────────────────────────────


async def test_each_action_is_refused_to_everybody_below_its_role_and_leaves_no_row(rig: Rig, desk: Desk) -> None:
    for kind in ACTIONS.values():
        for role in Role:
            if role < kind.role:
                error = await refused(desk.actions.check(Operator("vic", role), kind.name, {}, {}, "because"))
                assert (error.status, error.code) == (403, "FORBIDDEN"), (kind.name, role)
    assert await desk.rows() == []


async def test_message_to_many_takes_its_role_however_the_target_is_written(rig: Rig, desk: Desk) -> None:
    sam = Operator("sam", Role.SUPPORT)
    for nobody in ({}, {"player": None}, {"player": False}):
        for many in ({"all": True}, {"experience": EXPERIENCE}):
            error = await refused(desk.act("message", nobody | many, operator=sam, text="hello"))
            assert (error.status, error.code) == (403, "FORBIDDEN"), (nobody, many)
    assert await desk.rows() == []


async def test_nonsense_is_refused_with_what_to_do_and_leaves_no_row(rig: Rig, desk: Desk) -> None:
    user_id = new_user()
    async with rig.player(user_id):
        requests: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
            ("fly", {}, {}),
            ("grant_item", whom(user_id), {}),
            ("grant_item", whom(user_id), {"item": "x" * 129}),
            ("grant_item", whom(user_id), {"item": "lamp", "count": 2}),
            ("grant_item", {"player": "me"}, {"item": "lamp"}),
            ("grant_item", {"player": new_user()}, {"item": "lamp"}),
            ("grant_item", {"player": user_id, "experience": "nowhere"}, {"item": "lamp"}),
            ("grant_item", {"player": user_id, "experience": "../.."}, {"item": "lamp"}),
            ("edit_state", whom(user_id), {"effects": [{"op": "fly", "path": "x"}]}),
            ("set_flag", whom(user_id), {"flag": "x", "value": float("nan")}),
            ("ban", {"player": user_id}, {"for_s": -1}),
            ("ban", {"player": user_id}, {"for_s": True}),
            ("ban", {"player": new_user()}, {}),
            ("message", {}, {"text": "to whom?"}),
            ("message", {"player": user_id, "all": True}, {"text": "both?"}),
            ("message", {"player": user_id}, {"text": "\0"}),
            ("maintenance", {}, {"on": "yes"}),
            ("maintenance", {}, {"on": True, "at": "soon"}),
            ("drain", {}, {}),
        ]
        for action, target, payload in requests:
            error = await refused(desk.act(action, target, **payload))
            assert error.status in (404, 422) and error.message, (action, payload)
        wanted = desk.actions.check(ANN, "kick", {"player": user_id}, {}, "  ")
        assert (await refused(wanted)).status == 422
    assert await desk.rows() == []


async def test_bans_are_listed_newest_first_in_pages(rig: Rig, desk: Desk) -> None:
    users = [new_user() for _ in range(3)]
    for user_id in users:
        async with rig.player(user_id):
            await desk.act("ban", {"player": user_id})
    bans = Bans(rig.cold)
    page, place = await bans.list_page(2)
    rest, end = await bans.list_page(2, place)
    assert [ban.user_id for ban in page + rest] == users[::-1] and end is None
