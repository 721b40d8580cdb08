"""
Let a banned player play again, at once.
"""

from __future__ import annotations

import argparse

from gateway.app.operate.acting import act, add_action_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("player", metavar="PLAYER", help="the player's UUID")
    add_action_flags(parser)


def run(args: argparse.Namespace) -> int:
    return act(args, "unban", {"player": args.player})
