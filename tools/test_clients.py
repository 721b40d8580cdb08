"""
The test tiers that need more than Python: the clients in other languages, each proven by its own tools.

    python tools/test_clients.py

A tier whose tool is absent is skipped and said so in one line, `SKIPPED tier=… reason=… install=…`; naming its tool
in WAYHOLD_TEST_REQUIRE (`node,chromium`) turns that into a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Tier:
    """Tests of one client with one tool: where they are, and how they are run from there."""

    name: str
    tool: str
    programs: tuple[str, ...]
    folder: str
    command: tuple[str, ...]
    install: str


TIERS = (
    Tier("js", "node", ("node",), "clients/js", ("npm", "test"), "https://nodejs.org"),
    Tier(
        "console",
        "chromium",
        ("chromium", "chromium-browser", "google-chrome"),
        "tests/clients",
        (sys.executable, "-m", "pytest", "."),
        "https://www.chromium.org",
    ),
    Tier("unity", "mono", ("mono",), "clients/unity", ("make", "test"), "https://www.mono-project.com"),
)


def main() -> int:
    required = {name.strip() for name in os.environ.get("WAYHOLD_TEST_REQUIRE", "").split(",") if name.strip()}
    unknown = required - {tier.tool for tier in TIERS}
    if unknown:
        known = ",".join(tier.tool for tier in TIERS)
        print(f"test-clients: WAYHOLD_TEST_REQUIRE names {','.join(sorted(unknown))}; known are {known}")
        return 2
    failed = False
    skipped: list[str] = []
    for tier in TIERS:
        if not (ROOT / tier.folder).is_dir():
            skipped.append(f"SKIPPED tier={tier.name} reason=not-part-of-wayhold-yet install=-")
        elif not any(map(shutil.which, tier.programs)):
            skipped.append(f"SKIPPED tier={tier.name} reason={tier.tool}-not-found install={tier.install}")
        else:
            print(f"(in {tier.folder}) {' '.join(tier.command)}", flush=True)
            failed |= subprocess.run(tier.command, cwd=ROOT / tier.folder, check=False).returncode != 0
            continue
        failed |= tier.tool in required
    for line in skipped:
        print(line)
    if failed:
        print("test-clients: FAILED (a tier failed, or one that WAYHOLD_TEST_REQUIRE asks for was skipped)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
