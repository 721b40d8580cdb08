"""
Stop the running `dev` or `serve` cleanly and wait until it has ended.

Players are told, everything pending is written, then the servers end. Nothing running is fine: the exit code is 0. With
--timeout-s it is 1 when it has not ended by then.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

from gateway.app.errors import CommandError, ExitCode
from gateway.app.ready import find_running, is_alive
from gateway.app.settings_source import add_setting_flags, load_settings
from persistence.embedded.data_folder import find_owner_pid

TIMEOUT_S = 60.0
LOOK_INTERVAL_S = 0.05


class StillRunning(CommandError):
    exit_code = ExitCode.BAD_VERDICT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ready-json", metavar="FILE", type=Path, help="the file that `dev` or `serve` wrote")
    parser.add_argument("--timeout-s", type=float, default=TIMEOUT_S, metavar="N", help=f"default {TIMEOUT_S:g}")
    add_setting_flags(parser, ["data_dir"])


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    running = find_running(settings.data_dir, args.ready_json)
    if running is not None:
        pid = running.supervisor_pid
    else:
        # One that is still starting has no ready.json yet, but it holds the folder.
        pid = 0 if args.ready_json else find_owner_pid(settings.data_dir) or 0
    if not pid:
        print(f"nothing runs {'by ' + str(args.ready_json) if args.ready_json else f'on {settings.data_dir}'}")
        return ExitCode.OK
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise StillRunning(f"process {pid} belongs to another user", "stop it as that user") from None
    except ProcessLookupError:
        pass
    deadline = time.monotonic() + args.timeout_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            raise StillRunning(
                f"process {pid} was asked to stop and still runs after {args.timeout_s:g} s",
                f"wait longer, or end it at once with: kill -9 {pid} (nothing accepted is lost)",
            )
        time.sleep(LOOK_INTERVAL_S)
    print("stopped")
    return ExitCode.OK
