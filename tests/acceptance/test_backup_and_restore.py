"""Backup and restore under a running `dev`: players go on in new streams, and who was erased stays erased."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import pytest

from tests.acceptance.dev_rig import RunningDev, run_dev
from tests.acceptance.test_export_and_erase import say_hello

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PLAYER, ERASED = str(uuid.uuid4()), str(uuid.uuid4())
TRACK = '<gpx><wpt lat="1" lon="1"><name>a</name></wpt><wpt lat="1.001" lon="1"><name>b</name></wpt></gpx>'


def test_a_restored_database_takes_players_where_it_left_them(tmp_path: Path) -> None:
    backup, track = tmp_path / "one.zip", tmp_path / "track.gpx"
    track.write_text(TRACK)

    def walk(dev: RunningDev, player: str, device: str) -> None:
        walked = dev.run("walk", str(track), "--fast", "--player", player, "--device", device)
        assert walked.returncode == 0, walked.stdout + walked.stderr

    with run_dev() as dev:
        walk(dev, PLAYER, "phone")
        walk(dev, ERASED, "other-phone")
        made = dev.run("backup", str(backup))
        assert made.returncode == 0 and "backed up 2 players" in made.stdout, made.stderr
        walk(dev, PLAYER, "tablet")
        assert dev.run("erase", ERASED, "--yes").returncode == 0
        busy = dev.run("restore", str(backup), "--yes")
        assert busy.returncode == 4 and "in use by process" in busy.stderr
        assert dev.stop() == 0

        restored = dev.run("restore", str(backup), "--yes", "--json")
        assert restored.returncode == 0, restored.stderr
        facts = json.loads(restored.stdout)
        assert facts["erased"] == 1 and facts["users"] == 2
        assert not (dev.data_dir / "valkey").exists()
        dev.start()
        token = dev.run("token", "--player", PLAYER).stdout.strip()
        # The tablet had been told that all it did is saved, and the restored database has never heard of it.
        told = asyncio.run(say_hello(dev, token, "tablet", made=3, saved=3))
        assert (told["t"], told["accepted"], told["reason"]) == ("stream_reset", 0, "server_behind")
        told = asyncio.run(say_hello(dev, token, "phone", made=3, saved=3))
        assert (told["t"], told["seq"]) == ("welcome", {"accepted": 3, "saved": 3})
        gone = dev.run("token", "--player", ERASED).stdout.strip()
        assert asyncio.run(say_hello(dev, gone, "other-phone", made=3, saved=3))["code"] == 4204
