"""Run benchmarks: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from benchmarks import saturation
from benchmarks.installation import Cores


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", default=["saturation"])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--players", type=int, default=2000)
    args = parser.parse_args()
    found = asyncio.run(saturation.run(args.seconds, Cores.choose(), players=args.players))
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
