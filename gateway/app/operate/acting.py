"""
How commands do something: the preview first, then a question on a terminal, then the action, with a key that makes it
repeatable.

Exit codes: 0 done, or written down and going on (`requested`) · 1 refused, or nobody said yes · 2 usage · 3 no API.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from gateway.app.errors import ExitCode, SettingsError
from gateway.app.operate.api import Api, add_api_flags, make_key, open_api
from gateway.app.operate.output import add_output_flags, is_table, plain, to_json


def add_action_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why; it stands in the audit log")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be there before and after")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--key", metavar="TEXT", help="the same key is the same action, however often it is asked for")
    add_output_flags(parser)
    add_api_flags(parser)


def act(
    args: argparse.Namespace, action: str, target: Mapping[str, Any], payload: Mapping[str, Any] | None = None
) -> int:
    body = {"action": action, "target": dict(target), "payload": dict(payload or {}), "reason": args.reason}
    return ask_and_post(args, open_api(args), "/api/v1/actions", body)


def ask_and_post(args: argparse.Namespace, api: Api, path: str, body: dict[str, Any]) -> int:
    if args.dry_run or not args.yes:
        if not args.dry_run and not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise SettingsError("nobody can be asked here", "add --yes to say that you mean it, or --dry-run to look")
        preview = api.post(path, body | {"dry_run": True})
        _show_preview(args, preview)
        if args.dry_run:
            return ExitCode.OK
        if input("Do it? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was changed")
            return ExitCode.BAD_VERDICT
    answer = api.post(path, body, args.key or make_key())
    if is_table(args):
        print(plain(_line_of(answer)))
    else:
        print(to_json(answer))
    return ExitCode.BAD_VERDICT if answer.get("state") == "refused" else ExitCode.OK


def _show_preview(args: argparse.Namespace, answer: Mapping[str, Any]) -> None:
    if not is_table(args):
        print(to_json(answer))
        return
    preview = answer["preview"]
    affects = preview["affects"]
    for name in ("before", "after"):
        if preview.get(name) is not None:
            print(f"{name:8} {plain(json.dumps(preview[name], ensure_ascii=False))}")
    players, connections = affects.get("players", 0), affects.get("connections", 0)
    print(f"affects  {players} player{'s' * (players != 1)}, {connections} connected: {affects.get('text', '')}")
    for warning in answer.get("warnings", []):
        print(f"note     {plain(warning)}")


def _line_of(answer: Mapping[str, Any]) -> str:
    line = f"{answer['state']}  {answer['id']}"
    if answer.get("message"):
        line += f"  {answer['message']}"
    if answer.get("result"):
        line += f"  {json.dumps(answer['result'], ensure_ascii=False)}"
    if answer["state"] == "requested":
        line += "  it goes on by itself; look with: wayhold audit"
    elif answer.get("undo"):
        line += f"  (wayhold undo {answer['id']})"
    return line
