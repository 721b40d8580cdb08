"""ready.json: whole or absent, private, and not believed when its writer is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app.errors import UnusableFolder
from gateway.app.ready import NotRunning, Ready, find_running, get_running, read_ready, remove_ready, write_ready
from persistence.embedded.data_folder import DataFolder

READY = Ready(
    version="0.1.0",
    play_url="ws://127.0.0.1:7400/v1/play",
    ops_url="http://127.0.0.1:7401",
    redis_url="redis://:pw@h/0",
    database_url="postgresql://h/d",
    data_dir="",
    processes={"supervisor": os.getpid(), "gateway-1": 2},
    starting=("gateway-1",),
)


def test_it_is_private_complete_and_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    write_ready(path, READY)
    write_ready(path, READY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_ready(path) == READY
    assert set(json.loads(path.read_text())) == {
        "format",
        "version",
        "play_url",
        "ops_url",
        "redis_url",
        "database_url",
        "data_dir",
        "processes",
        "starting",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["ready.json"]
    remove_ready(path)
    remove_ready(path)
    assert read_ready(path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "version": "1"}', "null"])
def test_what_cannot_be_understood_is_as_if_it_were_not_there(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ready.json"
    path.write_text(text)
    assert read_ready(path) is None
    assert find_running(tmp_path) is None


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnusableFolder, match="--ready-json"):
        write_ready(tmp_path / "none" / "ready.json", READY)


def test_it_counts_only_while_its_process_lives(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = tmp_path / "ready.json"
    write_ready(path, READY)
    assert find_running(tmp_path, path) == READY
    write_ready(path, replace(READY, processes={"supervisor": gone.pid}))
    assert find_running(tmp_path, path) is None


def test_a_dev_counts_only_while_it_holds_its_folder(tmp_path: Path) -> None:
    """A killed supervisor's number may belong to somebody else by now; its lock does not."""
    ready = replace(READY, data_dir=str(tmp_path))
    with DataFolder(tmp_path):
        write_ready(tmp_path / "ready.json", ready)
        assert find_running(tmp_path) == ready
    assert find_running(tmp_path) is None
    with pytest.raises(NotRunning, match=r"start one: .* dev --data-dir"):
        get_running(tmp_path)
