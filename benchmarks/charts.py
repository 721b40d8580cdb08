"""
Charts as SVG, drawn by hand: bars that are stacked, and ranges on a logarithmic axis. No library, readable in light and
dark, the same bytes for the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.bars import show

WIDTH, LEFT, RIGHT = 820, 230, 90
ROW, BAR, TOP, BOTTOM = 34, 20, 74, 30
COLOURS = ("a", "b", "c", "d", "e")

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 15px }
  .small { font-size: 11px; fill: #59636e }
  .line { stroke: #d1d9e0; stroke-width: 1 }
  .range { stroke: #8b949e; stroke-width: 2 }
  .a { fill: #0969da } .b { fill: #bc4c00 } .c { fill: #1a7f37 } .d { fill: #8250df } .e { fill: #9a6700 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .small { fill: #9198a1 } .line { stroke: #3d444d } .range { stroke: #656c76 }
    .a { fill: #4493f8 } .b { fill: #f0883e } .c { fill: #3fb950 } .d { fill: #ab7df8 } .e { fill: #d29922 }
  }
"""


def draw_bars(title: str, unit: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A row for each label, its parts stacked from the left, their sum at the end."""
    kinds = list(dict.fromkeys(kind for _, parts in rows for kind in parts))
    most = max((sum(parts.values()) for _, parts in rows), default=0.0) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / most
    body = []
    for number, (label, parts) in enumerate(rows):
        y = TOP + number * ROW
        body.append(_text(LEFT - 10, y + 15, label, anchor="end"))
        x = float(LEFT)
        for kind in kinds:
            width = parts.get(kind, 0.0) * scale
            if width > 0:
                colour = COLOURS[kinds.index(kind) % len(COLOURS)]
                body.append(
                    f'<rect class="{colour}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}">'
                    f"<title>{escape(kind)}: {show(parts[kind])} {escape(unit)}</title></rect>"
                )
            x += width
        body.append(_text(x + 6, y + 15, f"{show(sum(parts.values()))} {unit}"))
    return _frame(title, len(rows), kinds if len(kinds) > 1 else [], body)


def draw_ranges(title: str, unit: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A row for each label, a dot for each of its values on one logarithmic axis."""
    kinds = list(dict.fromkeys(kind for _, values in rows for kind in values))
    every = [value for _, values in rows for value in values.values() if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)) + 1e-9)
    high = max(high, low + 1)

    def place(value: float) -> float:
        return LEFT + (math.log10(max(value, 10.0**low)) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    body = []
    bottom = TOP + len(rows) * ROW
    for power in range(low, high + 1):
        x = place(10.0**power)
        body.append(f'<line class="line" x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}"/>')
        body.append(_text(x, bottom + 16, f"{10.0**power:g} {unit}", kind="small", anchor="middle"))
    for number, (label, values) in enumerate(rows):
        y = TOP + number * ROW + 10
        body.append(_text(LEFT - 10, y + 5, label, anchor="end"))
        places = [place(value) for value in values.values()]
        body.append(f'<line class="range" x1="{min(places):.1f}" y1="{y}" x2="{max(places):.1f}" y2="{y}"/>')
        for kind, value in values.items():
            colour = COLOURS[kinds.index(kind) % len(COLOURS)]
            body.append(
                f'<circle class="{colour}" cx="{place(value):.1f}" cy="{y}" r="6">'
                f"<title>{escape(kind)}: {show(value)} {escape(unit)}</title></circle>"
            )
        body.append(_text(max(places) + 12, y + 5, f"{show(max(values.values()))} {unit}"))
    return _frame(title, len(rows), kinds, body)


def _frame(title: str, rows: int, kinds: Sequence[str], body: Sequence[str]) -> str:
    height = TOP + rows * ROW + BOTTOM
    legend, x = [], float(LEFT)
    for number, kind in enumerate(kinds):
        legend.append(f'<rect class="{COLOURS[number % len(COLOURS)]}" x="{x:.0f}" y="42" width="12" height="12"/>')
        legend.append(_text(x + 18, 53, kind, kind="small"))
        x += 34 + 6.5 * len(kind)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        _text(10, 24, title, kind="title"),
        *legend,
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _text(x: float, y: float, text: str, *, kind: str = "", anchor: str = "start") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
