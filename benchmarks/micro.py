"""
What each station of one update costs, in CPU microseconds: `python -m benchmarks.micro`.

Compare two trees with `--against FOLDER` (a clone at another commit): both are measured in turns, round by round, on
the same Redis, because on a shared machine only figures that were taken together can be compared. The middle round
counts; the fastest is shown beside it.

Promise: loopback only, a temporary folder, bounded rounds. Figures are of this process's own CPU clock and of Redis's,
never of the wall.

Not here: the cases (micro_cases.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from persistence.embedded.child import start_and_wait, stop_and_wait
from persistence.embedded.data_folder import DataFolder
from persistence.embedded.valkey import EmbeddedValkey

ROUNDS = 9
ANSWER_DEADLINE_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", metavar="CASE,…")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another tree to measure in turns with this one")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--worker", nargs=2, metavar=("REDIS_URL", "PID"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work(args.worker[0], int(args.worker[1])))
    here = Path(__file__).parents[1]
    trees = {"this": here} | ({"other": args.against.resolve()} if args.against else {})
    with run_valkey() as server, contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(tree, f"{server.url.partition('?')[0]}?db={number}", server.pid or 0))
            for number, (name, tree) in enumerate(trees.items())
        }
        names = [name for name in args.only.split(",") if name] or workers["this"].cases
        results = {}
        for case in names:
            results[case] = measure(case, workers, args.rounds)
            print(show(case, results[case]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def measure(case: str, workers: dict[str, Worker], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Rounds of each tree in turns; the order of a pair alternates."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for number in range(rounds + 1):
        order = list(workers) if number % 2 else list(reversed(workers))
        for name in order:
            if case in workers[name].cases:
                answer = workers[name].ask(case)
                if number:  # the first round warms caches
                    taken[name].append(answer)
    return taken


def show(case: str, taken: dict[str, list[dict[str, float]]]) -> str:
    parts = []
    for name, rounds in taken.items():
        if rounds:
            python = [one["python_us"] for one in rounds]
            redis = [one["redis_us"] for one in rounds]
            text = f"{name}: python {median(python):6.2f} (min {min(python):6.2f})"
            if median(redis) > 0.2:
                text += f"  redis {median(redis):6.2f} (min {min(redis):6.2f})"
            parts.append(text)
    return f"{case:10} " + "  |  ".join(parts) + "  us/update"


class Worker:
    """A process with one tree's code, that runs a case when it is told."""

    def __init__(self, tree: Path, redis_url: str, valkey_pid: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.micro", "--worker", redis_url, str(valkey_pid)],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.cases: list[str] = self._read()["cases"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def ask(self, case: str) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(case + "\n")
        self._process.stdin.flush()
        answer: dict[str, float] = self._read()
        return answer

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker has ended with code {self._process.wait(10)}")
        return json.loads(line)


async def work(redis_url: str, valkey_pid: int) -> int:
    """The other side of `Worker`: a case per line, until the end of the input."""
    from benchmarks.accounts import read_cpu_s
    from benchmarks.micro_cases import CASES, Bench, Clock

    bench = await Bench.open(redis_url)
    # As the gateway does it, see gateway.app.run_gateway.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    print(json.dumps({"cases": list(CASES)}), flush=True)
    loop = asyncio.get_running_loop()
    while case := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        clock = Clock(lambda: (time.process_time(), read_cpu_s(valkey_pid)))
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            updates = await CASES[case](bench, clock)
        python_s, redis_s = clock.used_s
        print(json.dumps({"python_us": python_s / updates * 1e6, "redis_us": redis_s / updates * 1e6}), flush=True)
    await bench.close()
    return 0


@contextlib.contextmanager
def run_valkey() -> Iterator[EmbeddedValkey]:
    """One as `wayhold dev` runs it: append-only file, synced every second."""
    parent = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="wh-micro-", dir=parent) as folder, DataFolder(Path(folder)):
        server = EmbeddedValkey(Path(folder))
        start_and_wait(server)
        try:
            yield server
        finally:
            stop_and_wait(server)


if __name__ == "__main__":
    sys.exit(main())
