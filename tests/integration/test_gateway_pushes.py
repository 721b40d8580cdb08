"""What somebody else does to a player reaches the client: once, in order, across resumes, nodes and losses."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gateway.sessions.action_sweeper import ActionSweeper
from gateway.sessions.pushes import IDS_KEPT
from persistence.actions.shapes import ActionRequest, push_body
from persistence.hot.actions import PUSHES_MAX
from persistence.player_progress import PlayerProgress
from persistence.progress_key import ProgressKey
from tests.integration.gateway_rig import EXPERIENCE, Bare, Rig, hello_frame, new_user, run_flusher, run_rig

assert IDS_KEPT == PUSHES_MAX


@pytest.fixture
async def rig(redis_url: str, database_url: str) -> AsyncIterator[Rig]:
    async with run_rig(redis_url, database_url) as running:
        yield running


@pytest.fixture
async def desk(rig: Rig) -> AsyncIterator[PlayerProgress]:
    """A service beside the gateway."""
    async with PlayerProgress(rig.hot, rig.cold, caller="ann", role="operator") as opened:
        yield opened


async def say(rig: Rig, user_id: str, text: str, **where: Any) -> int:
    return await rig.hot.push(user_id, str(uuid.uuid4()), push_body("message", {"text": text}), **where)


async def test_edit_is_pushed_with_effects_version_and_place(rig: Rig, desk: PlayerProgress) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1)
        await player.accept(2)
        ticket = await desk.add_to_inventory(user_id, EXPERIENCE, "lamp")
        push = await player.expect("push")
        assert push == {
            "t": "push",
            "n": 1,
            "kind": "state",
            "data": {
                "effects": [{"op": "add", "path": "inventory", "value": "lamp"}],
                "action": "add_to_inventory",
                "version": ticket.version,
            },
            "after": 2,
        }
        await desk.log_event(user_id, EXPERIENCE, "quest_started", "find_the_library")
        push = await player.expect("push")
        assert push["n"] == 2 and push["data"]["effects"] == [
            {"op": "add", "path": "active_quests", "value": "find_the_library", "unless": "completed_quests"}
        ]
        assert push["data"]["event"] == {"type": "quest_started", "content_id": "find_the_library"}


async def test_void_edit_and_one_in_another_experience_are_not_pushed(rig: Rig, desk: PlayerProgress) -> None:
    user_id = new_user()
    async with rig.player(user_id, experience="west-of-house"):
        pass
    async with rig.player(user_id) as player:
        await player.accept(1, effects=[{"op": "set", "path": "coins", "value": "many"}])
        await desk.edit_state(user_id, EXPERIENCE, [{"op": "incr", "path": "coins", "value": 1}])
        await desk.add_to_inventory(user_id, "west-of-house", "lamp")
        assert await say(rig, user_id, "elsewhere", experience="west-of-house") == 0
        assert await say(rig, user_id, "here", experience=EXPERIENCE) == 1
        push = await player.wait_for("push")
        assert push["n"] == 1 and push["data"] == {"text": "here"}


async def test_message_with_the_same_id_is_sent_once(rig: Rig) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        body = push_body("message", {"text": "The library closes."})
        assert [await rig.hot.push(user_id, "m1", body) for _ in range(3)] == [1, 1, 1]
        assert await say(rig, user_id, "It is closed.") == 2
        pushes = [await player.expect("push"), await player.expect("push")]
        assert [push["data"]["text"] for push in pushes] == ["The library closes.", "It is closed."]
        assert "after" not in pushes[0]


async def test_nobody_there_is_told_so(rig: Rig) -> None:
    assert await say(rig, new_user(), "hello") == 0


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["same node", "another node"])
async def test_resume_replays_what_was_not_seen(
    rig: Rig, desk: PlayerProgress, redis_url: str, database_url: str, is_elsewhere: bool
) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await say(rig, user_id, "one")
        await player.expect("push")
        resume = player.resume()
        player.abort()
    await say(rig, user_id, "two")
    await desk.add_to_inventory(user_id, EXPERIENCE, "lamp")
    async with run_rig(redis_url, database_url) as other:
        at = other if is_elsewhere else rig
        async with at.player(user_id, resume=resume, seen=1) as player:
            assert player.welcome["resumed"] and player.welcome["state"]["inventory"] == ["lamp"]
            two, lamp = await player.expect("push"), await player.expect("push")
            assert (two["n"], two["data"]) == (2, {"text": "two"})
            assert lamp["n"] == 3 and lamp["data"]["version"] <= player.welcome["version"]
            await say(at, user_id, "three")
            assert (await player.expect("push"))["n"] == 4


async def test_new_session_counts_from_one(rig: Rig) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await say(rig, user_id, "one")
        await player.expect("push")
    async with rig.player(user_id) as player:
        await say(rig, user_id, "two")
        assert (await player.expect("push"))["n"] == 1


async def test_what_was_seen_is_kept_no_longer(rig: Rig) -> None:
    user_id = new_user()
    key = rig.hot._keys.pushes(user_id)
    async with rig.player(user_id) as player:
        for text in ("one", "two", "three"):
            await say(rig, user_id, text)
            await player.expect("push")
        await player.send({"t": "ping", "at": 1, "seen": 2})
        await until(lambda: rig.hot._client.llen(key), 1)
        await say(rig, user_id, "four")
        assert (await player.wait_for("push"))["n"] == 4
        assert 0 < await rig.hot._client.ttl(key) <= 60


async def test_client_that_missed_more_than_is_kept_gets_its_whole_state(rig: Rig, desk: PlayerProgress) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1)
        resume = player.resume()
        player.abort()
    for n in range(PUSHES_MAX + 1):
        await say(rig, user_id, str(n))
    assert await rig.hot._client.llen(rig.hot._keys.pushes(user_id)) == PUSHES_MAX
    async with rig.player(user_id, resume=resume, seen=0, made=1) as player:
        resync = await player.wait_for("resync")
        assert resync["reason"] == "behind" and resync["seq"]["accepted"] == 1
        await desk.add_to_inventory(user_id, EXPERIENCE, "lamp")
        push = await player.wait_for("push", when=lambda push: push["kind"] == "state")
        assert push["n"] == 1 + PUSHES_MAX, "what is left of the messages comes first, counted from 1"


async def test_client_that_does_not_say_what_it_saw_gets_what_is_kept(rig: Rig) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        for text in ("one", "two"):
            await say(rig, user_id, text)
            await player.expect("push")
        resume = player.resume()
        player.abort()
    async with rig.player(user_id, resume=resume) as player:
        assert [(await player.expect("push"))["n"] for _ in range(2)] == [1, 2]


async def test_push_comes_before_the_ack_of_what_was_accepted_after_it(rig: Rig, desk: PlayerProgress) -> None:
    """The notice is lost, and the next ack waits until the push was fetched."""
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1)
        await rig.hot._client.hset(rig.hot._keys.session(user_id), "node", "nobody listens")
        await desk.edit_state(user_id, EXPERIENCE, [{"op": "set", "path": "title", "value": "of the operator"}])
        await player.update(2, effects=[{"op": "set", "path": "title", "value": "of the player"}])
        push = await player.expect("push")
        assert push["after"] == 1
        assert (await player.expect("ack"))["seq"] == 2


async def test_idle_client_gets_a_push_whose_notice_was_lost_with_its_next_ping(rig: Rig, desk: PlayerProgress) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await player.accept(1)
        await rig.hot._client.hset(rig.hot._keys.session(user_id), "node", "nobody listens")
        await desk.add_to_inventory(user_id, EXPERIENCE, "lamp")
        await player.send({"t": "ping", "at": 1})
        assert (await player.wait_for("push"))["after"] == 1


async def test_message_is_looked_for_when_the_channel_comes_back(rig: Rig) -> None:
    user_id = new_user()
    async with rig.player(user_id) as player:
        await rig.hot._client.hset(rig.hot._keys.session(user_id), "node", "nobody listens")
        await say(rig, user_id, "while nobody listens")
        await rig.hot._client.client_kill_filter(_type="pubsub")
        assert (await player.wait_for("push"))["data"] == {"text": "while nobody listens"}


async def test_redis_that_forgets_costs_a_resync_after_which_pushes_count_from_one(
    rig: Rig, desk: PlayerProgress, redis_url: str, database_url: str
) -> None:
    user_id = new_user()
    async with run_flusher(redis_url, database_url), rig.player(user_id) as player:
        await player.accept(1)
        ticket = await desk.add_to_inventory(user_id, EXPERIENCE, "lamp")
        await player.wait_for("push")
        await desk.wait_saved(ticket)
        await player.wait_saved(1)
        await rig.hot._client.flushall()
        await player.send({"t": "ping", "at": 1})
        resync = await player.wait_for("resync")
        assert resync["state"]["inventory"] == ["lamp"]
        await desk.add_to_inventory(user_id, EXPERIENCE, "rope")
        push = await player.wait_for("push")
        assert push["n"] == 1 and push["data"]["version"] > resync["version"]


async def test_edit_that_redis_forgot_is_noticed_by_an_idle_client(rig: Rig, desk: PlayerProgress) -> None:
    """Redis comes back from a moment before the edit; the client is in no stream that fell behind."""
    user_id = new_user()
    key = ProgressKey(user_id, EXPERIENCE)
    async with rig.player(user_id) as player:
        await player.accept(1)
        keys = [rig.hot._keys.session(user_id), *rig.hot._keys.of_group(key)[1:3]]
        kept = {name: await rig.hot._client.dump(name) for name in keys}
        await desk.add_to_inventory(user_id, EXPERIENCE, "lamp")
        assert (await player.expect("push"))["n"] == 1
        for name, body in kept.items():
            if body is not None:
                await rig.hot._client.restore(name, 0, body, replace=True)
        await player.send({"t": "ping", "at": 1})
        resync = await player.wait_for("resync")
        assert resync["reason"] == "behind" and "inventory" not in resync["state"]
        assert await rig.node.progress.issuer.issue_requested(key, (await _row_id(rig, key))) == 1
        push = await player.wait_for("push")
        assert push["n"] == 1 and push["data"]["version"] == resync["version"] + 1


async def _row_id(rig: Rig, key: ProgressKey) -> str:
    progress = await rig.hot.find_progress(key)
    assert progress is not None
    return progress.row_id


async def test_what_waits_in_the_journal_is_swept_up(rig: Rig, desk: PlayerProgress) -> None:
    """The node that asked died before it applied anything."""
    user_id = new_user()
    async with rig.player(user_id) as player:
        key = ProgressKey(user_id, EXPERIENCE)
        for item in ("lamp", "rope"):
            effects = [{"op": "add", "path": "inventory", "value": item}]
            wanted = ActionRequest(str(uuid.uuid4()), "ann", "operator", "grant_item", effects=effects)
            await desk.journal.request(key, wanted)
        sweeper = ActionSweeper(rig.node)
        assert await sweeper.sweep(older_than_s=3600) == 0
        assert await sweeper.sweep(older_than_s=0) == 2
        pushes = [await player.expect("push"), await player.expect("push")]
        assert [push["data"]["effects"][0]["value"] for push in pushes] == ["lamp", "rope"]


async def test_queries_show_an_edit_and_the_history_who_made_it(
    rig: Rig, desk: PlayerProgress, redis_url: str, database_url: str
) -> None:
    user_id = new_user()
    async with run_flusher(redis_url, database_url), rig.player(user_id) as player:
        await player.accept(1)
        await player.accept(2, event={"type": "item_collected", "content_id": "lamp"})
        ticket = await desk.remove_from_inventory(user_id, EXPERIENCE, "lamp")
        await player.wait_for("push")
        assert await ask(player, "inventory") == {"items": []}
        assert await ask(player, "visited", waypoint="w1") == {"visited": True}
        assert await ask(player, "visited") == {"waypoints": ["w1"]}
        await desk.wait_saved(ticket)
        await player.wait_saved(2)
        events = (await ask(player, "history"))["events"]
        assert [(event["device_id"], event["event_type"]) for event in events] == [
            ("ops", "operator_edit"),
            ("phone", "item_collected"),
            ("phone", "waypoint_visited"),
        ]
        only = await ask(player, "history", type="waypoint_visited")
        assert [event["content_id"] for event in only["events"]] == ["w1"]
        assert (await ask(player, "history", to=1))["events"] == []
        page = await ask(player, "history", limit=2)
        rest = await ask(player, "history", limit=2, cursor=page["cursor"])
        assert len(page["events"]) == 2 and len(rest["events"]) == 1 and rest["cursor"] is None


@pytest.mark.parametrize(
    "args",
    [
        {"cursor": "newest"},
        {"from": 5, "to": 5},
        {"from": "noon"},
        {"type": ""},
        {"content_id": ""},
        {"limit": 0},
    ],
    ids=str,
)
async def test_bad_arguments_of_a_query_get_102_and_keep_the_connection(rig: Rig, args: dict[str, Any]) -> None:
    async with rig.player() as player:
        await player.send({"t": "query", "id": "q1", "of": "history", "args": args})
        error = await player.expect("error")
        assert (error["code"], error["id"]) == (102, "q1")
        assert "events" in await ask(player, "history")


async def test_device_that_is_reserved_is_refused_and_another_is_welcome(rig: Rig) -> None:
    user_id = new_user()
    async with rig.bare() as bare:
        await bare.send(hello_frame(user_id, device="ops"))
        error = await bare.expect("error")
        assert error["code"] == 102 and "device" in error["message"]
        await bare.hello(user_id=user_id)


async def ask(player: Bare, of: str, **args: Any) -> dict[str, Any]:
    id = str(uuid.uuid4())
    await player.send({"t": "query", "id": id, "of": of, "args": args})
    result = await player.wait_for("result", when=lambda frame: frame["id"] == id)
    data: dict[str, Any] = result["data"]
    return data


async def until(ask_for: Callable[[], Awaitable[Any]], wanted: object) -> None:
    async with asyncio.timeout(5):
        while await ask_for() != wanted:  # noqa: ASYNC110 - Redis has no signal for it
            await asyncio.sleep(0.01)
