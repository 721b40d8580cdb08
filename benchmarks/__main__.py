"""
Measure what Wayhold costs on this machine, on loopback, with servers of its own in a temporary folder.

The table at the end holds the figures against their bars. Ratios of one run decide; absolute figures belong to the
machine. With --json everything is kept, after each part; `python -m benchmarks.write_docs FILE` makes the page of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    fixed_rates,
    fsync,
    idle_memory,
    player_search,
    resume_storm,
    saturation,
    saved_lag,
    side_by_side,
    viewer,
)
from benchmarks.accounts import is_supported
from benchmarks.bars import list_rows
from benchmarks.installation import Cores
from benchmarks.machine import (
    YARDSTICK_OF_BARS_US,
    Noise,
    describe_machine,
    describe_versions,
    measure_yardstick,
    show_yardsticks,
)
from benchmarks.modules import run_flush, run_micro
from benchmarks.plan import MINUTES, Plan
from gateway.app.launch import raise_file_limit

FORMAT = 1
PART_DEADLINE_S = 1200.0
PARTS: dict[str, tuple[str, Callable[[Plan], Awaitable[dict[str, Any]]]]] = {
    "saturation": ("the gateway with 2,000 players, one update outstanding each", saturation.run),
    "rivals": ("side by side with small servers in Python and on Node", side_by_side.run),
    "rates": ("fixed rates in an open loop, latency from when an update was due", fixed_rates.run),
    "resume": ("5,000 players come back at once, hot and after a wiped Redis", resume_storm.run),
    "lag": ("how long an update waits until its player knows it is saved", saved_lag.run),
    "fsync": ("appendfsync always against everysec", fsync.run),
    "idle": ("memory of the gateway and of Redis per session", idle_memory.run),
    "viewer": ("what somebody who watches costs those who play, in turns with nobody", viewer.run),
    "search": ("how long an operator's search takes among 10,000 players", player_search.run),
    "flush": ("what one flusher saves per second", run_flush),
    "micro": ("CPU of each station of one update", run_micro),
}
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNFIT, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if not is_supported():
        print("benchmarks need Linux: no other system tells the CPU time of other processes well", file=sys.stderr)
        return EXIT_UNFIT
    raise_file_limit()
    plan = Plan(Cores.choose(args.pin), args.minutes, args.quick, args.against.resolve() if args.against else None)
    result: dict[str, Any] = {
        "format": FORMAT,
        "began_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "pinning": plan.cores.describe(),
        "minutes": args.minutes,
        "is_quick": args.quick,
        "parts": {},
    }
    code = EXIT_OK
    try:
        for name in args.names:
            result["parts"][name] = run_part(plan, name)
            if args.json:
                write_whole(args.json, result)
    except KeyboardInterrupt:
        plan.say("interrupted; what was measured so far follows")
        code = EXIT_INTERRUPTED
    print(show_table(result))
    failed = [name for name, part in result["parts"].items() if "failed" in part]
    for name in failed:
        print(f"FAILED {name}: {result['parts'][name]['failed']}")
    if args.json and result["parts"]:
        print(f"results: {args.json}")
    return code or (EXIT_FAILED if failed else EXIT_OK)


def parse(argv: list[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    about = "\n".join(f"  {name:<12}{text}" for name, (text, _run) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"parts:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts to run (all of them)")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"about how long all parts together take ({MINUTES:g})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep everything that was measured")
    parser.add_argument("--quick", action="store_true", help="everything once and tiny: shows that it works")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="let the system choose the cores")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="saturation: measure another tree of Wayhold (a clone at another commit) in turns with this one",
    )
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)} (there are {', '.join(PARTS)})")
    if not 1 <= args.minutes <= 600:
        parser.error("--minutes must be between 1 and 600")
    args.names = args.names or list(PARTS)
    return args


def run_part(plan: Plan, name: str) -> dict[str, Any]:
    """What the part found, or why it could not; never raises for what went wrong inside."""
    about, run = PARTS[name]
    plan.say(f"── {name}: {about}")
    yardstick_us = measure_yardstick()
    noise, began = Noise(), time.monotonic()
    found: dict[str, Any]
    try:
        found = asyncio.run(_within(run(plan), PART_DEADLINE_S))
    except Exception as error:
        traceback.print_exc()
        found = {"failed": f"{type(error).__name__}: {error}"}
        plan.say(f"{name} FAILED: {error}; going on")
    return {
        **found,
        "seconds": round(time.monotonic() - began, 1),
        "others_cores": noise.read_cores(),
        "yardstick_us": [yardstick_us, measure_yardstick()],  # before and after
    }


async def _within(work: Awaitable[dict[str, Any]], deadline_s: float) -> dict[str, Any]:
    async with asyncio.timeout(deadline_s):
        return await work


def list_figures(result: dict[str, Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for part in result["parts"].values():
        figures |= part.get("figures", {})
    return figures


def show_table(result: dict[str, Any]) -> str:
    rows = [("figure", "bar (stretch)", "measured", ""), *list_rows(list_figures(result))]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for what, bar, measured, verdict in rows:
        if result["is_quick"]:
            verdict = ""
        lines.append(f"{what:<{widths[0]}}  {bar:<{widths[1]}}  {measured:>{widths[2]}}  {verdict}".rstrip())
    lines.insert(1, "─" * (sum(widths) + 18))
    busy = ", ".join(f"{name} {part['others_cores']:g}" for name, part in result["parts"].items())
    shares = {name: share for name, share in list_figures(result).items() if name.startswith("against_")}
    for name, share in shares.items():
        lines.append(f"this tree ÷ the other, {name.removeprefix('against_').removesuffix('_share')} CPU: {share:g}")
    lines += ["", f"cores that somebody else kept busy meanwhile: {busy or '-'}"]
    lines.append(f"yardstick, µs ({YARDSTICK_OF_BARS_US:g} where the bars were set): {show_yardsticks(result) or '-'}")
    if result["is_quick"]:
        lines.append("--quick: these figures show that it works, and nothing else")
    return "\n".join(lines)


def write_whole(path: Path, result: dict[str, Any]) -> None:
    aside = path.with_name(path.name + ".new")
    aside.write_text(json.dumps(result, indent=1) + "\n")
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
