"""
The report of a run as one document: what is written as JSON, shown as a page, compared and merged.

Owns the document's layout (`FORMAT`). It holds everything that a page shows and whatever is needed to add up the
reports of several machines: histograms, not only their percentiles.

    figures      every figure by name (figures.py), None where it was not measured
    latencies    histograms of the whole run: ack, saved, offline (made without a connection), tool_late
    series       the run over time, with marks (series.py)
    findings     kind, player, device, seq, what, and when its frames went
    slowest      the updates whose answers took longest
    run          configuration, seed, versions, machine, shard
    verdict      ok, the audit's last line, reasons, thresholds

and beside these the keys that reports had before there was a page.

Pure but for looking at this machine.
"""

from __future__ import annotations

import heapq
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from loadtest.figures import FIGURES, complete, measure_latency
from loadtest.findings import AuditReport
from loadtest.history import PlayerHistory
from loadtest.percentiles import Histogram, HistogramRefused
from loadtest.series import Series
from loadtest.target import TargetRefused

FORMAT = 1
SLOWEST_MAX = 20
DOCUMENT_BYTES_MAX = 512 * 1024 * 1024

LATENCY_NAMES = {
    "ack": "from due to answered",
    "saved": "from due to saved",
    "offline": "made without a connection: from due to answered",
    "tool_late": "how late the tool itself made updates",
}


def make_document(
    facts: Mapping[str, Any],
    histories: Sequence[PlayerHistory],
    audit: AuditReport,
    series: Series,
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """
    `facts` are the keys of before (`LoadTestReport.as_dict`); `run` is what the run says of itself (run.json). Numbers
    under `cost` in it become figures.
    """
    latencies = {name: Histogram() for name in LATENCY_NAMES}
    for history in histories:
        for step in history.steps:
            if step.accepted_ms is not None:
                name = "offline" if step.is_away else "ack"
                latencies[name].record((step.accepted_ms - step.due_ms) * 1000)
            if step.saved_ms is not None and not step.is_away:
                latencies["saved"].record((step.saved_ms - step.due_ms) * 1000)
    latencies["tool_late"] = series.sum_latency("late")
    cost = {name: value for name, value in run.get("cost", {}).items() if name in FIGURES}
    figures = complete(
        {
            **{name: facts["audit"][name] for name in facts["audit"] if name in FIGURES},
            **{name: facts.get(name) for name in ("accepted_per_s", "settled_s", "commits", "accepted_per_commit")},
            "players": audit.players,
            "late_acks": audit.late_acks,
            "resumes": facts.get("resumes"),
            "closes": sum(facts.get("closes", {}).values()),
            "errors": sum(facts.get("errors", {}).values()),
            **_measure_states(series, float(facts.get("play_s", 0.0))),
            **measure_latency("ack", latencies["ack"]),
            **measure_latency("saved", latencies["saved"]),
            **measure_latency("tool_late", latencies["tool_late"]),
            **cost,
        }
    )
    return {
        "format": FORMAT,
        **facts,
        "figures": figures,
        "latencies": {name: histogram.encode() for name, histogram in latencies.items() if histogram},
        "series": series.as_dict(),
        "findings": [finding.as_dict() for finding in audit.findings],
        "slowest": list_slowest(histories),
        "run": {"versions": list_versions(), "machine": describe_machine(), **run},
        "verdict": {
            "ok": audit.is_ok,
            "line": audit.last_line(),
            "reasons": audit.lines_of_verdict(),
            "thresholds": [],
        },
    }


def read_document(path: Path) -> dict[str, Any]:
    """A report that was written as JSON. Raises TargetRefused, naming the file."""
    try:
        if path.stat().st_size > DOCUMENT_BYTES_MAX:
            raise TargetRefused(f"{path} is too big for a report")
        document = json.loads(path.read_text("utf-8"))
    except OSError as fault:
        raise TargetRefused(f"cannot read the report {path}: {fault.strerror or fault}") from fault
    except ValueError as fault:
        raise TargetRefused(f"{path} is no report: {fault}") from fault
    if not isinstance(document, dict) or "figures" not in document:
        raise TargetRefused(f"{path} is no report that `wayhold loadtest --json` of this version has written")
    if document.get("format") != FORMAT:
        raise TargetRefused(f"{path} is a report of format {document.get('format')!r}, this version reads {FORMAT}")
    return document


def read_run(folder: Path) -> dict[str, Any]:
    """What a run says of itself in its folder; empty where it says nothing."""
    try:
        said = json.loads((folder / "run.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def read_latencies(document: Mapping[str, Any]) -> dict[str, Histogram]:
    """Its histograms by name. Raises TargetRefused for a document that was damaged."""
    try:
        return {name: Histogram.decode(text) for name, text in document["latencies"].items()}
    except (HistogramRefused, KeyError, AttributeError, TypeError) as fault:
        raise TargetRefused(f"the report's latencies cannot be read: {fault}") from fault


def list_slowest(histories: Iterable[PlayerHistory], count_max: int = SLOWEST_MAX) -> list[dict[str, Any]]:
    """Updates made with a connection, by how long their answers took; one that never came is not among them."""
    asked = (
        (step.accepted_ms - step.due_ms, number, history.user_id, step)
        for number, (history, step) in enumerate((history, step) for history in histories for step in history.steps)
        if step.accepted_ms is not None and not step.is_away
    )
    return [
        {
            "player": user_id,
            "device": step.device,
            "seq": step.seq,
            "ack_ms": round(ack_ms, 3),
            "due_ms": step.due_ms,
            "made_ms": step.made_ms,
            "accepted_ms": step.accepted_ms,
            "saved_ms": step.saved_ms,
            "is_resent": step.is_resent,
        }
        for ack_ms, _, user_id, step in heapq.nlargest(count_max, asked)
    ]


def list_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("wayhold", "websockets", "uvloop", "msgpack", "asyncpg"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_machine() -> dict[str, Any]:
    """Where the tool ran, as far as that can be asked without anything."""
    machine: dict[str, Any] = {"system": f"{platform.system()} {platform.release()}", "arch": platform.machine()}
    machine["cores"] = len(os.sched_getaffinity(0)) if sys.platform == "linux" else (os.cpu_count() or 1)
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            machine["cpu"] = names[0]
    if meminfo.exists():
        machine["memory_gib"] = round(int(meminfo.read_text().split()[1]) / 1024 / 1024, 1)
    return machine


def _measure_states(series: Series, play_s: float) -> dict[str, int]:
    """From samples: without them these figures are not measured."""
    states = [(point.at_s, point.states) for point in series.points if point.states is not None]
    figures = {}
    connected = [said["connected"] for _, said in states if "connected" in said]
    if connected:
        figures["connected_max"] = max(connected)
    # The first second of play may still be one of the ramp, the last one of the end.
    playing = [said["playing"] for at_s, said in states if "playing" in said and 1 <= at_s < play_s - 1]
    if playing:
        figures["playing_min"] = min(playing)
    return figures
