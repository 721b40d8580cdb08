"""
Events as they happen, of everybody or of some: sampled and bounded, with a count of what was left out. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse

from gateway.app.operate.api import add_api_flags, open_api
from gateway.app.operate.feed import follow
from gateway.app.operate.output import add_output_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experience", metavar="NAME")
    parser.add_argument("--type", metavar="EVENT", help="of this event type only")
    parser.add_argument("--content", metavar="ID", help="about this content only")
    parser.add_argument("--player", metavar="UUID")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many")
    add_output_flags(parser)
    add_api_flags(parser)


def run(args: argparse.Namespace) -> int:
    return follow(
        args,
        open_api(args),
        "events",
        experience=args.experience,
        type=args.type,
        content=args.content,
        player=args.player,
    )
