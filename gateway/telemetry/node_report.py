"""
What a process says of itself to the others of its supervisor: a small file, replaced whole, beside the metrics.

Promise: costs its writer some tens of microseconds a second and needs no store, so that `/readyz` can be answered by
another process while Redis is away. A report of a process that has died or stands still is known for what it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.telemetry.health import Readiness

LOOK_S = 0.2
WRITE_S = 1.0
STALE_S = 5.0
"""A loop that has not come round for so long answers no player either."""
REPORTS_MAX = 512


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One process. `node`: the name its players' sessions carry, empty for a process without players."""

    process: str
    pid: int
    node: str
    written_at: float  # time.monotonic(), which all processes of a machine share
    readiness: Readiness
    figures: dict[str, Any] = field(default_factory=dict)


async def keep_report(
    directory: Path,
    process: str,
    node: str,
    judge: Callable[[], Readiness],
    read_figures: Callable[[], dict[str, Any]],
    ended: asyncio.Event,
) -> None:
    """Write once a second, and within `LOOK_S` when the readiness has changed, until `ended`; once more then."""
    last: Readiness | None = None
    due = 0.0
    while True:
        now, is_last = time.monotonic(), ended.is_set()
        readiness = judge()
        if is_last or now >= due or last is None or readiness != last:
            due, last = now + WRITE_S, readiness
            # A disk that is full must not end the game; the report goes stale and says so.
            with suppress(OSError):
                write_report(directory, NodeReport(process, os.getpid(), node, now, readiness, read_figures()))
        if is_last:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), LOOK_S)


def write_report(directory: Path, report: NodeReport) -> None:
    path = directory / f"{report.process}_{report.pid}.node.json"
    aside = path.with_suffix(".new")
    aside.write_text(
        json.dumps(
            {
                "process": report.process,
                "pid": report.pid,
                "node": report.node,
                "written_at": report.written_at,
                "is_ready": report.readiness.is_ready,
                "reasons": report.readiness.reasons,
                "figures": report.figures,
            }
        )
    )
    aside.replace(path)


def list_reports(directory: Path) -> list[NodeReport]:
    """The newest report of each process, by name. What cannot be read is passed over."""
    newest: dict[str, NodeReport] = {}
    for path in sorted(directory.glob("*.node.json"))[:REPORTS_MAX]:
        try:
            found = json.loads(path.read_text())
            report = NodeReport(
                str(found["process"]),
                int(found["pid"]),
                str(found["node"]),
                float(found["written_at"]),
                Readiness(bool(found["is_ready"]), [str(reason) for reason in found["reasons"]]),
                dict(found["figures"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if report.process not in newest or newest[report.process].written_at < report.written_at:
            newest[report.process] = report
    return [newest[name] for name in sorted(newest)]


def judge_gateways(reports: Sequence[NodeReport], workers: int, now: float) -> Readiness:
    """
    Whether a player who comes in now is taken: by any of the gateways, which share one port. With several, a reason
    names the one that has it unless all have.
    """
    by_name = {report.process: report for report in reports}
    readiness: dict[str, Readiness] = {}
    for number in range(1, workers + 1):
        name = f"gateway-{number}"
        report = by_name.get(name)
        if report is None:
            readiness[name] = Readiness(False, [f"{name} is not running"])
        elif now - report.written_at > STALE_S:
            readiness[name] = Readiness(False, [f"{name} has said nothing for {now - report.written_at:.0f} s"])
        else:
            readiness[name] = report.readiness
    reasons: list[str] = []
    for name, one in readiness.items():
        for reason in one.reasons:
            is_common = all(reason in other.reasons for other in readiness.values())
            text = reason if is_common or reason.startswith(name) else f"{name}: {reason}"
            if text not in reasons:
                reasons.append(text)
    return Readiness(any(one.is_ready for one in readiness.values()), reasons)
