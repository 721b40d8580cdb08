"""
Keep a player out, for a time or for ever; open sockets close with 4203, hellos are refused with whatever token.

  wayhold ban PLAYER --for 2d --message "Until the fair is over." --reason "threw apples"
"""

from __future__ import annotations

import argparse

from gateway.app.operate.acting import act, add_action_flags
from gateway.app.operate.durations import seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("player", metavar="PLAYER", help="the player's UUID")
    parser.add_argument("--for", dest="for_s", type=seconds, metavar="TIME", help="45m, 12h, 2d, 1w; default: for ever")
    parser.add_argument("--message", default="", metavar="TEXT", help="what the player is told")
    add_action_flags(parser)


def run(args: argparse.Namespace) -> int:
    return act(args, "ban", {"player": args.player}, {"for_s": args.for_s, "message": args.message})
