"""
Send the players of a gateway to the others, or (--off) let it take players again. It stays up, and not ready.
"""

from __future__ import annotations

import argparse

from gateway.app.operate.acting import act, add_action_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", metavar="NODE", help="its name, as wayhold nodes shows it")
    parser.add_argument("--off", action="store_true", help="take players again")
    add_action_flags(parser)


def run(args: argparse.Namespace) -> int:
    return act(args, "drain", {"node": args.node}, {"on": not args.off})
