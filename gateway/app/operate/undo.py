"""
Take an action back: the inverse of what it really did. Refused when the state has moved on since.
"""

from __future__ import annotations

import argparse
import urllib.parse

from gateway.app.operate.acting import add_action_flags, ask_and_post
from gateway.app.operate.api import open_api


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", metavar="ID", help="the action's id, as wayhold audit shows it")
    add_action_flags(parser)


def run(args: argparse.Namespace) -> int:
    path = f"/api/v1/actions/{urllib.parse.quote(args.action, safe='')}/undo"
    return ask_and_post(args, open_api(args), path, {"reason": args.reason})
