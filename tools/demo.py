"""
Start Wayhold as `make run` does, and fifty walking players with it, so that the console has something to show.

    python tools/demo.py WAYHOLD [FLAGS OF DEV...]

Ctrl-C ends both. The players are those of the load test (`ar-walk` in a hurry, on somewhat bad networks), in rounds of
ten minutes, because it remembers what each of them did; what they say is in the data folder's logs/demo.log.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

PLAYERS = 50
ROUND_MINUTES = 10
START_S = 300.0
STOP_S = 60.0
PAUSE_S = 2.0

Child = subprocess.Popen[bytes]


def main() -> int:
    wayhold, flags = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        ready_file = Path(folder) / "ready.json"
        # A terminal's Ctrl-C reaches all of us; whoever else asks asks this process alone, and it passes that on.
        asked = {"stop": False}
        dev: Child = subprocess.Popen([wayhold, "dev", "--ready-json", str(ready_file), *flags])

        def stop(number: int, frame: object) -> None:
            asked["stop"] = True
            if number != signal.SIGINT:
                _send(dev, signal.SIGTERM)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        players: Child | None = None
        try:
            data_dir = _wait_ready(dev, ready_file, asked)
            if data_dir is not None:
                with (data_dir / "logs" / "demo.log").open("ab") as log:
                    print(f"  demo  {PLAYERS} players walk; try: {wayhold} top   {wayhold} sessions", flush=True)
                    while dev.poll() is None and not asked["stop"]:
                        if players is None or players.poll() is not None:
                            players = _start_players(wayhold, data_dir, log)
                        time.sleep(PAUSE_S if not asked["stop"] else 0)
        finally:
            if players is not None:
                _send(players, signal.SIGINT)
                _wait(players)
        return _wait(dev) if asked["stop"] else dev.wait()


def _wait_ready(dev: Child, ready_file: Path, asked: dict[str, bool]) -> Path | None:
    """The data folder once players may come; None when that will not be."""
    deadline = time.monotonic() + START_S
    while dev.poll() is None and not asked["stop"] and time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return Path(json.loads(ready_file.read_text())["data_dir"])
        time.sleep(0.1)
    return None


def _start_players(wayhold: str, data_dir: Path, log: IO[bytes]) -> Child:
    command = [wayhold, "loadtest", "--data-dir", str(data_dir), "--scenario", "ar-walk", "--mud", "light"]
    command += ["--players", str(PLAYERS), "--minutes", str(ROUND_MINUTES), "--ramp-s", "10"]
    # Quicker than people walk: there should be something to see within a minute.
    for param in ("walking_speed_m_s=4", "position_every_s=3", "pause_s=5"):
        command += ["--param", param]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _send(child: Child, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(number)


def _wait(child: Child) -> int:
    try:
        return child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


if __name__ == "__main__":
    sys.exit(main())
