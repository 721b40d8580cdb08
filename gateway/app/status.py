"""
Say what runs and whether it can take players.

Reads the ready.json of the `dev` on the data folder (or --ready-json FILE) and asks its /readyz.
The exit code is 0 when it is ready, 1 when it runs and is not, 3 when nothing runs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gateway.app.errors import ExitCode
from gateway.app.ops_client import find_json, find_metrics
from gateway.app.ready import get_running
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.urls import mask_url

SHOWN_METRICS = (
    ("wayhold_connections", "connections"),
    ("wayhold_sessions", "sessions"),
    ("wayhold_updates_accepted_total", "accepted"),
    ("wayhold_updates_saved_total", "saved"),
    ("wayhold_pending_updates", "pending"),
    ("wayhold_oldest_pending_seconds", "oldest pending s"),
    ("wayhold_dead_letters", "dead letters"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ready-json", metavar="FILE", type=Path, help="the file that `dev` or `serve` wrote")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_setting_flags(parser, ["data_dir"])


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    ready = get_running(settings.data_dir, args.ready_json)
    answer = find_json(ready.ops_url, "/readyz")
    code, body = (
        answer if answer is not None else (0, {"status": "silent", "reasons": ["the ops port does not answer"]})
    )
    metrics = find_metrics(ready.ops_url) or {}
    is_ready = code == 200
    reasons = [str(reason) for reason in body.get("reasons", [])]
    if args.json:
        print(
            json.dumps(
                {
                    "ready": is_ready,
                    "status": body.get("status"),
                    "reasons": reasons,
                    "version": ready.version,
                    "play_url": ready.play_url,
                    "ops_url": ready.ops_url,
                    "redis_url": mask_url(ready.redis_url),
                    "database_url": mask_url(ready.database_url),
                    "data_dir": ready.data_dir,
                    "processes": dict(ready.processes),
                    "metrics": {name: metrics[name] for name, _label in SHOWN_METRICS if name in metrics},
                },
                indent=2,
            )
        )
        return ExitCode.OK if is_ready else ExitCode.BAD_VERDICT
    print(f"wayhold {ready.version}: {body.get('status', 'unknown')}" + (f" ({'; '.join(reasons)})" if reasons else ""))
    print(f"  play       {ready.play_url}")
    print(f"  ops        {ready.ops_url}")
    if ready.data_dir:
        print(f"  data       {ready.data_dir}")
    print("  processes  " + "  ".join(f"{name} {pid}" for name, pid in ready.processes.items()))
    shown = [f"{label} {metrics[name]:g}" for name, label in SHOWN_METRICS if name in metrics]
    if shown:
        print("  now        " + "  ".join(shown))
    return ExitCode.OK if is_ready else ExitCode.BAD_VERDICT
