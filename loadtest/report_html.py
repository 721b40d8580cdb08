"""
The report as one page: verdict first, then the run over time, then the numbers.

Owns what is shown and in which order. Everything comes from the document (report_document.py), so that a page can be
made again from JSON, on another machine, or of merged shards.

Promise: one file that fetches nothing; text from outside is escaped. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from loadtest.charts import ChartMark, Line, draw_histogram, draw_lines, show_count
from loadtest.figures import FIGURES, PERCENTS, TOOL_LATE_MS, show, show_ms
from loadtest.percentiles import Histogram
from loadtest.report_document import LATENCY_NAMES, read_latencies
from loadtest.report_page import make_page, make_table
from loadtest.series import Series, read_series
from protocol.closes import close_name
from protocol.errors import ErrorCode

TILES = ("players", "accepted", "accepted_per_s", "ack_p50_ms", "ack_p99_ms", "saved_p99_ms", "resumes", "errors")
_CLOSES_OF_WEBSOCKET = {
    "1000": "ended as it should",
    "1001": "going away",
    "1006": "no close frame: the connection was cut",
    "1011": "an error in the gateway",
}
STATE_COLOURS = {"playing": 3, "suspended": 1, "connecting": 2, "offline": 6, "stopped": 5}
FINDINGS_SHOWN_MAX = 500


def render(document: Mapping[str, Any]) -> str:
    """The page. Raises TargetRefused, KeyError, ValueError or TypeError for a document that is none."""
    series = read_series(document["series"])
    latencies = read_latencies(document)
    title = _title(document)
    parts = [
        _head(document, title, series),
        _tiles(document["figures"]),
        "<h2>Over time</h2>",
        _draw_series(series),
        "<h2>How long it took</h2>",
        _draw_histograms(latencies),
        _percentiles(latencies),
        _findings(document),
        "<h2>Slowest answers</h2>",
        _slowest(document["slowest"]),
        "<h2>Connections and errors</h2>",
        _codes(document),
        "<h2>Every figure</h2>",
        _figures(document["figures"]),
        "<h2>How it was run</h2>",
        _run(document),
        "<footer>Latencies count from the moment an update was due, whether or not the tool or the gateway kept up. "
        "Times are UTC.</footer>",
    ]
    return make_page(title, "\n".join(parts))


def _title(document: Mapping[str, Any]) -> str:
    run = document.get("run", {})
    what = run.get("scenario") or document.get("options", {}).get("experience") or "players"
    return f"Load test: {what}, {show('players', document['figures'].get('players'))} players"


def _head(document: Mapping[str, Any], title: str, series: Series) -> str:
    verdict = document["verdict"]
    run, options = document.get("run", {}), document.get("options", {})
    at = datetime.fromtimestamp(series.start_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    facts = [at, f"{document.get('play_s', 0):g} s of play"]
    facts += [f"seed {options['random_seed']}"] if "random_seed" in options else []
    facts += [f"shard {run['shard']}"] if run.get("shard") not in (None, "1/1") else []
    facts += [f"Wayhold {run['versions']['wayhold']}"] if run.get("versions", {}).get("wayhold") else []
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict["reasons"])
    breached = "".join(
        f"<li>{escape(one['fail_if'])}: it is {escape(show(one['fail_if'].split()[0], one['value']))}</li>"
        for one in verdict["thresholds"]
        if not one["ok"]
    )
    late_ms = document["figures"].get("tool_late_p99_ms") or 0.0
    if late_ms > TOOL_LATE_MS:
        late = f"The tool itself was late ({show_ms(late_ms)} at 99 %): its machine was busy, latencies show it."
        reasons += f"<li>{escape(late)}</li>"
    is_ok = verdict["ok"] and not breached
    said = "Nothing is lost, nothing is there twice" if is_ok else "This run failed"
    if not verdict.get("is_audited", True):
        said = "Not audited" if is_ok else said
    return (
        f'<h1>{escape(title)}</h1><p class="sub">{escape(" · ".join(facts))}</p>'
        f'<div class="verdict {"ok" if is_ok else "bad"}"><b>{"✓" if is_ok else "✗"} {said}</b>'
        f'<ul>{reasons}{breached}</ul><p class="line">{escape(verdict["line"])}</p></div>'
    )


def _tiles(figures: Mapping[str, Any]) -> str:
    tiles = []
    for name in TILES:
        label, value = name.removesuffix("_ms").replace("_", " "), escape(show(name, figures[name]))
        tiles.append(f'<div class="tile"><span>{label}</span><b>{value}</b></div>')
    return f'<div class="tiles">{"".join(tiles)}</div>'


# --- over time -----------------------------------------------------------------------------------------------------


def list_marks(series: Series) -> list[ChartMark]:
    """Numbered: what each of them was is in the list below the charts."""
    return [
        ChartMark(
            (mark.at_ms - series.start_ms) / 1000,
            str(number),
            mark.what,
            (mark.until_ms - series.start_ms) / 1000 if mark.until_ms is not None else None,
        )
        for number, mark in enumerate(series.marks, 1)
    ]


def _draw_series(series: Series) -> str:
    points, marks, step = series.points, list_marks(series), series.step_s
    at_s = [float(point.at_s) for point in points]
    # One point is the whole of its seconds; the last may be cut off.
    each = "each second" if step == 1 else f"each {step} s"

    def rate(name: str) -> list[float | None]:
        return [point.counts.get(name, 0) / step for point in points]

    def latency(name: str, percent: float) -> list[float | None]:
        found = (point.latencies[name] for point in points)
        return [histogram.percentile_us(percent) / 1000 if histogram else None for histogram in found]

    def slowest(name: str) -> list[float | None]:
        found = (point.latencies[name] for point in points)
        return [histogram.max_us / 1000 if histogram else None for histogram in found]

    charts = [
        draw_lines(
            "Updates per second",
            at_s,
            [Line("due", 6, rate("made")), Line("answered", 1, rate("accepted")), Line("saved", 3, rate("saved"))],
            show_count,
            marks=marks,
        ),
        draw_lines(
            "Answered after",
            at_s,
            [
                Line("p50", 3, latency("ack", 50)),
                Line("p90", 1, latency("ack", 90)),
                Line("p99", 2, latency("ack", 99)),
                Line("slowest", 5, slowest("ack")),
            ],
            show_ms,
            marks=marks,
            is_log=True,
            note=f"updates that were due in {each}",
        ),
        draw_lines(
            "Saved after",
            at_s,
            [Line("p50", 3, latency("saved", 50)), Line("p99", 2, latency("saved", 99))],
            show_ms,
            marks=marks,
            is_log=True,
        ),
    ]
    if series.has_states:
        charts.append(_draw_states(series, at_s, marks))
        charts.append(
            draw_lines(
                "Resumes, closes and errors per second",
                at_s,
                [
                    Line("resumes", 3, rate("resumes")),
                    Line("closes", 2, rate("closes")),
                    Line("errors", 5, rate("errors")),
                ],
                show_count,
                marks=marks,
            )
        )
    if any(point.latencies["late"] for point in points):
        charts.append(
            draw_lines(
                "The tool itself was late by",
                at_s,
                [Line("p99", 2, latency("late", 99)), Line("most", 5, slowest("late"))],
                show_ms,
                marks=marks,
                note="far above zero, the machine of the tool is too small for this run",
            )
        )
    return "".join(charts) + _list_marks(marks)


def _draw_states(series: Series, at_s: list[float], marks: list[ChartMark]) -> str:
    names = [name for name in STATE_COLOURS if any((point.states or {}).get(name) for point in series.points)]
    names = names or ["connected"]
    lines = [
        Line(
            name,
            STATE_COLOURS.get(name, 1),
            [float(point.states.get(name, 0)) if point.states else None for point in series.points],
        )
        for name in names
    ]
    return draw_lines("Players", at_s, lines, show_count, marks=marks, is_stacked=True)


def _list_marks(marks: list[ChartMark]) -> str:
    rows = []
    for mark in marks:
        lasted = "" if mark.until_s is None else f"{mark.until_s - mark.at_s:.1f} s"
        rows.append([mark.label, f"{mark.at_s:.1f} s", mark.what, lasted])
    return make_table(["mark", "at", "what was done", "over after"], rows, numbers=(1, 3)) if rows else ""


# --- numbers -------------------------------------------------------------------------------------------------------


def _draw_histograms(latencies: Mapping[str, Histogram]) -> str:
    nothing = Histogram()
    ack = draw_histogram("Answered after", latencies.get("ack", nothing), 1, "updates by how long they took")
    saved = draw_histogram("Saved after", latencies.get("saved", nothing), 3)
    return ack + saved


def _percentiles(latencies: Mapping[str, Histogram]) -> str:
    rows = []
    for name, what in LATENCY_NAMES.items():
        histogram = latencies.get(name)
        if histogram:
            values = [show_ms(value / 1000) for value in histogram.percentiles_us(PERCENTS.values())]
            rows.append([what, f"{histogram.count:,}", *values, show_ms(histogram.max_us / 1000)])
    head = ["", "updates", *(f"{percent:g} %" for percent in PERCENTS.values()), "slowest"]
    return make_table(head, rows, numbers=tuple(range(1, len(head))))


def _findings(document: Mapping[str, Any]) -> str:
    findings = document["findings"]
    if not findings:
        return ""
    rows = [
        [
            finding["kind"].replace("_", " "),
            finding["player"],
            finding["device"] or "–",
            str(finding["seq"] or "–"),
            finding["what"],
            _time(finding.get("made_ms")),
            _after(finding.get("accepted_ms"), finding.get("made_ms")),
            _after(finding.get("saved_ms"), finding.get("made_ms")),
        ]
        for finding in findings[:FINDINGS_SHOWN_MAX]
    ]
    counted = sum(
        document["figures"].get(kind) or 0 for kind in ("lost", "duplicated", "reordered", "state_mismatches")
    )
    left_off = max(len(findings), counted + (document["figures"].get("late_acks") or 0)) - len(rows)
    more = f'<p class="none">… and {left_off} more</p>' if left_off > 0 else ""
    head = ["kind", "player", "device", "seq", "what", "made", "answered", "saved"]
    return f"<h2>Findings</h2>{make_table(head, rows, numbers=(3, 6, 7), ids=(1, 2, 5))}{more}"


def _slowest(slowest: list[dict[str, Any]]) -> str:
    if not slowest:
        return '<p class="none">nothing was answered</p>'
    rows = [
        [
            show_ms(one["ack_ms"]),
            one["player"],
            one["device"],
            str(one["seq"]),
            _time(one["due_ms"]),
            _after(one["made_ms"], one["due_ms"]),
            _after(one["saved_ms"], one["due_ms"]),
            "yes" if one["is_resent"] else "",
        ]
        for one in slowest
    ]
    head = ["answered after", "player", "device", "seq", "due", "made", "saved", "resent"]
    return make_table(head, rows, numbers=(0, 3, 5, 6), ids=(1, 2, 4))


def _codes(document: Mapping[str, Any]) -> str:
    def error_name(code: str) -> str:
        return ErrorCode(int(code)).name if int(code) in set(ErrorCode) else ""

    def name_of_close(code: str) -> str:
        return _CLOSES_OF_WEBSOCKET.get(code) or close_name(int(code))

    def table(head: str, counts: Mapping[Any, int], name: Callable[[str], str] | None) -> str:
        rows = [[str(code), name(str(code)) if name else "", f"{count:,}"] for code, count in counts.items()]
        rows = rows or [["none", "", ""]]
        return make_table([head, "", "how often"], rows, numbers=(2,))

    return (
        '<div class="pair">'
        + table("came back", document.get("welcomes", {}), None)
        + table("close", document.get("closes", {}), name_of_close)
        + table("error", document.get("errors", {}), error_name)
        + "</div>"
    )


def _figures(figures: Mapping[str, Any]) -> str:
    rows = [[name, show(name, figures.get(name)), FIGURES[name].what] for name in FIGURES]
    return make_table(["figure", "", "what it is"], rows, numbers=(1,), ids=(0,))


def _run(document: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for name, value in {**document.get("options", {}), **document.get("run", {})}.items():
        if isinstance(value, dict):
            rows += [[f"{name}.{key}", _plain(inner)] for key, inner in value.items()]
        elif value not in (None, [], ""):
            rows.append([name, _plain(value)])
    thresholds = [[one["fail_if"], "kept" if one["ok"] else "breached"] for one in document["verdict"]["thresholds"]]
    return make_table(["", ""], rows, ids=(0,)) + (make_table(["fail if", ""], thresholds) if thresholds else "")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _time(at_ms: float | None) -> str:
    return "–" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]


def _after(at_ms: float | None, from_ms: float | None) -> str:
    if from_ms is None:
        return "–"
    return "never" if at_ms is None else f"+{show_ms(at_ms - from_ms)}"
