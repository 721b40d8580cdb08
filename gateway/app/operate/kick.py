"""
End a player's session and close the socket (4202): the client stays away until the player asks to play again.
"""

from __future__ import annotations

import argparse

from gateway.app.operate.acting import act, add_action_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("player", metavar="PLAYER", help="the player's UUID")
    parser.add_argument("--message", default="", metavar="TEXT", help="what the player is told")
    add_action_flags(parser)


def run(args: argparse.Namespace) -> int:
    return act(args, "kick", {"player": args.player}, {"message": args.message})
