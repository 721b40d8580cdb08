"""
`wayhold loadtest` against a real `wayhold dev`, small: with kills, with players who never return, with a Postgres that
stands still.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.faults import list_parents
from loadtest.target import add_target_arguments, find_target, is_alive
from loadtest.watch import Watch
from tests.acceptance.dev_rig import RunningDev, run_dev

pytestmark = pytest.mark.timeout(180)

LAST_LINE = re.compile(
    r"audit: ok offered=(\d+) accepted=(\d+) void=(\d+) saved=(\d+) dead_lettered=0 "
    r"lost=0 duplicated=0 reordered=0 state_mismatches=0"
)


@pytest.fixture(scope="module")
def dev() -> Iterator[RunningDev]:
    with run_dev() as running:
        yield running


def run_loadtest(dev: RunningDev, tmp_path: Path, *flags: str) -> dict[str, Any]:
    """Run one that must pass; answers its report."""
    report = tmp_path / "report.json"
    done = dev.run("loadtest", "--json", str(report), *flags, timeout_s=150)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    last = LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    assert last, done.stdout[-2000:]
    offered, accepted, void, _ = map(int, last.groups())
    assert accepted > 0 and accepted + void >= 0.9 * offered
    said: dict[str, Any] = json.loads(report.read_text())
    return {**said, "text": done.stdout}


def test_every_update_of_many_players_is_in_postgres_once_and_in_order(dev: RunningDev, tmp_path: Path) -> None:
    said = run_loadtest(
        dev,
        tmp_path,
        *("--players", "60", "--seconds", "6", "--rate", "4", "--drop-rate", "0.02", "--offline-rate", "0.01"),
    )
    assert said["audit"]["offered"] == 60 * 6 * 4
    assert said["resumes"] > 0 and said["settled_s"] is not None


def test_an_operator_of_the_load_test_sees_the_figures_of_the_live_feed(dev: RunningDev) -> None:
    """It took a `dev` of this machine for one that lets nobody in: the token that lies there was not looked for."""
    parser = argparse.ArgumentParser()
    add_target_arguments(parser)
    target = find_target(parser.parse_args(["--data-dir", str(dev.data_dir)]), {})
    assert target.ops_url is not None
    for token, has_feed in ((target.ops_token, True), ("of nobody", False)):
        watch = Watch(target.ops_url, token)
        asyncio.run(watch.look())
        assert watch.has_feed is has_feed


def test_gateway_flusher_and_valkey_killed_in_the_middle_lose_nothing(dev: RunningDev, tmp_path: Path) -> None:
    said = run_loadtest(
        dev,
        tmp_path,
        *("--players", "50", "--seconds", "8", "--rate", "4"),
        *("--kill", "gateway,flusher,valkey", "--kill-at", "2,6"),
    )
    assert {kill["process"] for kill in said["kills"]} == {"gateway-1", "flusher-1", "valkey"}
    # Every one of them came back, and what was due until then was answered later than that.
    assert all(0 < kill["back_s"] < 30 and kill["back_pid"] != kill["pid"] for kill in said["kills"])
    gateway = next(kill for kill in said["kills"] if kill["process"] == "gateway-1")
    assert gateway["ack_meanwhile"]["max_ms"] >= gateway["back_s"] * 500, gateway
    assert said["audit"]["accepted"] + said["audit"]["void"] == said["audit"]["offered"]


def test_a_crowd_in_the_mud_loses_nothing_while_gateway_and_flusher_are_killed_and_valkey_is_restarted(
    dev: RunningDev, tmp_path: Path
) -> None:
    """Every kind of mishap, many times as often as in `--mud heavy`: drop-outs, dying phones, second devices, skews."""
    folder = tmp_path / "run"
    said = run_loadtest(
        dev,
        tmp_path,
        *("--scenario", "mixed", "--players", "50", "--seconds", "9", "--rate", "1", "--ramp-s", "1"),
        *("--mud", "heavy", "--mud-dropout-every-s", "20", "--mud-half-open-every-s", "20"),
        *("--mud-address-change-every-s", "20", "--mud-app-kill-every-s", "15", "--mud-power-cut-every-s", "15"),
        *("--mud-second-device-every-s", "15"),
        *("--kill", "gateway,flusher", "--kill-at", "3", "--restart", "valkey", "--restart-at", "6"),
        *("--history-dir", str(folder)),
    )
    last = json.loads((folder / "samples-00.jsonl").read_text().splitlines()[-1])
    assert last["mishaps"] > 50 and last["unmade"] > 0 and last["resumes"] > 0, last
    assert last["saved"] == last["accepted"] > 100 and "4201" in last["closes"]
    lines = [json.loads(line) for line in (folder / "marks.jsonl").read_text().splitlines()]
    marks = sorted(lines, key=lambda mark: mark["at_ms"])
    assert [mark["what"] for mark in marks] == ["kill gateway-1", "kill flusher-1", "restart valkey"]
    assert all(mark["until_ms"] > mark["at_ms"] for mark in marks)
    (restarted,) = said["restarts"]
    assert restarted["process"] == "valkey" and restarted["at_s"] >= 6 and restarted["back_pid"] != restarted["pid"]
    line = rf"  restarted +valkey \(pid {restarted['pid']}\) after [\d.]+ s of play, ready again after [\d.]+ s \(pid "
    assert re.search(line, said["text"]), said["text"][-2000:]
    assert said["audit"]["offered"] == last["made"] - last["unmade"] + last["refused"]


def test_what_was_accepted_is_kept_when_players_gateway_flusher_and_valkey_die_for_good(
    dev: RunningDev, tmp_path: Path
) -> None:
    """The players are killed first and never send anything again: whatever reached them as accepted must be there."""
    said = run_loadtest(dev, tmp_path, "--no-return", "--players", "80", "--seconds", "5", "--rate", "4")
    assert {kill["process"] for kill in said["kills"]} == {"gateway-1", "flusher-1", "valkey"}
    assert said["audit"]["saved"] == said["audit"]["accepted"] > 0


def test_players_play_on_while_postgres_stands_still(dev: RunningDev, tmp_path: Path) -> None:
    said = run_loadtest(
        dev,
        tmp_path,
        *("--players", "40", "--seconds", "9", "--rate", "2", "--freeze-postgres-s", "4"),
        *("--drop-rate", "0", "--offline-rate", "0"),
    )
    freeze = said["freeze"]
    assert freeze["frozen_s"] >= 4 and freeze["ack"]["count"] > 100
    # The product's bound is 50 ms; tests share their cores with whatever else runs.
    assert freeze["ack"]["p99_ms"] <= 250, freeze
    assert freeze["saved_during"] == 0, freeze
    assert freeze["accepted_caught_up_s"] is not None and freeze["saved_caught_up_s"] is not None


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_load_test_leaves_no_players_behind(dev: RunningDev, how: signal.Signals) -> None:
    load = dev.spawn("loadtest", "--players", "10", "--seconds", "60", "--processes", "2")
    try:
        assert load.stdout is not None
        assert any("players 10/10" in line for line in load.stdout)
        players = [pid for pid, parent in list_parents().items() if parent == load.pid]
        assert len(players) == 2
        load.send_signal(how)
        load.communicate(timeout=20)
    finally:
        load.kill()
    assert load.returncode == (130 if how == signal.SIGINT else -9)
    deadline_s = time.monotonic() + 10
    while any(is_alive(pid) for pid in players):
        assert time.monotonic() < deadline_s, "players play on without their load test"
        time.sleep(0.05)


def test_a_load_test_without_accepted_updates_fails(dev: RunningDev, tmp_path: Path) -> None:
    """Nothing was wrong, because nothing happened: that is no ok."""
    done = dev.run("loadtest", "--players", "1", "--seconds", "0.2", "--rate", "1", "--accepted-min", "0")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("audit: FAILED offered=0 accepted=0 ")
