"""
Parts that are commands of their own and write a JSON file: `micro` and `flush`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load_processes import ROOT
from benchmarks.plan import Plan

DEADLINE_S = 900.0


class ModuleFailed(Exception):
    """The command ended badly; the message holds its last words."""


async def run_micro(plan: Plan) -> dict[str, Any]:
    """CPU of each station of an update (micro.py)."""
    found = await _run(plan, "benchmarks.micro", "--rounds", str(2 if plan.is_quick else 9))
    figures: dict[str, float] = {}
    for case, trees in found.items():
        for kind in ("python_us", "redis_us"):
            values = [one[kind] for one in trees["this"]]
            if values:
                figures[f"micro_{case}_{kind}"] = round(median(values), 2)
    return {"figures": figures, "cases": found}


async def run_flush(plan: Plan) -> dict[str, Any]:
    """What one flusher saves per second (flush_throughput.py)."""
    found = await _run(plan, "benchmarks.flush_throughput", "--rounds", str(1 if plan.is_quick else 8))
    figures = {
        "flush_events_per_s": found["events"]["events_per_s"],
        "flush_states_per_s": found["states"]["states_per_s"],
    }
    for kind in ("flusher", "redis", "postgres"):
        figures[f"flush_{kind}_us_per_event"] = found["events"][f"{kind}_us_per_event"]
        figures[f"flush_{kind}_us_per_state"] = found["states"][f"{kind}_us_per_state"]
    return {"figures": figures, "workloads": found}


async def _run(plan: Plan, module: str, *arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="wayhold-bench-") as folder:
        result = Path(folder, "result.json")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module, *arguments, "--json", str(result)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode != 0:
            raise ModuleFailed(f"{module} ended with {process.returncode}: {output.decode()[-800:]}")
        found: dict[str, Any] = json.loads(result.read_text())  # noqa: ASYNC240
        plan.say(f"{module}: done")
        return found
