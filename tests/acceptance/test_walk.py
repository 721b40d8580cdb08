"""`wayhold walk` against a real `wayhold dev`: each step ends in Postgres, whoever is killed on the way."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.acceptance.dev_rig import RunningDev, run_dev

pytestmark = pytest.mark.timeout(120)

STEPS = 72
STEP_LINE = re.compile(r"step +(\d+)/(\d+)  (\S+) +(\S+) +accepted +(\S+ m?s|before)  saved +(\S+ m?s|before)  RTT")


@pytest.fixture(scope="module")
def dev() -> Iterator[RunningDev]:
    with run_dev() as running:
        yield running


def fetch(dev: RunningDev, query: str, *arguments: object) -> list[asyncpg.Record]:
    async def ask() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dev.ready()["database_url"])
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    return asyncio.run(ask())


def read_step(walk: subprocess.Popen[str], number: int) -> None:
    """Read the walk's output up to the line of this step."""
    assert walk.stdout is not None
    for line in walk.stdout:
        found = STEP_LINE.match(line)
        if found and int(found[1]) >= number:
            return
    raise AssertionError(f"the walk ended before step {number}")


def test_fast_walk_ends_with_every_step_saved(dev: RunningDev, tmp_path: Path) -> None:
    done = dev.run("walk", "--fast", "--json", str(tmp_path / "walk.json"))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[-1] == f"walk: ok steps={STEPS} accepted={STEPS} saved={STEPS} resumes=0"
    shown = [found for found in map(STEP_LINE.match, lines) if found]
    assert [int(found[1]) for found in shown] == list(range(1, STEPS + 1))
    said = json.loads((tmp_path / "walk.json").read_text())
    assert said["ok"] and len(said["walked"]) == STEPS and said["audit"]["saved"] == STEPS

    (progress,) = fetch(
        dev,
        """SELECT e.*, e.state::text AS state_text
           FROM experience_progress e JOIN player_profiles p ON p.id = e.player_id WHERE p.user_id = $1""",
        uuid.UUID(said["player"]),
    )
    state = json.loads(progress["state_text"])
    assert len(state["visited_waypoints"]) == 37 and "8_inter_gravity_car" in state["visited_waypoints"]
    assert progress["completion_percentage"] == 100 and progress["completed_at"] is not None
    assert not list((dev.data_dir / "walk").iterdir()), "a finished walk leaves nothing behind"


def test_walk_survives_the_death_of_gateway_flusher_and_valkey_by_itself(dev: RunningDev) -> None:
    walk = dev.spawn("walk", "--pace", "120")
    try:
        for number, name in ((8, "gateway-1"), (20, "flusher-1"), (32, "valkey"), (44, "gateway-1")):
            read_step(walk, number)
            dev.kill(name)
        rest, _ = walk.communicate(timeout=100)
    finally:
        walk.kill()
    last = rest.splitlines()[-1]
    assert walk.returncode == 0, rest
    assert re.fullmatch(rf"walk: ok steps={STEPS} accepted={STEPS} saved={STEPS} resumes=\d+", last), rest


def test_killed_walk_goes_on_where_it_was(dev: RunningDev) -> None:
    walk = dev.spawn("walk", "--pace", "60")
    read_step(walk, 10)
    walk.send_signal(signal.SIGKILL)
    walk.communicate(timeout=10)
    done = dev.run("walk", "--fast")
    assert done.returncode == 0, done.stdout + done.stderr
    went_on = re.search(r"going on after step (\d+)", done.stdout)
    assert went_on and int(went_on[1]) >= 10
    assert done.stdout.splitlines()[-1] == f"walk: ok steps={STEPS} accepted={STEPS} saved={STEPS} resumes=0"
    assert f"Postgres holds {STEPS} of {STEPS} accepted steps" in done.stdout


def test_one_journal_is_one_player_who_walks_again(dev: RunningDev, tmp_path: Path) -> None:
    for _ in range(2):
        done = dev.run("walk", "--fast", "--journal", str(tmp_path / "phone"), "--json", str(tmp_path / "walk.json"))
        assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((tmp_path / "walk.json").read_text())
    (counted,) = fetch(
        dev,
        "SELECT count(*), max(seq), count(DISTINCT seq) FROM player_progress_events WHERE device_id = $1",
        said["device"],
    )
    assert tuple(counted) == (2 * STEPS, 2 * STEPS, 2 * STEPS)


def test_a_gpx_track_is_walked(dev: RunningDev, tmp_path: Path) -> None:
    track = tmp_path / "round.gpx"
    track.write_text(
        '<gpx version="1.1"><wpt lat="37.9" lon="-122.5"><name>Gate</name></wpt>'
        '<wpt lat="37.901" lon="-122.5"><name>Bridge &amp; creek</name></wpt></gpx>'
    )
    done = dev.run("walk", str(track), "--fast")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "walk: ok steps=3 accepted=3 saved=3 resumes=0"


def test_what_cannot_be_walked_is_one_line_and_an_exit_code(dev: RunningDev, tmp_path: Path) -> None:
    (tmp_path / "bad.gpx").write_text("<kml/>")
    (tmp_path / "secret").write_text("x" * 40)
    (tmp_path / "empty").mkdir()
    for code, arguments in (
        (2, ("walk", str(tmp_path / "bad.gpx"))),
        (2, ("walk", str(tmp_path / "none.gpx"))),
        (2, ("walk", "--player", "me")),
        (2, ("walk", "--url", "http://127.0.0.1/")),
        (2, ("walk", "--fast", "--token-secret-file", str(tmp_path / "secret"))),
        (3, ("walk", "--data-dir", str(tmp_path / "empty"))),
    ):
        command = [*dev.command(*arguments[:1]), *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dev.environment(), check=False)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr, done.stderr
