"""
Everything at a glance, live: players, updates, delays, backlog, health, gateways, the busiest sessions. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import deque
from typing import Any

from gateway.app.errors import ExitCode
from gateway.app.operate.api import Api, add_api_flags, open_api
from gateway.app.operate.output import add_output_flags, cell, is_table, to_json

EVERY_S = 1.0
KEPT = 120
_BARS = "▁▂▃▄▅▆▇█"
_FIGURES = (
    ("players now", "players_now", ""),
    ("sessions", "sessions", ""),
    ("updates/s", "updates_per_s", ""),
    ("accepted p50", "ack_p50_ms", " ms"),
    ("accepted p99", "ack_p99_ms", " ms"),
    ("saved p50", "saved_p50_ms", " ms"),
    ("saved p99", "saved_p99_ms", " ms"),
    ("flush lag", "flush_lag_s", " s"),
    ("pending", "pending_updates", ""),
    ("resumes/s", "resumes_per_s", ""),
    ("dead letters", "dead_letters", ""),
    ("quarantined", "quarantined", ""),
)
SORTS = ("accepted", "pending", "rtt_ms", "last_activity", "started_at")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--every", type=float, default=EVERY_S, metavar="S", help="look again so often (1)")
    parser.add_argument("--once", action="store_true", help="one look, then end")
    parser.add_argument("--sort", default="accepted", choices=SORTS, help="which sessions come first (accepted)")
    add_output_flags(parser)
    add_api_flags(parser)


def run(args: argparse.Namespace) -> int:
    api = open_api(args)
    history: dict[str, deque[float]] = {}
    shows = is_table(args)
    if shows and not args.once:
        sys.stdout.write("\x1b[?25l")
    try:
        while True:
            overview = api.get("/api/v1/overview")
            overview.pop("series", None)
            if not shows:
                print(to_json(overview), flush=True)
            else:
                _draw(args, api, overview, history)
            if args.once:
                return ExitCode.OK
            time.sleep(max(0.2, args.every))
    finally:
        if shows and not args.once:
            sys.stdout.write("\x1b[?25h\n")


def _draw(args: argparse.Namespace, api: Api, overview: dict[str, Any], history: dict[str, deque[float]]) -> None:
    width, height = shutil.get_terminal_size((120, 40))
    health = overview.get("health") or {}
    is_ready = health.get("status") in ("ready", "healthy")
    state = f"\x1b[32m{health.get('status')}\x1b[0m" if is_ready else f"\x1b[31m{health.get('status')}\x1b[0m"
    lines = [
        f"wayhold top   {state}   redis {health.get('redis', '?')}   postgres {health.get('postgresql', '?')}   "
        f"{time.strftime('%H:%M:%S')}"
    ]
    lines += [f"  ! {reason}" for reason in health.get("reasons") or []]
    lines.append("")
    for title, key, unit in _FIGURES:
        value = overview.get(key)
        if value is None and key not in overview:
            continue
        kept = history.setdefault(key, deque(maxlen=KEPT))
        kept.append(float(value or 0))
        lines.append(f"  {title:14} {cell(value) + unit:>14}  {_spark(kept, max(10, width - 36))}")
    nodes = overview.get("nodes") or []
    lines += ["", f"  {'gateway':44} {'state':10} {'players':>8} {'updates/s':>10}"]
    for node in nodes[:8]:
        lines.append(
            f"  {cell(node.get('node'))[:44]:44} {cell(node.get('state')):10} "
            f"{cell(node.get('players')):>8} {cell(node.get('updates_per_s')):>10}"
        )
    room = height - len(lines) - 3
    if room > 2:
        page = api.get("/api/v1/sessions", sort=f"-{args.sort}", limit=min(50, room - 1))
        lines += ["", f"  {'player':36}  {'experience':18} {'state':12} {'updates':>9} {'pending':>8} {'rtt ms':>7}"]
        for one in page["items"]:
            lines.append(
                f"  {cell(one.get('user_id')):36}  {cell(one.get('experience'))[:18]:18} {cell(one.get('state')):12} "
                f"{cell(one.get('updates')):>9} {cell(one.get('pending')):>8} {cell(one.get('rtt_ms')):>7}"
            )
    screen = "\n".join(line + "\x1b[K" for line in lines[: height - 1])
    sys.stdout.write(screen + "\n" if args.once else f"\x1b[H{screen}\x1b[J")
    sys.stdout.flush()


def _spark(values: deque[float], width: int) -> str:
    shown = list(values)[-width:]
    top = max(shown, default=0.0)
    if top <= 0:
        return _BARS[0] * len(shown)
    return "".join(_BARS[min(7, int(value / top * 7.999))] for value in shown)
