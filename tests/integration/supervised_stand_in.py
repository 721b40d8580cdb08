"""
Tiny processes for the supervisor to supervise, and a tiny program that supervises them.

    python -m tests.integration.supervised_stand_in supervise FOLDER KIND …
    python -m tests.integration.supervised_stand_in child KIND FOLDER

The supervising program writes FOLDER/pids.json whenever a process started, and children append what happens to them to
FOLDER/happened, so that tests wait for names and not for times.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

MODULE = "tests.integration.supervised_stand_in"
STOP_DEADLINE_S = 1.5


def supervise(folder: Path, kinds: list[str]) -> int:
    from gateway.app.children import PythonChild, open_listeners
    from gateway.app.errors import find_command_error
    from gateway.app.supervisor import StopRequested, Supervisor
    from gateway.telemetry.logs import get_logger, set_up_logs

    set_up_logs("info", "text", "supervisor")

    def write_pids() -> None:
        aside = folder / "pids.new"
        aside.write_text(json.dumps(supervisor.list_pids()))
        aside.replace(folder / "pids.json")

    def died(pid: int) -> None:
        happened(folder, f"death {pid}")

    supervisor = Supervisor(log=get_logger("supervisor"), on_change=write_pids, on_death=died, show_line=print)
    listener = open_listeners("127.0.0.1", 0, 1, "play")[0]
    (folder / "port").write_text(str(listener.getsockname()[1]))
    try:
        with supervisor:
            for number, kind in enumerate(kinds):
                supervisor.add(
                    PythonChild(
                        f"{kind}-{number}",
                        [sys.executable, "-m", MODULE, "child", kind, str(folder)],
                        dict(os.environ),
                        log_path=folder / f"{kind}-{number}.log",
                        sockets={"WAYHOLD_PLAY_FD": listener},
                    ),
                    stage=number,
                    stop_deadline_s=60.0 if kind == "hurried" else STOP_DEADLINE_S,
                    start_deadline_s=1.0 if kind == "late" else 20.0,
                    is_log_shown=True,
                    is_vital=kind != "dispensable",
                )
            try:
                happened(folder, "starting")
                supervisor.start_all()
                write_pids()
                happened(folder, "all ready")
                supervisor.watch()
            except StopRequested:
                happened(folder, "stopped while starting")
    except Exception as error:
        found = find_command_error(error)
        if found is None:
            raise
        for line in getattr(found, "log_tail", []):
            print(f"  | {line}", file=sys.stderr)
        print(found, file=sys.stderr)
        return int(found.exit_code)
    return 0


def child(kind: str, folder: Path) -> int:
    name = os.environ["WAYHOLD_PROCESS"]
    if kind == "crash":
        for number in range(30):
            print(f"line {number} of {name}", flush=True)
        return 7
    if kind == "dispensable":
        happened(folder, f"tried {name}")
        return 7
    if kind == "settings":
        print("play_port is -1; change WAYHOLD_PLAY_PORT", flush=True)
        return 2
    return asyncio.run(serve(kind, name, folder))


async def serve(kind: str, name: str, folder: Path) -> int:
    from gateway.app.supervised import StopRequest, inherit

    inheritance = inherit(name)
    stop = StopRequest()
    stop.install(inheritance)
    if kind == "late":
        happened(folder, f"late {name}")
        await asyncio.Event().wait()
    if kind == "warns":
        print("2026-11-22T14:22:11.123Z WARNING warns-0 something_odd", flush=True)
    if kind == "answers":
        server = await asyncio.start_server(answer, sock=inheritance.play_socket)
        happened(folder, f"listening {server.sockets[0].getsockname()[1]}")
    inheritance.report_ready()
    if kind == "stuck":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        happened(folder, f"stuck {name}")
        time.sleep(600)  # noqa: ASYNC251 - an event loop that does nothing any more
    if kind in ("stubborn", "hurried"):
        while True:
            await stop.requested.wait()
            happened(folder, f"ignored {name}")
            await stop.urgent.wait()
            happened(folder, f"hurried {name}")
            await asyncio.Event().wait()
    await stop.requested.wait()
    happened(folder, f"{'orphaned' if stop.is_orphan else 'stopped'} {name}")
    return 0


async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(str(os.getpid()).encode())
    await writer.drain()
    writer.close()


def happened(folder: Path, what: str) -> None:
    with (folder / "happened").open("a") as file:
        file.write(what + "\n")


def ask(port: int, timeout_s: float) -> int:
    """The process id that answers on the port."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        return int(connection.recv(64))


if __name__ == "__main__":
    if sys.argv[1] == "supervise":
        sys.exit(supervise(Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(child(sys.argv[2], Path(sys.argv[3])))
