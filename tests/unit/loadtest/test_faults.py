"""Faults hit the processes that were named, and a frozen one always goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtest.faults import Fault, frozen, kill_processes, list_parents, wait_back
from loadtest.history import now_ms
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


def test_postgres_is_asked_to_end_without_waiting_for_those_who_are_connected(
    tree: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    """After `--restart postgres` it was neither there nor started again until the end of the run."""
    parent, _ = tree
    processes = {"supervisor": os.getpid(), "postgres": parent.pid}
    (tmp_path / "ready.json").write_text(json.dumps({"format": 1, "play_url": "ws://x", "processes": processes}))
    target = Target("ws://x/v1/play", None, token="t", ready_file=tmp_path / "ready.json")
    assert kill_processes(target, ["postgres"], signal.SIGTERM) == [("postgres", parent.pid)]
    assert parent.wait(10) == -signal.SIGINT


async def test_who_was_hit_is_back_when_another_process_is_ready_not_when_it_starts(tmp_path: Path) -> None:
    """Beside one that was quicker, a gateway that had only been started counted as back."""
    file = tmp_path / "ready.json"
    target = Target("ws://x/v1/play", None, token="t", ready_file=file)

    def say(starting: list[str], **processes: int) -> None:
        named = {"supervisor": os.getpid(), **{name.replace("_", "-"): pid for name, pid in processes.items()}}
        ready = {"format": 1, "play_url": "ws://x/v1/play", "processes": named, "starting": starting}
        (tmp_path / "aside").write_text(json.dumps(ready))
        (tmp_path / "aside").replace(file)

    fault = Fault("kill", "gateway-1", 7, now_ms())
    for processes in ({"gateway_1": 7}, {}, {"gateway_1": 8}):
        say(["gateway-1"] if processes.get("gateway_1") == 8 else [], **processes)
        await wait_back(target, fault, wait_s=0)
        assert fault.back_s is None
    file.unlink()
    waiting = asyncio.create_task(wait_back(target, fault))
    await asyncio.sleep(0)
    say([], gateway_1=8)
    async with asyncio.timeout(10):
        await waiting
    assert fault.back_pid == 8 and fault.back_s is not None and fault.back_s >= 0
