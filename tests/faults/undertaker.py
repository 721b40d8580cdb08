"""
Makes sure that nothing is left of a run that was killed: waits until the run's end of a pipe closes, then ends every
process that works in the run's folder, frozen ones too, and removes the folder.

`python -m tests.faults.undertaker FOLDER`, with the pipe as stdin. A run that ends well says "done" first.

Processes are known by the folder: it is where they work, or in their arguments, or in their environment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

ROUNDS = 3


def main() -> int:
    folder = sys.argv[1]
    # A Ctrl-C is for the run; whoever cleans up after it must not die of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.stdin.buffer.read().strip() != b"done":
        end_processes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def end_processes_of(folder: str) -> list[int]:
    """SIGKILL all processes of this folder but our own; answers whom it hit."""
    assert folder.startswith("/tmp/wh-faults-"), folder
    hit: list[int] = []
    for _ in range(ROUNDS):  # a process that was just being started may show up in the second round
        for pid in list_processes_of(folder):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                hit.append(pid)
    return hit


def list_processes_of(folder: str) -> list[int]:
    """Linux only: elsewhere there is no such list, and servers end by their own watchers."""
    wanted = folder.encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if (
                os.fsencode((entry / "cwd").readlink()).startswith(wanted)
                or wanted in (entry / "cmdline").read_bytes()
                or wanted in (entry / "environ").read_bytes()
            ):
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
