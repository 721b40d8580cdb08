"""A running `wayhold dev` for tests: the real command with all its processes, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 25.0


class RunningDev:
    """What a test needs of it: where it is, its processes, and commands that find it by themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.log = folder / "dev.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command("dev", "--play-port", "0", "--ops-port", "0", *flags),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=self.folder,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + START_DEADLINE_S
        while not (self.data_dir / "ready.json").exists():
            assert self._process.poll() is None, f"dev ended with {self._process.poll()}:\n{self.read_log()}"
            assert time.monotonic() < deadline_s, f"dev is not ready:\n{self.read_log()}"
            time.sleep(0.05)

    def stop(self) -> int:
        """Ctrl-C; answers its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(STOP_DEADLINE_S)
        finally:
            self._process.kill()
            self._process.wait(10)

    def ready(self) -> dict[str, Any]:
        ready: dict[str, Any] = json.loads((self.data_dir / "ready.json").read_text())
        return ready

    def kill(self, name: str) -> int:
        """SIGKILL the process of this name, once there is one; answers its id."""
        deadline_s = time.monotonic() + 20
        while True:
            pid = self.ready()["processes"].get(name)
            if pid is not None:
                try:
                    os.kill(pid, signal.SIGKILL)
                    return int(pid)
                except ProcessLookupError:
                    pass  # ready.json still names the one before
            assert time.monotonic() < deadline_s, f"there is no {name}:\n{self.read_log()}"
            time.sleep(0.05)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gateway.cli", *arguments, "--data-dir", str(self.data_dir)]

    def run(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.environment(),
            cwd=self.folder,
            check=False,
        )

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and read its output line by line."""
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
            cwd=self.folder,
        )

    def environment(self) -> dict[str, str]:
        """No setting of the developer's own environment reaches the test."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        return {**kept, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}

    def read_log(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""


@contextmanager
def run_dev(*flags: str) -> Iterator[RunningDev]:
    """Start a `dev` in a short folder that other users may enter: sockets want the first, a dropped uid the second."""
    folder = Path(tempfile.mkdtemp(prefix="wayhold-dev-"))
    folder.chmod(0o711)
    dev = RunningDev(folder)
    try:
        dev.start(*flags)
        yield dev
    finally:
        if dev._process is not None and dev._process.poll() is None:
            dev.stop()
        shutil.rmtree(folder, ignore_errors=True)
