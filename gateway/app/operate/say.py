"""
Say something to a player, to everybody in an experience, or to all who are there.

  wayhold say "The gate closes at nine." --all --reason "closing time"
"""

from __future__ import annotations

import argparse

from gateway.app.operate.acting import act, add_action_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", help="what their game shows")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--player", metavar="UUID")
    whom.add_argument("--experience", metavar="NAME")
    whom.add_argument("--all", action="store_true")
    add_action_flags(parser)


def run(args: argparse.Namespace) -> int:
    target = {"player": args.player, "experience": args.experience, "all": args.all or None}
    return act(args, "message", {name: value for name, value in target.items() if value}, {"text": args.text})
