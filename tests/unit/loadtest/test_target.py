"""Where to play: flags first, then the running `dev`; whatever is missing is one clear line."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import jwt
import pytest

from loadtest.target import Target, TargetMissing, TargetRefused, add_target_arguments, find_target

SECRET = "s" * 32


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_target_arguments(parser)
    return parser.parse_args(flags)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder with a running `dev`: this very process."""
    ready = {
        "format": 1,
        "play_url": "ws://127.0.0.1:7400/v1/play",
        "database_url": "postgresql://dev",
        "processes": {"supervisor": os.getpid(), "gateway-1": 999_999_99},
    }
    (tmp_path / "ready.json").write_text(json.dumps(ready))
    (tmp_path / "jwt_secret").write_text(SECRET + "\n")
    return tmp_path


def test_the_running_dev_says_everything(data_dir: Path) -> None:
    target = find_target(arguments("--data-dir", str(data_dir)), {})
    assert (target.url, target.database_url) == ("ws://127.0.0.1:7400/v1/play", "postgresql://dev")
    claims = jwt.decode(target.make_token("u"), SECRET, algorithms=["HS256"])
    assert claims["sub"] == "u" and claims["exp"] > claims["iat"]
    assert target.list_processes()["gateway-1"] == 999_999_99
    assert SECRET not in repr(target)


def test_the_data_folder_may_come_from_the_environment(data_dir: Path) -> None:
    assert find_target(arguments(), {"WAYHOLD_DATA_DIR": str(data_dir)}).ready_file is not None


def test_flags_win(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("o" * 40)
    target = find_target(
        arguments(
            *("--data-dir", str(data_dir), "--url", "wss://far/v1/play"),
            *("--token-secret-file", str(tmp_path / "other"), "--database-url", "postgresql://far"),
        ),
        {"DATABASE_URL": "postgresql://env"},
    )
    assert (target.url, target.database_url, target.secret) == ("wss://far/v1/play", "postgresql://far", b"o" * 40)
    with pytest.raises(TargetMissing):
        target.list_processes()


def test_another_gateways_database_is_not_that_of_dev(data_dir: Path) -> None:
    flags = arguments("--data-dir", str(data_dir), "--url", "ws://far/v1/play", "--token", "t")
    assert find_target(flags, {}).database_url is None


@pytest.mark.parametrize("ready", [None, "", "{", "[]", '{"format": 2}', '{"format": 1}'])
def test_without_a_running_dev_one_line_says_what_to_type(tmp_path: Path, ready: str | None) -> None:
    if ready is not None:
        (tmp_path / "ready.json").write_text(ready)
    with pytest.raises(TargetMissing, match="make run") as missing:
        find_target(arguments("--data-dir", str(tmp_path)), {})
    assert "\n" not in str(missing.value)


def test_a_dev_that_died_is_not_running(data_dir: Path) -> None:
    ready = json.loads((data_dir / "ready.json").read_text())
    ready["processes"]["supervisor"] = 2**22 + 1
    (data_dir / "ready.json").write_text(json.dumps(ready))
    with pytest.raises(TargetMissing, match="no `wayhold dev` is running"):
        find_target(arguments("--data-dir", str(data_dir)), {})


def test_bad_flags_are_refused(data_dir: Path) -> None:
    with pytest.raises(TargetRefused, match="ws://"):
        find_target(arguments("--url", "http://x", "--token", "t"), {})
    with pytest.raises(TargetRefused, match="cannot read"):
        find_target(arguments("--data-dir", str(data_dir), "--token-secret-file", "/none/at/all"), {})
    with pytest.raises(TargetMissing, match="--token"):
        find_target(arguments("--data-dir", "/none", "--url", "ws://x/v1/play"), {})


def test_a_given_token_is_used_as_it_is() -> None:
    assert Target("ws://x", None, token="given").make_token("u") == "given"
