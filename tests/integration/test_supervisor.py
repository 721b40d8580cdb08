"""The supervisor with real processes: deaths, restarts, order, deadlines, and its own sudden end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.app.children import open_listeners
from gateway.app.errors import PortTaken, SettingsError
from gateway.app.ready import is_alive
from tests.integration.supervised_stand_in import MODULE, ask

pytestmark = pytest.mark.slow  # processes are killed, restarted and waited for

DEADLINE_S = 20.0
ROOT = Path(__file__).parents[2]


class Supervised:
    """A supervising program under test."""

    def __init__(self, folder: Path, *kinds: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", MODULE, "supervise", str(folder), *kinds],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def pids(self) -> dict[str, int]:
        try:
            found: dict[str, int] = json.loads((self.folder / "pids.json").read_text())
        except OSError:
            return {}
        return found

    def happened(self) -> list[str]:
        path = self.folder / "happened"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, what: str, times: int = 1) -> None:
        wait_until(
            lambda: sum(line.startswith(what) for line in self.happened()) >= times, f"{what!r} in {self.happened()}"
        )

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out, err

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=DEADLINE_S)
        for pid in self.pids().values():
            wait_until(lambda pid=pid: not is_alive(pid), f"process {pid} ends")  # type: ignore[misc]


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    started: list[Supervised] = []

    def run(*kinds: str) -> Supervised:
        started.append(Supervised(tmp_path, *kinds))
        return started[-1]

    yield run
    for each in started:
        each.end()


def test_a_killed_child_is_started_again_and_the_others_are_left_alone(start: Callable[..., Supervised]) -> None:
    supervised = start("good", "good")
    supervised.wait_for("all ready")
    before = supervised.pids()
    os.kill(before["good-0"], signal.SIGKILL)
    wait_until(lambda: supervised.pids().get("good-0") not in (None, before["good-0"]), "a new good-0")
    assert supervised.pids()["good-1"] == before["good-1"]
    supervised.wait_for(f"death {before['good-0']}")
    supervised.process.terminate()
    code, _out, err = supervised.finish()
    assert code == 0
    assert "died" in err and "SIGKILL" in err and "started_again" in err


@pytest.mark.slow
def test_a_child_that_dies_again_and_again_stops_everything_with_its_last_words(
    start: Callable[..., Supervised],
) -> None:
    supervised = start("good", "crash")
    code, _out, err = supervised.finish()
    assert code == 3
    lines = err.splitlines()
    assert "crash-1 died 5 times within 60 s" in lines[-1]
    assert lines[-21:-1] == [f"  | line {number} of crash-1" for number in range(10, 30)]
    assert "stopped good-0" in supervised.happened()


def test_a_child_that_others_can_do_without_stops_nothing_however_often_it_dies(
    start: Callable[..., Supervised],
) -> None:
    supervised = start("good", "dispensable")
    supervised.wait_for("all ready")
    supervised.wait_for("death", times=5)
    before = supervised.pids()["good-0"]
    wait_until(lambda: is_alive(before) and supervised.process.poll() is None, "everything else goes on")
    supervised.process.terminate()
    code, _out, err = supervised.finish()
    assert code == 0
    assert "again_in_s=30" in err


def test_a_child_that_says_its_settings_are_wrong_is_not_tried_again(start: Callable[..., Supervised]) -> None:
    supervised = start("good", "settings")
    code, _out, err = supervised.finish()
    assert code == 2
    assert err.splitlines()[-1] == "settings-1 ended with exit code 2: play_port is -1; change WAYHOLD_PLAY_PORT"


@pytest.mark.slow
def test_a_child_that_is_not_ready_in_time_is_killed_and_tried_again(start: Callable[..., Supervised]) -> None:
    supervised = start("late")
    supervised.wait_for("late late-0", times=2)
    supervised.process.terminate()
    code, _out, _err = supervised.finish()
    assert code == 0
    assert "stopped while starting" in supervised.happened()


def test_children_stop_in_the_reverse_order_of_their_start(start: Callable[..., Supervised]) -> None:
    supervised = start("good", "good", "good")
    supervised.wait_for("all ready")
    supervised.process.send_signal(signal.SIGINT)
    code, _out, _err = supervised.finish()
    assert code == 0
    stopped = [line for line in supervised.happened() if line.startswith("stopped")]
    assert stopped == ["stopped good-2", "stopped good-1", "stopped good-0"]


@pytest.mark.slow
def test_a_child_that_does_not_stop_is_killed_at_its_deadline(start: Callable[..., Supervised]) -> None:
    supervised = start("stubborn")
    supervised.wait_for("all ready")
    supervised.process.terminate()
    code, _out, err = supervised.finish()
    assert code == 0
    assert "ignored stubborn-0" in supervised.happened()
    assert "killed" in err


def test_a_second_signal_is_passed_on(start: Callable[..., Supervised]) -> None:
    supervised = start("hurried")
    supervised.wait_for("all ready")
    supervised.process.terminate()
    supervised.wait_for("ignored hurried-0")
    supervised.process.terminate()
    supervised.wait_for("hurried hurried-0")
    assert supervised.finish()[0] == 0


@pytest.mark.slow
def test_children_of_a_killed_supervisor_end_within_five_seconds_even_when_their_loop_is_stuck(
    start: Callable[..., Supervised],
) -> None:
    supervised = start("good", "stuck", "stubborn")
    supervised.wait_for("all ready")
    supervised.wait_for("stuck")
    pids = supervised.pids()
    assert len(pids) == 3
    supervised.process.kill()
    wait_until(lambda: not any(map(is_alive, pids.values())), "all children end", deadline_s=5.0)
    assert "orphaned good-0" in supervised.happened()


def test_warnings_in_a_childs_log_are_shown(start: Callable[..., Supervised]) -> None:
    supervised = start("warns")
    supervised.wait_for("all ready")
    supervised.process.terminate()
    _code, out, _err = supervised.finish()
    assert "something_odd" in out


def test_players_wait_and_are_not_refused_while_a_gateway_is_started_again(start: Callable[..., Supervised]) -> None:
    supervised = start("answers")
    supervised.wait_for("all ready")
    port = int((supervised.folder / "port").read_text())
    first = supervised.pids()["answers-0"]
    assert ask(port, DEADLINE_S) == first
    os.kill(first, signal.SIGKILL)
    supervised.wait_for("death")
    second = ask(port, DEADLINE_S)  # connects at once: the supervisor holds the listener; the next gateway answers
    assert second != first
    assert supervised.happened().count(f"listening {port}") == 2


def test_workers_listen_on_one_port_each_with_a_queue_of_its_own() -> None:
    listeners = open_listeners("127.0.0.1", 0, 3, "play")
    try:
        ports = {listener.getsockname()[1] for listener in listeners}
        assert len(ports) == 1
        if sys.platform == "linux":
            assert len({listener.fileno() for listener in listeners}) == 3
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize("count", [1, 2])
def test_a_taken_port_is_refused_even_where_the_kernel_would_share_it(count: int) -> None:
    held = open_listeners("127.0.0.1", 0, 2, "play")
    port = held[0].getsockname()[1]
    try:
        with pytest.raises(PortTaken, match="--play-port"):
            open_listeners("127.0.0.1", port, count, "play")
    finally:
        for listener in held:
            listener.close()
    for listener in open_listeners("127.0.0.1", port, count, "play"):
        listener.close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "\x00"])
def test_a_host_that_is_not_ours_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(SettingsError, match="--play-host"):
        open_listeners(host, 0, 1, "play")
