"""
The load test finds planted bugs, every one and nothing else.

The whole source tree is copied, the gateway of the copy is patched (planted_gateway.py) and started with everything it
needs; the load test of the *unpatched* tree plays on it. What the patched gateway wrote down about each case it planted
must be what the report lists: kind, player, device, seq, no more and no fewer.

Two runs for each seed: updates dropped, doubled and swapped while players go offline and come back; and answers held
back. In every second seed the audit has no database and asks the gateway for the players' histories.

`python -m tests.faults.planted_bugs --seeds 10`; two runs are tests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.dev_rig import RunningDev
from tests.faults.negative_controls import Control, Patch, break_tree, copy_tree

PLANTS = Control(
    "planted bugs",
    (
        Patch(
            "gateway/app/run_gateway.py",
            '\n\nif __name__ == "__main__":\n',
            '\n\nif __name__ == "__main__":\n    from tests.faults.planted_gateway import plant\n\n    plant()\n',
        ),
        Patch(
            "persistence/hot/lua/apply_updates.lua",
            "  if taken > 0 then\n    writes[n + 1], writes[n + 2] = accepted_field",
            "  for number = 1, taken do\n"
            "    local id, rest = match(entries[number], '^%d+ d0b1e(%x+) %d+ (.*)$')\n"
            "    if id then\n"
            "      version, taken, offset = version + 1, taken + 1, offset + #rest + ENTRY_OVERHEAD_BYTES\n"
            "      entries[taken] = format('%d', version) .. ' d0b1f' .. id .. format(' %d ', offset) .. rest\n"
            "    end\n"
            "  end\n"
            "  if taken > 0 then\n    writes[n + 1], writes[n + 2] = accepted_field",
        ),
    ),
    check="",
    rises=frozenset(),
)

Case = tuple[str, str, str, int]
"""kind, player, device, seq"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to run: what is planted at which rate, and how the players play."""

    rates: dict[str, float]
    players: int
    rate: float
    seconds: float
    flags: tuple[str, ...]


RUNS = {
    "stored": Kind(
        {"lost": 1 / 120, "duplicated": 1 / 120, "reordered": 1 / 40},
        *(60, 5.0, 4.0),
        ("--offline-rate", "0.03", "--drop-rate", "0.01"),
    ),
    "answered": Kind(
        {"late_ack": 0.01},
        *(120, 3.0, 4.0),
        ("--offline-rate", "0", "--drop-rate", "0", "--late-ack-ms", "100"),
    ),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What was planted and what the report lists, of one run."""

    run: str
    seed: int
    audit: str
    planted: Counter[Case]
    listed: Counter[Case]
    last_line: str

    @property
    def is_exact(self) -> bool:
        """Something was planted, and nothing else is listed."""
        return bool(self.planted) and self.planted == self.listed

    @property
    def kinds(self) -> Counter[str]:
        return Counter(case[0] for case in self.planted)

    def __str__(self) -> str:
        planted = " ".join(f"{kind}={count}" for kind, count in sorted(self.kinds.items()))
        line = f"seed {self.seed} {self.run} (audit through {self.audit}): planted {planted or 'nothing'}: "
        if self.is_exact:
            return line + "listed exactly"
        missed, false = self.planted - self.listed, self.listed - self.planted
        return line + f"MISSED {sorted(missed)} FALSE {sorted(false)} | {self.last_line}"


class PlantedDev(RunningDev):
    """`dev` of the patched copy; commands that are run on it are those of the unpatched tree."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tree = folder / "tree"
        self._is_starting = False

    def begin(self) -> None:
        copy_tree(self.tree)
        break_tree(self.tree, PLANTS)
        self.plan(0, {}, Path("/dev/null"), (0, 0))
        self._is_starting = True
        try:
            self.start()
        finally:
            self._is_starting = False

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **({"PYTHONPATH": str(self.tree)} if self._is_starting else {})}

    def plan(self, seed: int, rates: dict[str, float], cases: Path, seqs: tuple[int, int]) -> None:
        file = self.tree / "tests" / "faults" / "planted.json"
        fresh = file.with_suffix(".fresh")
        fresh.write_text(json.dumps({"seed": seed, "rates": rates, "list": str(cases), "seqs": seqs}))
        fresh.replace(file)

    def find(self, run: str, seed: int, audit: str) -> Found:
        """One load test on the patched gateway."""
        kind = RUNS[run]
        cases, report = self.folder / f"cases-{run}-{seed}", self.folder / f"report-{run}-{seed}.json"
        cases.touch()
        cases.chmod(0o666)
        # Not the first, before which nothing was answered, and not the last: what follows shows that they are gone.
        self.plan(seed, kind.rates, cases, (3, round(kind.rate * kind.seconds) - 4))
        done = self.run(
            *("loadtest", "--players", str(kind.players), "--rate", str(kind.rate), "--seconds", str(kind.seconds)),
            *("--random-seed", str(seed), "--processes", "2", "--ramp-s", "1", "--audit", audit, "--json", str(report)),
            *kind.flags,
            timeout_s=120,
        )
        if not report.exists():
            raise RuntimeError(f"the load test itself ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr}")
        document: dict[str, Any] = json.loads(report.read_text())
        listed = Counter(
            (finding["kind"], finding["player"], finding["device"], finding["seq"]) for finding in document["findings"]
        )
        planted = Counter(tuple(json.loads(line)) for line in cases.read_text().splitlines())
        return Found(run, seed, audit, planted, listed, done.stdout.splitlines()[-1])


@contextlib.contextmanager
def run_planted_dev() -> Iterator[PlantedDev]:
    folder = Path(tempfile.mkdtemp(prefix="wh-planted-", dir="/tmp"))
    folder.chmod(0o711)
    dev = PlantedDev(folder)
    try:
        dev.begin()
        yield dev
    finally:
        if dev._process is not None and dev._process.poll() is None:
            dev.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.planted_bugs", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many (default 10)")
    parser.add_argument("--random-seed", type=int, metavar="N", help="the first of them (default: any)")
    args = parser.parse_args()
    first = args.random_seed if args.random_seed is not None else random.SystemRandom().randrange(1_000_000)
    total: Counter[str] = Counter()
    wrong = 0
    with run_planted_dev() as dev:
        for seed in range(first, first + args.seeds):
            for run in RUNS:
                found = dev.find(run, seed, "queries" if seed % 2 else "postgres")
                total += found.kinds
                wrong += not found.is_exact
                print(found, flush=True)
    # Which kinds one run has is up to the network: a swap wants two updates in one frame. All together have each.
    never = {kind for run in RUNS.values() for kind in run.rates} - total.keys()
    if never and args.seeds >= 5:
        print(f"never planted: {', '.join(sorted(never))}")
        wrong += 1
    planted = " ".join(f"{kind}={count}" for kind, count in sorted(total.items()))
    print(f"planted bugs: {'FAILED' if wrong else 'ok'} seeds={args.seeds} wrong={wrong} {planted}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
