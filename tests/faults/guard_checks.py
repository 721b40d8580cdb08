"""
Small, quick checks of the write path, each aimed at one guard: on a whole tree none finds anything; with the guard
taken out (negative_controls.py) the check that is aimed at it must find something, and says which number rose.

`python -m tests.faults.guard_checks NAME` runs one on the servers of REDIS_URL and DATABASE_URL (both empty) and
prints what it found as one line of JSON.

Not here: what a check is (guard_check.py). They are in script_checks.py, flush_checks.py, hello_checks.py and
journal_checks.py; `CHECKS` is all of them by name.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from tests.faults import flush_checks, hello_checks, journal_checks, script_checks  # noqa: F401 - they enter themselves
from tests.faults.guard_check import CHECKS, Found, Ground

__all__ = ["CHECKS", "Ground", "run_check"]


async def run_check(name: str, ground: Ground, deadline_s: float = 90.0) -> Found:
    async with asyncio.timeout(deadline_s):
        return await CHECKS[name](ground)


def main() -> int:
    ground = Ground(os.environ["REDIS_URL"], os.environ["DATABASE_URL"])
    print(json.dumps(asyncio.run(run_check(sys.argv[1], ground))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
