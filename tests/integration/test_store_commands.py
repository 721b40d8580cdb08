"""`wayhold erase` and `wayhold deadletters` as an operator runs them, on real stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid

from tests.stores.conftest import Stores, stores  # noqa: F401

WAYPOINT = {"type": "waypoint_visited", "content_id": "8_inter_gravity_car"}


def wayhold(at: Stores, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"REDIS_URL": at.redis_url, "DATABASE_URL": at.database_url}
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


async def test_erase_asks_first_and_then_leaves_nothing(stores: Stores) -> None:  # noqa: F811
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    await stores.flush()

    refused = wayhold(stores, "erase", player.key.user_id)
    assert refused.returncode == 2 and "--yes" in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert len(await stores.fetch("SELECT 1 FROM users")) == 1

    erased = wayhold(stores, "erase", player.key.user_id, "--yes", "--json")
    assert erased.returncode == 0, erased.stderr
    assert json.loads(erased.stdout) == {"was_known": True, "progress": 1, "keys": 2, "tidied": []}
    assert await stores.fetch("SELECT 1 FROM users") == []
    assert await stores.hot.find_session(player.key.user_id) is None

    assert wayhold(stores, "erase", "nobody", "--yes").returncode == 2
    assert "nothing was known" in wayhold(stores, "erase", str(uuid.uuid4()), "--yes").stdout


async def test_dead_letters_are_listed_replayed_and_dropped(stores: Stores) -> None:  # noqa: F811
    await stores.fetch("ALTER TABLE player_progress_events ADD CONSTRAINT no_cars CHECK (content_id <> 'car')")
    player = stores.player()
    await player.hello()
    await player.send(*[player.make({"type": "waypoint_visited", "content_id": "car"}) for _ in range(2)])
    await stores.flush()

    letters = [json.loads(line) for line in wayhold(stores, "deadletters", "list", "--json").stdout.splitlines()]
    assert [(letter["kind"], letter["player"], letter["seq"]) for letter in letters] == [
        ("dead_letter", player.key.user_id, 2),
        ("dead_letter", player.key.user_id, 1),
    ]
    refused = wayhold(stores, "deadletters", "replay", "--all")
    assert refused.returncode == 1 and "refused again 2" in refused.stdout

    await stores.fetch("ALTER TABLE player_progress_events DROP CONSTRAINT no_cars")
    assert wayhold(stores, "deadletters", "drop", letters[0]["id"]).stdout == "dropped 1\n"
    replayed = wayhold(stores, "deadletters", "replay", "--all", "--json")
    assert json.loads(replayed.stdout)["replayed"] == 1
    assert [row["seq"] for row in await stores.fetch("SELECT seq FROM player_progress_events")] == [1]
    assert "no dead letters" in wayhold(stores, "deadletters", "list").stdout
    assert wayhold(stores, "deadletters", "replay").returncode == 2


async def test_quarantined_progress_is_listed_and_released(stores: Stores) -> None:  # noqa: F811
    player = stores.player()
    await player.hello()
    await player.send(player.make(WAYPOINT))
    progress = stores.hot._keys.progress(player.key)
    await stores.hot._client.hset(progress, "v:bad", b'"\\u0000"')
    await stores.flush()

    listed = wayhold(stores, "deadletters", "list").stdout
    assert player.key.user_id in listed and "22P05" in listed
    await stores.hot._client.hdel(progress, "v:bad")
    released = wayhold(stores, "deadletters", "release", player.key.user_id, player.key.experience)
    assert (released.returncode, released.stdout) == (0, "it is flushed again now\n")
    await stores.flush()
    assert len(await stores.fetch("SELECT 1 FROM player_progress_events")) == 1
    assert wayhold(stores, "deadletters", "release", player.key.user_id, player.key.experience).returncode == 1


def test_without_stores_the_commands_say_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "deadletters", "list", "--data-dir", "/nonexistent/wayhold"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "wayhold dev" in done.stderr and len(done.stderr.splitlines()) == 1
