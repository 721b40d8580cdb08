"""
Edit a player's state: set a flag, move the player, or any effects of the protocol.

  wayhold edit PLAYER --flag mailbox_opened=true --reason "it was stuck"
  wayhold edit PLAYER --move attic --reason "fell through the floor"
  wayhold edit PLAYER --effect '{"op": "incr", "path": "coins", "value": 5}' --reason "lost in a crash"
  wayhold edit PLAYER --stats '{"title": "guide"}' --reason "won the contest"
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from gateway.app.errors import SettingsError
from gateway.app.operate.acting import act, add_action_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("player", metavar="PLAYER", help="the player's UUID")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--flag", metavar="NAME=JSON", help="set a flag; NAME= alone removes it")
    what.add_argument("--move", metavar="LOCATION", help="the player is there now")
    what.add_argument("--effect", action="append", metavar="JSON", help="may be given several times: one step")
    what.add_argument("--stats", metavar="JSON", help="keys of the profile's stats; null removes one")
    parser.add_argument("--experience", metavar="NAME", help="default: the one that is played, or the only one")
    add_action_flags(parser)


def run(args: argparse.Namespace) -> int:
    target = {"player": args.player, "experience": args.experience}
    if args.stats is not None:
        return act(args, "edit_profile", {"player": args.player}, {"stats": _json("--stats", args.stats)})
    if args.move is not None:
        return act(args, "move", target, {"location": args.move})
    if args.flag is not None:
        name, equals, text = args.flag.partition("=")
        if not equals:
            raise SettingsError(f"--flag {args.flag!r} has no value", "such as --flag mailbox_opened=true")
        return act(args, "set_flag", target, {"flag": name, "value": _json("--flag", text) if text else None})
    return act(args, "edit_state", target, {"effects": [_json("--effect", text) for text in args.effect]})


def _json(flag: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise SettingsError(f"{flag}: {text[:80]!r} is no JSON", "text needs quotes of its own: '\"red\"'") from None
