"""Faults hit the processes that were named, and a frozen one always goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtest.faults import frozen, kill_processes, list_parents
from loadtest.target import Target, TargetMissing

# A process with a child; it says the child's id, then both wait for the end of their input.
TREE = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=subprocess.PIPE)\n"
    "print(child.pid, flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def tree() -> Iterator[tuple[subprocess.Popen[str], int]]:
    parent = subprocess.Popen([sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        yield parent, int(parent.stdout.readline())
        parent.kill()


def state_of(pid: int) -> str:
    listing = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listing.stdout.strip()[:1]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/bin/ps").exists() and not Path("/usr/bin/ps").exists(), reason="no ps here")
def test_a_whole_tree_stands_still_and_goes_on_even_after_a_fault(tree: tuple[subprocess.Popen[str], int]) -> None:
    parent, child = tree
    assert list_parents()[child] == parent.pid
    with pytest.raises(RuntimeError), frozen(parent.pid) as stopped:
        assert stopped == [parent.pid, child]
        wait_until(lambda: state_of(parent.pid) == state_of(child) == "T")
        raise RuntimeError
    wait_until(lambda: "T" not in (state_of(parent.pid), state_of(child)))


def test_killing_takes_every_process_of_a_name_and_no_other(
    tree: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    parent, _ = tree
    ready = {
        "format": 1,
        "play_url": "ws://x/v1/play",
        "processes": {"supervisor": os.getpid(), "gateway-1": parent.pid, "flusher-1": os.getpid()},
    }
    (tmp_path / "ready.json").write_text(json.dumps(ready))
    target = Target("ws://x/v1/play", None, token="t", ready_file=tmp_path / "ready.json")
    assert kill_processes(target, ["postgres"]) == []
    assert kill_processes(target, ["gateway"]) == [("gateway-1", parent.pid)]
    assert parent.wait(10) == -9
    (tmp_path / "ready.json").unlink()
    with pytest.raises(TargetMissing):
        kill_processes(target, ["gateway"])
