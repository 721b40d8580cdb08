"""
`python -m tests.faults`: break a whole installation for half an hour and count what is lost. `make faults` runs it.

First schedules of faults under load until enough has happened, then the drills, then the negative controls. The last
line is the verdict; --json writes everything. MINUTES shortens it: what must be reached shrinks with it, and below 20
the drills, below 4 the negative controls are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path

import uvloop

from tests.faults.drills import DRILLS, run_drills
from tests.faults.kinds import KINDS, find_kind
from tests.faults.negative_controls import CONTROLS, run_controls
from tests.faults.players import Crowd
from tests.faults.rig import RigPlan, run_rig
from tests.faults.run import FaultRun, RunReport
from tests.servers import run_servers

MINUTES_FULL = 30.0
SCHEDULE_PART = 0.72
"""Of the time; the drills and the negative controls take the rest, whatever it is."""
DRILLS_MINUTES_MIN = 20.0
CONTROLS_MINUTES_MIN = 4.0
KILLS_MIN, SIGKILLS_MIN, KINDS_MIN, UPDATES_MIN, STEP_KILLS_MIN = 300, 300, 20, 300_000, 5
ROUND_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="replays the schedule of that run (default: any)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float(os.environ.get("MINUTES") or MINUTES_FULL),
        help=f"at most so long (default: MINUTES, or {MINUTES_FULL:g})",
    )
    parser.add_argument("--players", type=int, default=120)
    parser.add_argument("--rate", type=float, default=5.0, help="updates per second and player")
    parser.add_argument("--round-s", type=float, default=ROUND_S, help="how long the players of a round play")
    parser.add_argument("--kind", action="append", help="only this fault (may be repeated); see --list")
    parser.add_argument("--list", action="store_true", help="name the faults")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs and histories")
    parser.add_argument("--no-drills", action="store_true", help="only the schedules")
    parser.add_argument("--quiet", action="store_true", help="only the table")
    args = parser.parse_args()
    if args.list:
        for kind in KINDS:
            print(f"{kind.name}  ({kind.rows})")
        return 0
    kinds = KINDS
    if args.kind:
        found = [find_kind(name) for name in args.kind]
        if None in found:
            parser.error(f"no such fault: {args.kind[found.index(None)]!r}; --list names them")
        kinds = tuple(kind for kind in found if kind is not None)
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(2**32)
    part = min(1.0, args.minutes / MINUTES_FULL)
    report = RunReport(seed)
    if not args.kind:
        # A shorter run has not the same share: each round begins and ends, however short it is.
        share = part if part == 1.0 else part / 2
        report.kills_min = round(KILLS_MIN * share)
        report.sigkills_min = round(SIGKILLS_MIN * share)
        report.updates_min = round(UPDATES_MIN * share)
        report.kinds_min = round(KINDS_MIN * part)
        report.step_kills_min = STEP_KILLS_MIN if part == 1.0 else 0
    schedule_s = args.minutes * 60 * (1.0 if args.kind or args.no_drills else SCHEDULE_PART)
    crowd = Crowd(players=args.players, rate_per_s=args.rate, seconds=min(args.round_s, schedule_s / 4))
    print(
        f"faults: seed {seed} (--seed {seed} deals the same faults again), at most {args.minutes:g} minutes", flush=True
    )
    say = (lambda line: None) if args.quiet else print_line

    async def run() -> None:
        async with run_rig(RigPlan(), keep_folder=args.keep) as rig:
            if args.keep:
                print(f"folder: {rig.folder}", flush=True)
            await FaultRun(rig, report, crowd, kinds=kinds, say=say).run(schedule_s)
        if args.kind or args.no_drills:
            return
        if args.minutes >= DRILLS_MINUTES_MIN:
            report.drills = await run_drills(list(DRILLS), print_line)
        if args.minutes >= CONTROLS_MINUTES_MIN:
            with run_servers() as servers:
                outcomes = await run_controls(CONTROLS, servers, lambda line: print_line(f"control {line}"))
            report.controls = {
                outcome.control.name: outcome.found if outcome.is_caught else None for outcome in outcomes
            }

    uvloop.run(run())
    if args.json is not None:
        args.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    print("\n".join(report.lines()))
    print(report.last_line(), flush=True)
    return 0 if report.is_ok else 1


def print_line(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
