"""
What a load test does with its result: the flags for reports, thresholds, comparing and merging, and obeying them.

Promise: what cannot work (a folder that cannot be written, a figure that is none) is refused before anybody plays.
`--compare` and `--merge` play nothing: they read reports.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.compare import WORSE_PERCENT, compare
from loadtest.late_acks import LATE_ACK_MS
from loadtest.merge import merge
from loadtest.report_document import read_document
from loadtest.report_html import render
from loadtest.target import EXIT_BAD, EXIT_OK, TargetRefused, check_output_file
from loadtest.thresholds import Breach, Threshold, describe, list_breaches, parse_threshold

AUDITS = ("postgres", "queries")


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """The flags, checked. `audit` None: through Postgres where it can be reached, else through queries."""

    json: Path | None = None
    report: Path | None = None
    thresholds: tuple[Threshold, ...] = ()
    late_ack_ms: float | None = None
    audit: str | None = None
    compare: tuple[Path, Path] | None = None
    merge: tuple[Path, ...] = ()
    worse_percent: float = WORSE_PERCENT

    @property
    def is_about_reports(self) -> bool:
        """Nobody plays: reports are read."""
        return self.compare is not None or bool(self.merge)


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("report and verdict")
    group.add_argument("--json", type=Path, metavar="FILE", help="write the report there as JSON, too")
    group.add_argument("--report", type=Path, metavar="FILE", help="write the report there as one HTML page")
    group.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="BOUND",
        help="fail (1) if this is so, like 'ack_p99_ms > 20'; may be repeated, any figure of the report",
    )
    group.add_argument(
        "--late-ack-ms",
        type=float,
        metavar="MS",
        help=f"tell answers that came so long after those to later updates (default {LATE_ACK_MS:g}; with mud: none)",
    )
    group.add_argument(
        "--audit",
        choices=AUDITS,
        help="look into Postgres, or ask the gateway for the players' own histories (default: what can be reached)",
    )
    modes = parser.add_argument_group("reports of earlier runs (nobody plays)")
    modes.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A.json", "B.json"), help="show what differs; 1 if B is worse"
    )
    modes.add_argument(
        "--worse-percent", type=float, default=WORSE_PERCENT, metavar="P", help="… by more than %(default)g"
    )
    modes.add_argument(
        "--merge",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="one report of those of all shards (or of one, to show it)",
    )


def read_report_options(args: argparse.Namespace) -> ReportOptions:
    """Raises TargetRefused, naming the flag."""
    for flag, value, low, high in (
        ("--late-ack-ms", args.late_ack_ms, 1, 600_000),
        ("--worse-percent", args.worse_percent, 0, 10_000),
    ):
        if value is not None and not low <= value <= high:
            raise TargetRefused(f"{flag} must be between {low:g} and {high:g}, is {value:g}")
    if args.compare and args.merge:
        raise TargetRefused("--compare and --merge do not go together")
    if args.compare and args.fail_if:
        raise TargetRefused("--fail-if bounds one run; --compare says by itself whether the second is worse")
    check_output_file("--json", args.json)
    check_output_file("--report", args.report)
    return ReportOptions(
        json=args.json,
        report=args.report,
        thresholds=tuple(parse_threshold(text) for text in args.fail_if),
        late_ack_ms=args.late_ack_ms,
        audit=args.audit,
        compare=tuple(args.compare) if args.compare else None,
        merge=tuple(args.merge or ()),
        worse_percent=args.worse_percent,
    )


def publish(document: dict[str, Any], options: ReportOptions) -> list[Breach]:
    """
    Write what was asked for, with the thresholds in it; answers those that were not kept.

    Raises:
        OSError: a file cannot be written. The other one may be there.
    """
    document["verdict"]["thresholds"] = describe(options.thresholds, document["figures"])
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.report is not None:
        options.report.write_text(render(document), "utf-8")
    return list_breaches(options.thresholds, document["figures"])


def run_about_reports(options: ReportOptions, say: Callable[[str], object] = print) -> int:
    """`--compare` or `--merge`; answers the exit code. Raises TargetRefused for a file that is no report."""
    if options.compare is not None:
        return _compare(options.compare, options, say)
    documents = [read_document(path) for path in options.merge]
    merged = merge(documents, [path.name for path in options.merge]) if len(documents) > 1 else documents[0]
    breaches = publish(merged, options)
    for reason in merged["verdict"]["reasons"]:
        say(f"  {reason}")
    for breach in breaches:
        say(f"  fail-if {breach}")
    say(merged["verdict"]["line"])
    return EXIT_OK if merged["verdict"]["ok"] and not breaches else EXIT_BAD


def _compare(paths: tuple[Path, Path], options: ReportOptions, say: Callable[[str], object]) -> int:
    documents: list[Mapping[str, Any]] = [read_document(path) for path in paths]
    try:
        comparison = compare(*documents, worse_percent=options.worse_percent)
    except (KeyError, TypeError, ValueError) as fault:
        raise TargetRefused(f"a report is damaged: {type(fault).__name__}: {fault}") from fault
    if options.json is not None:
        options.json.write_text(json.dumps(comparison.as_dict(), indent=1) + "\n")
    if options.report is not None:
        options.report.write_text(comparison.as_page(paths[0].name, paths[1].name), "utf-8")
    for line in comparison.lines():
        say(line)
    return EXIT_OK if comparison.is_ok else EXIT_BAD
