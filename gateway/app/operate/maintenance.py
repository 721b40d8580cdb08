"""
Maintenance: tell everybody, then send them away and keep hellos out until it is off.

  wayhold maintenance on --in 10m --for 1h --message "Back soon." --reason "new version"
  wayhold maintenance on --at 2026-12-01T03:00:00Z --message "Back at four." --reason "new version"
  wayhold maintenance off --reason "done"
  wayhold maintenance status
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

from gateway.app.errors import ExitCode, SettingsError
from gateway.app.operate.acting import act, add_action_flags
from gateway.app.operate.api import open_api
from gateway.app.operate.durations import seconds
from gateway.app.operate.output import cell, is_table, plain, to_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["on", "off", "status"])
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--at", metavar="TIME", help="from then on (ISO 8601); default: now")
    when.add_argument("--in", dest="in_s", type=seconds, metavar="TIME", help="from then on: 10m, 2h")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--until", metavar="TIME", help="it ends by itself then (ISO 8601); default: with `off`")
    end.add_argument("--for", dest="for_s", type=seconds, metavar="TIME", help="it ends by itself after 30m, 2h")
    parser.add_argument("--message", default="", metavar="TEXT", help="what players are told")
    add_action_flags(parser)
    for action in parser._actions:
        if action.dest == "reason":
            action.required = False


def run(args: argparse.Namespace) -> int:
    if args.what == "status":
        held = open_api(args).get("/api/v1/maintenance")
        if not is_table(args):
            print(to_json(held))
        else:
            end = f" until {cell(held['until'])}" if held.get("until") else ""
            print(f"on, from {cell(held['at'])}{end}: {plain(held['message'])}" if held["on"] else "off")
        return ExitCode.OK
    if not args.reason:
        raise SettingsError("--reason is missing", "say why, for who reads the audit log")
    at, until = args.at, args.until
    if args.in_s is not None:
        at = (datetime.now(UTC) + timedelta(seconds=args.in_s)).isoformat(timespec="milliseconds")
    if args.for_s is not None:
        until = (_parse(at) + timedelta(seconds=args.for_s)).isoformat(timespec="milliseconds")
    is_on = args.what == "on"
    payload = {"on": is_on, "at": at if is_on else None, "message": args.message}
    if is_on and until is not None:
        payload["until"] = until
    return act(args, "maintenance", {}, payload)


def _parse(at: str | None) -> datetime:
    """Raises SettingsError for a text that is no time; without a zone it is UTC, as for the API."""
    try:
        found = datetime.now(UTC) if at is None else datetime.fromisoformat(at)
    except ValueError:
        raise SettingsError(f"--at {at} is no ISO 8601 time", "such as 2026-12-01T03:00:00Z") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
