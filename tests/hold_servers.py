"""
A process to be killed: starts both embedded servers in the folder given, says who they are, and waits.

    python -m tests.hold_servers DATA_DIR [--without-death-signals]

prints {"valkey": pid, "postgres": pid} once both are ready. Without death signals is how other systems than Linux are.
"""

from __future__ import annotations

import json
import sys

from persistence.embedded import server_process
from persistence.embedded.child import start_all_and_wait, stop_all_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.postgres import EmbeddedPostgres
from persistence.embedded.valkey import EmbeddedValkey


def main() -> None:
    if "--without-death-signals" in sys.argv:
        server_process._libc = None
    with DataFolder(sys.argv[1]) as folder:
        children = [EmbeddedValkey(folder.path, for_tests=True), EmbeddedPostgres(folder.path, for_tests=True)]
        start_all_and_wait(children)
        print(json.dumps({child.name: child.pid for child in children}), flush=True)
        sys.stdin.readline()
        stop_all_and_wait(children)


if __name__ == "__main__":
    main()
