"""The command itself: quick, complete, honest about what a user typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import jwt
import pytest

from gateway.app.settings import list_settings
from gateway.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
HELP_DEADLINE_S = 0.15
PLAYER = "6d3c1c0e-7b0b-4d0c-9d5a-0c8f4f2f9f11"


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WAYHOLD_")}
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_help_lists_every_command_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        line = next(line for line in listed.splitlines() if line.strip().startswith(name + " "))
        assert len(line.split(maxsplit=1)[1]) > 10, line


def test_help_is_quick_and_imports_no_driver() -> None:
    code = (
        "import sys; from gateway.cli import main; main(['--help']); "
        "heavy = {'asyncpg', 'websockets', 'redis', 'pydantic', 'prometheus_client', 'structlog', 'asyncio'}; "
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    best_s = float("inf")
    for _ in range(5):  # the machine may be busy; the quickest run tells what it takes
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        best_s = min(best_s, time.monotonic() - began)
        assert done.returncode == 0, done.stderr
        if best_s < HELP_DEADLINE_S:
            break
    assert best_s < HELP_DEADLINE_S


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_has_a_version(name: str) -> None:
    helped = run(name, "--help")
    assert helped.returncode == 0, helped.stderr
    assert helped.stdout.startswith(f"usage: wayhold {name}")
    if name in ("dev", "walk"):
        assert run(name, "--version").stdout.startswith("wayhold ")


def test_nothing_typed_shows_the_commands_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "wayhold dev" in capsys.readouterr().out


def test_version() -> None:
    assert run("--version").stdout.split()[0] == "wayhold"


def test_settings_prints_value_and_source_and_no_secret(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text("window = 128\n")
    environment = {
        "REDIS_URL": "redis://me:hunter2@h/0",
        "WAYHOLD_JWT_SECRET": "hunter2" * 6,
        "WAYHOLD_HEARTBEAT_S": "15",
    }
    done = run("settings", "--config", str(tmp_path / "w.toml"), "--play-port", "9", **environment)
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in done.stdout.splitlines()}
    assert set(lines) == {setting.name for setting in list_settings()}
    assert lines["window"] == ["128", f"file {tmp_path / 'w.toml'}"]
    assert lines["play_port"] == ["9", "flag --play-port"]
    assert lines["heartbeat_s"] == ["15.0", "environment WAYHOLD_HEARTBEAT_S"]
    assert lines["redis_url"][0] == "redis://me:***@h/0"
    assert lines["workers"] == ["1", "default"]
    as_json = run("settings", "--json", "--explain", **environment)
    assert json.loads(as_json.stdout)["heartbeat_s"] == {
        "value": 15.0,
        "source": "environment WAYHOLD_HEARTBEAT_S",
        "env": "WAYHOLD_HEARTBEAT_S",
        "flag": "--heartbeat-s",
    }
    explained = run("settings", "--explain", "--dev", **environment)
    assert "raised:" in explained.stdout and "default (dev)" in explained.stdout
    of_dev = {line.split()[0]: line.split(maxsplit=2)[1:] for line in run("settings", "--dev").stdout.splitlines()}
    assert of_dev["jwt_secret_file"] == [".data/jwt_secret", "default (dev)"]
    assert "hunter2" not in done.stdout + as_json.stdout + explained.stdout


def test_settings_into_a_pipe_that_closes() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m gateway.cli settings --explain | head -1"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.startswith("data_dir") and done.stderr == ""


def test_token_prints_the_token_and_nothing_else(tmp_path: Path) -> None:
    key = "k" * 40
    (tmp_path / "key").write_text(key + "\n")
    done = run("token", "--player", PLAYER, "--ttl-s", "60", "--token-secret-file", str(tmp_path / "key"))
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    claims = jwt.decode(done.stdout.strip(), key, algorithms=["HS256"])
    assert claims["sub"] == PLAYER
    assert claims["exp"] - claims["iat"] == 60
    assert set(claims) == {"sub", "iat", "exp"}


def test_token_carries_what_was_asked_for() -> None:
    key = "k" * 40
    done = run(
        "token", "--player", PLAYER.upper(), "--experience", "wylding-woods", "--experience", "other",
        WAYHOLD_JWT_SECRET=key, WAYHOLD_JWT_ISSUER="us", WAYHOLD_JWT_AUDIENCE="game",
    )  # fmt: skip
    claims = jwt.decode(done.stdout.strip(), key, algorithms=["HS256"], issuer="us", audience="game")
    assert claims["experiences"] == ["wylding-woods", "other"]
    assert claims["sub"] == PLAYER


def test_token_uses_the_dev_secret_of_the_data_folder(tmp_path: Path) -> None:
    missing = run("token", "--player", PLAYER, cwd=tmp_path)
    assert missing.returncode == 2 and "wayhold dev" in missing.stderr
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "jwt_secret").write_text("d" * 40 + "\n")
    done = run("token", "--player", PLAYER, cwd=tmp_path)
    assert jwt.decode(done.stdout.strip(), "d" * 40, algorithms=["HS256"])["sub"] == PLAYER


@pytest.mark.parametrize("ttl", ["0", "-5", "999999999999", "x"])
def test_token_refuses_a_lifetime_that_is_none(ttl: str) -> None:
    done = run("token", "--player", str(uuid.uuid4()), "--ttl-s", ttl, WAYHOLD_JWT_SECRET="k" * 40)
    assert done.returncode == 2 and done.stdout == ""


def test_doctor_says_what_to_do_about_each_finding(tmp_path: Path, redis_url: str, database_url: str) -> None:
    done = run(
        "doctor", "--json", "--data-dir", str(tmp_path / "data"), "--play-port", "0", "--ops-port", "0",
        REDIS_URL=redis_url, DATABASE_URL=database_url,
    )  # fmt: skip
    report = json.loads(done.stdout)
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert done.returncode == 0 and report["ok"], report
    servers = ("redis", "redis safety", "redis clock", "postgres", "schema", "postgres clock")
    for name in ("python", "packages", "settings", "data folder", *servers):
        assert states[name] == "ok", name
    for finding in report["findings"]:
        assert finding["state"] == "ok" or finding["next_step"], finding


def test_doctor_names_what_is_wrong(tmp_path: Path, redis_url: str) -> None:
    done = run(
        "doctor", "--data-dir", str(tmp_path / "data"), "--play-port", "0", "--ops-port", "0",
        REDIS_URL=redis_url, DATABASE_URL="postgresql://u:hunter2@127.0.0.1:1/d",
    )  # fmt: skip
    assert done.returncode == 1
    assert "FAIL  postgres:" in done.stdout
    assert "hunter2" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("doctor: FAILED")
