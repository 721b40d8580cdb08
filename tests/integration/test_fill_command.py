"""`wayhold fill` as somebody types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import asyncpg
import pytest


def run_fill(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_wayhold("fill", database_url, *arguments)


def run_wayhold(command: str, database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", command, *arguments],
        env=os.environ | {"DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


async def test_fill_plays_the_shipped_experience_and_refuses_to_fill_twice(database_url: str) -> None:
    filled = run_fill(database_url, "--players", "5", "--events", "400", "--random-seed", "3", "--json")
    assert filled.returncode == 0, filled.stderr
    report = json.loads(filled.stdout)
    assert (report["players"], report["events"], report["random_seed"]) == (5, 400, 3)
    assert "--random-seed 3" in filled.stderr
    connection = await asyncpg.connect(database_url)
    try:
        visited = {
            record["content_id"]
            for record in await connection.fetch(
                "SELECT DISTINCT content_id FROM player_progress_events WHERE event_type = 'waypoint_visited'"
            )
        }
    finally:
        await connection.close()
    assert "8_inter_gravity_car" in visited

    again = run_fill(database_url, "--players", "5")
    assert again.returncode == 2 and "--add" in again.stderr
    more = run_fill(database_url, "--players", "8", "--events", "100", "--add", "--random-seed", "3")
    assert more.stdout.startswith("fill: ok players=3 (5 were there) ")


@pytest.mark.slow
async def test_verify_finds_no_drift_after_a_fill_by_the_same_rule_for_levels(database_url: str) -> None:
    """A fill used to compute levels by the default rule, which a verification by the one that is set calls drift."""
    rule = ("--level-points-per-hour", "7", "--level-points-per-km", "900", "--level-step-points", "3")
    filled = run_fill(database_url, "--players", "30", "--events", "1500", "--random-seed", "4", *rule)
    assert filled.returncode == 0, filled.stderr
    verified = run_wayhold("verify", database_url, *rule)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    by_another_rule = run_wayhold("verify", database_url)
    assert by_another_rule.returncode != 0 and "level" in by_another_rule.stdout


def test_fill_says_what_is_wrong_in_one_line(database_url: str) -> None:
    for arguments in (("--players", "0"), ("--players", "9", "--events", "3"), ("--experience", "no/such")):
        refused = run_fill(database_url, *arguments)
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1, refused.stderr
