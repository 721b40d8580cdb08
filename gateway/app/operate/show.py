"""
A player: profile, progress, whether they are there, devices, bans, the last actions.
"""

from __future__ import annotations

import argparse
import urllib.parse
from typing import Any

from gateway.app.errors import ExitCode
from gateway.app.operate.api import add_api_flags, open_api
from gateway.app.operate.audit import COLUMNS
from gateway.app.operate.output import add_output_flags, cell, is_table, print_table, to_json

ACTIONS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("player", metavar="PLAYER", help="the player's UUID")
    add_output_flags(parser)
    add_api_flags(parser)


def run(args: argparse.Namespace) -> int:
    api = open_api(args)
    path = f"/api/v1/players/{urllib.parse.quote(args.player, safe='')}"
    found = api.get(path)
    if not is_table(args):
        print(to_json(found))
        return ExitCode.OK
    live: dict[str, Any] = found.get("live") or {}
    print(f"player    {found['user_id']}")
    if live:
        print(f"live      {cell(live.get('state'))} in {cell(live.get('experience'))} on {cell(live.get('node'))}")
    else:
        print("live      not there")
    for name in found.get("unavailable") or []:
        print(f"note      {name} does not answer: what it knows is missing here")
    for name, value in (found.get("profile") or {}).items():
        if name not in ("id", "user_id"):
            print(f"  {name:26} {cell(value)}")
    for progress in found.get("progress") or []:
        print(
            f"\n{progress.get('experience')}  version {cell(progress.get('version'))}, "
            f"{cell(progress.get('completion_percentage'))} %, pending {cell(progress.get('pending'))}"
        )
        if progress.get("quarantine"):
            print(f"  QUARANTINE {cell(progress['quarantine'])}")
        for name, value in (progress.get("state") or {}).items():
            print(f"  {name:26} {cell(value)}")
    if found.get("devices"):
        print("\ndevices")
        print_table(found["devices"], [("device", "device"), ("experience", "experience"), ("last seq", "last_seq")])
    if found.get("bans"):
        print("\nbans")
        print_table(
            found["bans"],
            [("from", "from"), ("until", "until"), ("message", "message"), ("by", "operator"), ("lifted", "lifted_at")],
        )
    actions = api.get(f"{path}/actions", limit=ACTIONS)["items"]
    if actions:
        print("\nlast actions")
        print_table(actions, COLUMNS)
    return ExitCode.OK
