"""
Write a result into docs/benchmarks.md: `python -m benchmarks.write_docs RESULT.json`.

The result is kept as docs/benchmarks.json; the tables between the markers of the page and the charts are made from it,
the prose around them is left alone. With `--check` nothing is written, and 1 says that the page is not of its result.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bars import BARS, show
from benchmarks.charts import draw_bars, draw_ranges
from benchmarks.load_processes import ROOT
from benchmarks.machine import YARDSTICK_OF_BARS_US, show_yardsticks

PAGE = ROOT / "docs" / "benchmarks.md"
RESULT = ROOT / "docs" / "benchmarks.json"
CHARTS = ROOT / "docs" / "charts"
KINDS = {"gateway": "gateway and supervisor", "redis": "Redis", "flusher": "flusher", "postgres": "Postgres"}
RIVAL_NAMES = {
    "wayhold": "Wayhold",
    "middle": "websockets + group commit",
    "ws": "ws (Node)",
    "socketio": "Socket.IO (Node)",
    "colyseus": "Colyseus (Node)",
    "websockets_redis_py": "websockets + redis-py",
    "fastapi": "FastAPI + redis-py",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.write_docs",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("result", nargs="?", type=Path, default=RESULT, metavar="RESULT.json")
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    args = parser.parse_args(argv)
    result = json.loads(args.result.read_text())
    if result.get("is_quick"):
        print("a --quick run measures nothing: run it again without", file=sys.stderr)
        return 2
    wanted = {PAGE: fill_page(PAGE.read_text(), result), RESULT: json.dumps(result, indent=1) + "\n"}
    wanted |= {CHARTS / name: chart for name, chart in make_charts(result).items()}
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    stale = [path for path in CHARTS.glob("*.svg") if path not in wanted]
    if args.check:
        old += stale
        for path in old:
            print(f"{path.relative_to(ROOT)} is not of {args.result}")
        return 1 if old else 0
    CHARTS.mkdir(exist_ok=True)
    for path in old:
        path.write_text(wanted[path])
        print(f"wrote {path.relative_to(ROOT)}")
    for path in stale:
        path.unlink()
        print(f"removed {path.relative_to(ROOT)}: it was not measured")
    return 0


def fill_page(page: str, result: Mapping[str, Any]) -> str:
    """The page with what is between its markers made new."""
    for name, make in SECTIONS.items():
        pattern = re.compile(rf"(<!-- {name}: from the result -->\n).*?(<!-- end -->)", re.DOTALL)
        text = make(result)
        page, count = pattern.subn(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"the page has {count} places for {name}")
    return page


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_machine(result: Mapping[str, Any]) -> str:
    machine, versions = result["machine"], dict(result["versions"])
    facts: Mapping[str, Any] = next(
        (part["installation"] for part in result["parts"].values() if "installation" in part), {}
    )
    busy = ", ".join(f"{name} {part.get('others_cores', 0):g}" for name, part in result["parts"].items())
    yardsticks = show_yardsticks(result)
    ours = [f"`{name}` {value:,g}" for name, value in facts.get("settings", {}).items()]
    postgres = [f"`{name}` {value}" for name, value in facts.get("postgres_settings", {}).items()]
    valkey = [f"`{name}` {value}" for name, value in facts.get("valkey_settings", {}).items()]
    rows = [
        ("when", f"{result['began_at']}, asked for {result['minutes']:g} minutes"),
        ("commit", f"`{versions.pop('wayhold')}`"),
        ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB"),
        ("system", machine["system"]),
        ("cores used", result["pinning"]),
        ("kept busy by others", f"cores, on average: {busy}"),
        (
            "yardstick",
            f"`msgpack.unpackb` of one frame, µs before and after each part: {yardsticks or '–'}; "
            f"{YARDSTICK_OF_BARS_US:g} on the machine that the bars were set on",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("servers", f"Valkey {facts.get('valkey', '?')}, PostgreSQL {facts.get('postgres', '?')}"),
        ("settings that are not production's defaults", ", ".join(ours) or "none"),
        ("Valkey", ", ".join(valkey)),
        ("Postgres, beyond its own defaults", ", ".join(postgres)),
    ]
    return _table(("", ""), rows)


def make_bars(result: Mapping[str, Any]) -> str:
    figures = list_figures(result)
    rows = []
    for bar in BARS:
        value = figures.get(bar.figure)
        measured, verdict = ("–", "not measured") if value is None else (show(value), bar.judge(value))
        stretch = "–" if bar.stretch is None else show(bar.stretch)
        limit = f"{'≤' if bar.is_at_most else '≥'} {show(bar.bar)} {bar.unit}"
        rows.append((bar.about, limit, stretch, measured, f"**{verdict}**" if verdict == "missed" else verdict))
    return _table(("figure", "bar", "stretch", "measured", ""), rows)


def make_side_by_side(result: Mapping[str, Any]) -> str:
    figures = list_figures(result)
    turns = result["parts"].get("rivals", {}).get("turns", {})
    rows = []
    for name, label in RIVAL_NAMES.items():
        if f"side_{name}_gateway_us" not in figures:
            continue
        memory = [turn["rss_bytes_per_connection"] for turn in turns.get(name, [])[:1]]
        rows.append(
            (
                label,
                show(figures[f"side_{name}_gateway_us"]),
                "1" if name == "wayhold" else show(figures[f"ratio_{name}"]),
                show(figures[f"side_{name}_redis_us"]),
                f"{figures[f'side_{name}_rate_per_s']:,.0f}",
                show(figures[f"side_{name}_p99_ms"]),
                f"{memory[0] / 1024:.1f}" if memory else "–",
            )
        )
    for name, why in result["parts"].get("rivals", {}).get("skipped", {}).items():
        rows.append((RIVAL_NAMES.get(name, name), f"left out: {why}", "", "", "", "", ""))
    return _chart("side_by_side.svg", "CPU per update of each server and its Redis", rows) + _table(
        ("server", "CPU µs", "÷ Wayhold", "Redis µs", "updates/s", "ack p99 ms", "KiB/connection"),
        rows or [("not measured", "", "", "", "", "", "")],
    )


def make_rates(result: Mapping[str, Any]) -> str:
    rows = []
    for cell in result["parts"].get("rates", {}).get("cells", []):
        latency, late, cpu = cell["loop"]["latency"], cell["loop"]["sent_late"], cell["cpu_us_per_update"]
        rows.append(
            (
                f"{cell['players']:,} × {cell['each_per_s']}/s",
                *(show(latency[name]) for name in ("p50", "p99", "p999", "max")),
                f"{show(late['p50'])} / {show(late['p99'])}",
                *(show(cpu.get(kind, 0.0)) for kind in KINDS),
            )
        )
    charts = _chart("latency.svg", "Ack latency from when the update was due", rows)
    charts += _chart("cpu_per_update.svg", "Where the CPU of one update goes", rows)
    return charts + _table(
        (
            "load",
            "p50 ms",
            "p99",
            "p99.9",
            "max",
            "of it the sender's p50 / p99",
            *(f"{kind} µs" for kind in KINDS.values()),
        ),
        rows or [("not measured", *[""] * 9)],
    )


def make_more(result: Mapping[str, Any]) -> str:
    rows = [(f"`{name}`", show(value)) for name, value in list_figures(result).items()]
    failed = [(f"{name} failed", part["failed"]) for name, part in result["parts"].items() if "failed" in part]
    return _table(("figure", "measured"), failed + rows)


SECTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "machine": make_machine,
    "bars": make_bars,
    "side by side": make_side_by_side,
    "rates": make_rates,
    "all figures": make_more,
}


# ── charts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_charts(result: Mapping[str, Any]) -> dict[str, str]:
    """File name → SVG, for what was measured."""
    figures, charts = list_figures(result), {}
    side = [
        (label, {"server": figures[f"side_{name}_gateway_us"], "Redis": figures[f"side_{name}_redis_us"]})
        for name, label in RIVAL_NAMES.items()
        if f"side_{name}_gateway_us" in figures
    ]
    if side:
        charts["side_by_side.svg"] = draw_bars("CPU per accepted update, 2,000 connections", "µs", side)
    cells = result["parts"].get("rates", {}).get("cells", [])
    used = [
        (
            f"{cell['players']:,} × {cell['each_per_s']}/s",
            {KINDS[kind]: cell["cpu_us_per_update"][kind] for kind in KINDS},
        )
        for cell in cells
    ]
    if "saturation_gateway_us" in figures:
        used.append(("saturation", {label: figures[f"saturation_{kind}_us"] for kind, label in KINDS.items()}))
    if cells:
        charts["cpu_per_update.svg"] = draw_bars("Where the CPU of one update goes", "µs", used)
    latencies = [
        (
            f"{cell['players']:,} × {cell['each_per_s']}/s",
            {
                label: cell["loop"]["latency"][name]
                for name, label in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"))
            },
        )
        for cell in cells
    ]
    if latencies:
        charts["latency.svg"] = draw_ranges("Ack latency from when the update was due", "ms", latencies)
    return charts


def list_figures(result: Mapping[str, Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for part in result["parts"].values():
        figures |= part.get("figures", {})
    return figures


def _chart(name: str, about: str, rows: Sequence[object]) -> str:
    """The picture that goes with a table, unless the table is empty."""
    return f"![{about}](charts/{name})\n\n" if rows else ""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
