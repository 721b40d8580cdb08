"""
Makes docs/benchmarks-data-model.md of a result: `python -m benchmarks.data_model.write_docs [result.json]`.

Without a file it is made again of docs/benchmarks-data-model.json; --check only says whether it is up to date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data_model.report import show_report
from benchmarks.load_processes import ROOT

PAGE = ROOT / "docs" / "benchmarks-data-model.md"
RESULT = ROOT / "docs" / "benchmarks-data-model.json"
START, END = "<!-- result -->\n", "<!-- end -->\n"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    page = PAGE.read_text()
    if arguments == ["--check"]:
        return 0 if not RESULT.exists() or fill_page(page, json.loads(RESULT.read_text())) == page else 1
    if arguments:
        RESULT.write_text(json.dumps(json.loads(Path(arguments[0]).read_text()), indent=1) + "\n")
    PAGE.write_text(fill_page(page, json.loads(RESULT.read_text())))
    return 0


def fill_page(page: str, result: Mapping[str, Any]) -> str:
    """The page with this result between its marks."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    stored, machine, versions = result["workload"]["stored"], result["machine"], result["versions"]
    about = (
        f"On {result['began_at'][:10]}, {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {versions['python']}, commit {versions['wayhold']}; "
        f"{stored['players']:,} players and {stored['events']:,} events filled in {result['fill']['seconds']:.0f} s."
    )
    return f"{before}{START}{about}\n\n```text\n{show_report(result)}\n```\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
