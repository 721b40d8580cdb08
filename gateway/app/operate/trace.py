"""
Everything that one player does and is told, as it happens: updates, acks, saves, pushes, closes. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse

from gateway.app.operate.api import add_api_flags, open_api
from gateway.app.operate.feed import follow
from gateway.app.operate.output import add_output_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("player", metavar="PLAYER", help="the player's UUID")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many")
    add_output_flags(parser)
    add_api_flags(parser)


def run(args: argparse.Namespace) -> int:
    return follow(args, open_api(args), "player", player=args.player)
