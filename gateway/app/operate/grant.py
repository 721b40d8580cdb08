"""
Give a player an item (or take it away): who is playing gets it at once, who is not finds it later.
"""

from __future__ import annotations

import argparse

from gateway.app.operate.acting import act, add_action_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("player", metavar="PLAYER", help="the player's UUID")
    parser.add_argument("item", metavar="ITEM")
    parser.add_argument("--take", action="store_true", help="take it instead")
    parser.add_argument("--experience", metavar="NAME", help="default: the one that is played, or the only one")
    add_action_flags(parser)


def run(args: argparse.Namespace) -> int:
    action = "take_item" if args.take else "grant_item"
    return act(args, action, {"player": args.player, "experience": args.experience}, {"item": args.item})
