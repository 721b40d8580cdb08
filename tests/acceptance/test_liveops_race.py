"""
Operators at the HTTP API race a player who makes 50 updates a second, while the gateway, the flusher and the ops
process are killed and Redis forgets everything between accept and save: nothing is lost or done twice on either side,
every request left one row, and the client's state is that of the server. All of it with real processes.

A failing seed is printed; `WAYHOLD_SEED=n pytest …` runs it again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis_asyncio

from gateway.app.errors import CommandError
from gateway.app.operate.api import Api, Away, Refused
from protocol.client.journal import MemoryJournal
from protocol.client.player_client import PlayerClient
from protocol.client.state_mirror import StateMirror
from tests.acceptance.dev_rig import RunningDev, run_dev

pytestmark = pytest.mark.slow

EXPERIENCE = "wylding-woods"
UPDATES_PER_S = 50
SECONDS = 4.5
DEADLINE_S = 45.0


@pytest.fixture(scope="module")
def dev() -> Iterator[RunningDev]:
    with run_dev() as running:
        yield running


def api_of(dev: RunningDev) -> Api:
    return Api(dev.ready()["ops_url"], (dev.data_dir / "ops_token").read_text().strip())


async def post(dev: RunningDev, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
    """As an operator's client does it: the same request with the same key until there is an answer."""
    while True:
        try:
            return await asyncio.to_thread(lambda: api_of(dev).post(path, body, key))
        except Refused:
            raise
        except (Away, CommandError, OSError, KeyError):
            await asyncio.sleep(0.1)  # the process is being restarted, and makes another token


async def play(client: PlayerClient, rng: random.Random, ended: asyncio.Event) -> None:
    number = 0
    while not ended.is_set():
        number += 1
        effects: list[dict[str, Any]] = [
            {"op": "incr", "path": "steps.player", "value": 1},
            {"op": "set", "path": "current_location", "value": f"step {number}"},
            {"op": rng.choice(["add", "remove"]), "path": "inventory", "value": rng.choice("abc")},
        ]
        await client.update({"type": "step", "content_id": str(number)}, effects)
        await asyncio.sleep(1 / UPDATES_PER_S)


class Counted:
    """What an operator was told about their requests."""

    def __init__(self) -> None:
        self.requests: set[str] = set()
        self.grants: list[str] = []
        self.undos: list[str] = []


async def operate(dev: RunningDev, user_id: str, rng: random.Random, counted: Counted, ended: asyncio.Event) -> None:
    whom = {"player": user_id, "experience": EXPERIENCE}
    while not ended.is_set():
        effects = [{"op": "incr", "path": "steps.operator", "value": 1}]
        body = {"action": "edit_state", "target": whom, "payload": {"effects": effects}, "reason": "race"}
        key = str(uuid.uuid4())
        answer = await post(dev, "/api/v1/actions", body, key)
        if rng.random() < 0.3:
            # A client that lost the answer asks again.
            assert (await post(dev, "/api/v1/actions", body, key))["id"] == answer["id"]
        counted.requests.add(answer["id"])
        counted.grants.append(answer["id"])
        other = rng.choice(
            [
                {"action": "grant_item", "target": whom, "payload": {"item": rng.choice("abc")}, "reason": "race"},
                {"action": "take_item", "target": whom, "payload": {"item": rng.choice("abc")}, "reason": "race"},
                {"action": "move", "target": whom, "payload": {"location": "the desk"}, "reason": "race"},
            ]
        )
        counted.requests.add((await post(dev, "/api/v1/actions", other, str(uuid.uuid4())))["id"])
        if answer["state"] == "done" and rng.random() < 0.4:
            with suppress(Refused):
                path = f"/api/v1/actions/{answer['id']}/undo"
                undone = await post(dev, path, {"reason": "race"}, str(uuid.uuid4()))
                counted.requests.add(undone["id"])
                counted.undos.append(undone["id"])


async def hurt(dev: RunningDev, rng: random.Random) -> None:
    """Each process dies, Redis forgets, and two of it happen again, in an order that the seed decides."""
    kinds = ["flusher-1", "gateway-1", "ops-1", "redis"]
    hurts = kinds + rng.sample(kinds, 2)
    rng.shuffle(hurts)
    redis = redis_asyncio.Redis.from_url(dev.ready()["redis_url"])
    for what in hurts:
        await asyncio.sleep(SECONDS / len(hurts) * rng.uniform(0.6, 1.2))
        if what == "redis":
            await redis.flushall()
        else:
            await asyncio.to_thread(dev.kill, what)
    await redis.aclose()


@pytest.mark.timeout(150)
async def test_operators_race_a_player_while_everything_dies_and_nothing_is_lost_or_doubled(dev: RunningDev) -> None:
    seed = int(os.environ.get("WAYHOLD_SEED", random.randrange(1_000_000)))
    print(f"WAYHOLD_SEED={seed} repeats it")
    rng = random.Random(seed)
    user_id = str(uuid.uuid4())
    token = dev.run("token", "--player", user_id).stdout.strip()
    journal = MemoryJournal("phone")
    mirror = StateMirror(journal)
    client = PlayerClient(dev.ready()["play_url"], lambda: token, EXPERIENCE, journal=journal, listener=mirror)
    counted = Counted()
    play_ends, operators_end = asyncio.Event(), asyncio.Event()
    await client.start()
    try:
        await client.wait_connected(20)
        await client.update(None, [{"op": "incr", "path": "steps.player", "value": 1}])
        await client.wait_saved(1, 20)
        player = asyncio.create_task(play(client, rng, play_ends))
        operators = [
            asyncio.create_task(operate(dev, user_id, random.Random(seed + i), counted, operators_end))
            for i in range(8)
        ]
        await hurt(dev, rng)
        play_ends.set()
        operators_end.set()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(player, *operators)
            await client.wait_saved(client.made, DEADLINE_S)
            rows = await settle(dev)
            answered = await client.query("state")
            while mirror.state != answered["state"]:
                await asyncio.sleep(0.05)
                answered = await client.query("state")
    finally:
        await client.stop()
    await audit(dev, user_id, client.made, counted, rows, answered["state"])


async def settle(dev: RunningDev) -> list[Any]:
    """Every row, once none is `requested`."""
    connection = await asyncpg.connect(dev.ready()["database_url"])
    try:
        while True:
            rows: list[Any] = await connection.fetch("SELECT * FROM liveops_actions WHERE reason = 'race'")
            if all(row["state"] != "requested" for row in rows):
                return rows
            await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def audit(
    dev: RunningDev, user_id: str, made: int, counted: Counted, rows: list[Any], state: dict[str, Any]
) -> None:
    connection = await asyncpg.connect(dev.ready()["database_url"])
    try:
        events = await connection.fetch(
            "SELECT e.device_id, e.seq, e.session_id, p.state::text AS state FROM player_progress_events e"
            " JOIN experience_progress p ON p.id = e.experience_progress_id"
            " JOIN player_profiles f ON f.id = p.player_id WHERE f.user_id = $1 ORDER BY e.version",
            user_id,
        )
    finally:
        await connection.close()
    assert {str(row["id"]) for row in rows} == counted.requests, "one row for each request, and no other"
    assert len(counted.grants) > 5 and made > 100, "the race did not happen"
    own = [event["seq"] for event in events if event["device_id"] == "phone"]
    assert own == list(range(1, made + 1)), "lost, doubled, or out of order"
    saved = {str(event["session_id"]) for event in events if event["device_id"] == "ops"}
    done = {str(row["id"]) for row in rows if row["state"] == "done"}
    assert saved == done and len([e for e in events if e["device_id"] == "ops"]) == len(done)
    assert set(counted.grants) <= done, "an increment is always possible"
    undone = [row for row in rows if row["undo_of"] is not None and row["state"] == "done"]
    assert len({row["undo_of"] for row in undone}) == len(undone), "taken back twice"
    assert json.loads(events[0]["state"]) == state
    assert state["steps"] == {"player": made, "operator": len(counted.grants) - len(undone)}


async def test_viewer_gets_403_on_every_action_and_leaves_no_row(dev: RunningDev) -> None:
    admin = api_of(dev)
    admin.post("/api/v1/operators", {"name": "vic", "role": "viewer"})
    viewer = Api(dev.ready()["ops_url"], admin.post("/api/v1/operators/vic/tokens", {"label": "test"})["token"])
    asked = {"target": {"player": str(uuid.uuid4())}, "payload": {}, "reason": "viewer"}
    kinds = viewer.get("/api/v1/actions")["items"]
    assert len(kinds) >= 18 and not any(kind["allowed"] for kind in kinds)
    for kind in kinds:
        for dry_run in (False, True):
            with pytest.raises(Refused, match="viewer"):
                viewer.post(
                    "/api/v1/actions", {"action": kind["action"], "dry_run": dry_run, **asked}, str(uuid.uuid4())
                )
    with pytest.raises(Refused, match="viewer"):
        viewer.post(f"/api/v1/actions/{uuid.uuid4()}/undo", {"reason": "viewer"})
    connection = await asyncpg.connect(dev.ready()["database_url"])
    try:
        assert await connection.fetchval("SELECT count(*) FROM liveops_actions WHERE reason = 'viewer'") == 0
    finally:
        await connection.close()


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, (done.args, done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_commands_do_what_they_say_in_json_lines_and_exit_codes(dev: RunningDev) -> None:
    walked = dev.run("walk", "--fast", "--player", (player := str(uuid.uuid4())))
    assert walked.returncode == 0, walked.stderr
    (preview,) = lines(dev.run("grant", player, "umbrella", "--reason", "cli", "--dry-run"))
    assert "umbrella" in preview["preview"]["after"]["inventory"]
    (granted,) = lines(dev.run("grant", player, "umbrella", "--reason", "cli", "--yes", "--key", "g"))
    assert (
        lines(dev.run("grant", player, "umbrella", "--reason", "cli", "--yes", "--key", "g"))[0]["id"] == granted["id"]
    )
    (shown,) = lines(dev.run("show", player))
    assert "umbrella" in shown["progress"][0]["state"]["inventory"]
    (undone,) = lines(dev.run("undo", granted["id"], "--reason", "cli", "--yes"))
    assert (granted["state"], undone["state"]) == ("done", "done")
    again = dev.run("undo", granted["id"], "--reason", "cli", "--yes")
    assert again.returncode == 1 and "taken back already" in again.stderr
    absent = dev.run("kick", player, "--reason", "cli", "--yes")
    assert absent.returncode == 1 and json.loads(absent.stdout)["message"] == "the player is not there"
    nobody_asked = dev.run("ban", player, "--reason", "cli")
    assert nobody_asked.returncode == 2 and "--yes" in nobody_asked.stderr
    nonsense = dev.run("grant", player, "x" * 200, "--reason", "cli", "--yes")
    assert nonsense.returncode == 2 and "payload.item" in nonsense.stderr
    (overview,) = lines(dev.run("top", "--once"))
    assert overview["health"]["status"] == "healthy"
    audited = lines(dev.run("audit", "--player", player))
    # Looking at a place to the metre is in the log, too.
    done = [item for item in audited if item["action"] != "precise_location"]
    assert [(item["operator"], item["action"], item["state"]) for item in done] == [
        ("local", "kick", "refused"),
        ("local", "edit_state", "done"),
        ("local", "grant_item", "done"),
    ]
    nowhere = dev.run("sessions", "--ops-url", "http://127.0.0.1:9")
    assert nowhere.returncode == 3 and "does not answer" in nowhere.stderr
