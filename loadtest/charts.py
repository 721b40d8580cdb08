"""
Charts as SVG inside a page: lines over time, players by state, how often each latency occurred.

Owns geometry and marks; colours are classes of the page's style (`c1` … `c6`). Every chart is drawn twice, for a wide
and for a narrow screen, since scaling would make its text unreadable on a phone; the style shows one of them.

Promise: text from outside is escaped; a chart without a value says so. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from loadtest.figures import show_ms
from loadtest.percentiles import Histogram

WIDE, NARROW = (1040, 250), (380, 230)
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 16, 26


@dataclass(frozen=True, slots=True)
class Line:
    """One value for each point of time; None leaves a gap. `colour`: 1 to 6."""

    name: str
    colour: int
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class ChartMark:
    """Something that happened: a line, or a band when it took a while. `label` is short, `what` the whole story."""

    at_s: float
    label: str
    what: str
    until_s: float | None = None


def draw_lines(
    title: str,
    at_s: Sequence[float],
    lines: Sequence[Line],
    show: Callable[[float], str],
    *,
    marks: Sequence[ChartMark] = (),
    is_log: bool = False,
    is_stacked: bool = False,
    note: str = "",
) -> str:
    """A figure element. `show` writes a value with its unit."""
    shown = [line for line in lines if any(value is not None for value in line.values)]
    if not shown or len(at_s) < 2:
        return _figure(title, [], note or "", f'<p class="none">{escape("nothing was measured")}</p>')
    drawn = "".join(
        _draw(at_s, shown, show, marks, size, is_log=is_log, is_stacked=is_stacked).join(
            (f'<div class="{name}">', "</div>")
        )
        for name, size in (("wide", WIDE), ("narrow", NARROW))
    )
    data = {
        "x": [round(at, 2) for at in at_s],
        "rows": [[line.name, [_text(value, show) for value in line.values]] for line in shown],
    }
    return _figure(title, [(line.name, line.colour) for line in shown], note, drawn, data)


def draw_histogram(title: str, histogram: Histogram, colour: int, note: str = "") -> str:
    """How often each latency occurred, on a logarithmic scale, with the 50th and the 99th percentile."""
    if not histogram:
        return _figure(title, [], note, '<p class="none">nothing was measured</p>')
    drawn = "".join(
        _draw_bars(histogram, colour, size).join((f'<div class="{name}">', "</div>"))
        for name, size in (("wide", WIDE), ("narrow", NARROW))
    )
    return _figure(title, [], note, drawn)


def show_time(at_s: float) -> str:
    """Minutes and seconds of play; hours where there are some."""
    sign, left = ("-", -at_s) if at_s < 0 else ("", at_s)
    seconds = round(left)
    if seconds >= 3600:
        return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{sign}{seconds // 60}:{seconds % 60:02}"


def _figure(
    title: str, legend: Sequence[tuple[str, int]], note: str, drawn: str, data: dict[str, object] | None = None
) -> str:
    chips = "".join(f'<span class="chip"><i class="c{colour}"></i>{escape(name)}</span>' for name, colour in legend)
    about = f'<span class="note">{escape(note)}</span>' if note else ""
    points = f' data-points="{escape(json.dumps(data, separators=(",", ":")))}"' if data is not None else ""
    return f"<figure{points}><figcaption><b>{escape(title)}</b>{chips}{about}</figcaption>{drawn}</figure>"


def _text(value: float | None, show: Callable[[float], str]) -> str:
    return "–" if value is None else show(value)


def _draw(
    at_s: Sequence[float],
    lines: Sequence[Line],
    show: Callable[[float], str],
    marks: Sequence[ChartMark],
    size: tuple[int, int],
    *,
    is_log: bool,
    is_stacked: bool,
) -> str:
    width, height = size
    from_s, to_s = at_s[0], at_s[-1]
    stacks = _stack(lines) if is_stacked else [list(line.values) for line in lines]
    values = [value for stack in stacks for value in stack if value is not None]
    scale = _LogScale(values, height) if is_log else _Scale(values, height)

    def x(at: float) -> float:
        return _LEFT + (at - from_s) / (to_s - from_s) * (width - _LEFT - _RIGHT)

    parts = [_open(width, height, from_s, to_s)]
    for tick in scale.ticks:
        y = scale.y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{width - _RIGHT}"/>')
        label = escape(show_tick_ms(tick) if show is show_ms else show(tick))
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick_s in _time_ticks(from_s, to_s, 5 if width < 600 else 10):
        parts.append(
            f'<text class="tick" x="{x(tick_s):.1f}" y="{height - 8}" text-anchor="middle">{show_time(tick_s)}</text>'
        )
    base = scale.y(scale.low)
    below: list[float | None] = [scale.low] * len(at_s)
    for line, stack in zip(lines, stacks, strict=True):
        if is_stacked:
            parts.append(_area(at_s, stack, below, x, scale.y, line.colour))
            below = stack
        else:
            parts.append(_polyline(at_s, stack, x, scale.y, line.colour))
    parts += [_draw_mark(mark, x, from_s, to_s, height) for mark in marks]
    parts.append(f'<path class="axis" d="M{_LEFT} {base:.1f}H{width - _RIGHT}"/>')
    parts.append('<path class="cursor" d="" visibility="hidden"/></svg>')
    return "".join(parts)


def _open(width: int, height: int, from_s: float, to_s: float) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" data-left="{_LEFT}" data-right="{width - _RIGHT}" '
        f'data-top="{_TOP}" data-bottom="{height - _BOTTOM}" data-from="{from_s:g}" data-to="{to_s:g}">'
    )


def _draw_mark(mark: ChartMark, x: Callable[[float], float], from_s: float, to_s: float, height: int) -> str:
    if mark.at_s > to_s or (mark.until_s if mark.until_s is not None else mark.at_s) < from_s:
        return ""
    left = x(max(from_s, mark.at_s))
    bottom = height - _BOTTOM
    band = ""
    if mark.until_s is not None:
        wide = x(min(to_s, mark.until_s)) - left
        band = f'<rect class="band" x="{left:.1f}" y="{_TOP}" width="{max(1.0, wide):.1f}" height="{bottom - _TOP}"/>'
    return (
        f"<g>{band}<title>{escape(mark.what)}</title>"
        f'<path class="mark" d="M{left:.1f} {_TOP}V{bottom}"/>'
        f'<text class="label" x="{left:.1f}" y="{_TOP - 4}" text-anchor="middle">{escape(mark.label)}</text></g>'
    )


def _stack(lines: Sequence[Line]) -> list[list[float | None]]:
    stacks: list[list[float | None]] = []
    sums = [0.0] * len(lines[0].values)
    for line in lines:
        sums = [before + (value or 0.0) for before, value in zip(sums, line.values, strict=True)]
        stacks.append(list(sums))
    return stacks


def _polyline(
    at_s: Sequence[float],
    values: Sequence[float | None],
    x: Callable[[float], float],
    y: Callable[[float], float],
    colour: int,
) -> str:
    path: list[str] = []
    is_down = False
    for at, value in zip(at_s, values, strict=True):
        if value is not None:
            path.append(f"{'L' if is_down else 'M'}{x(at):.1f} {y(value):.1f}")
            if not is_down:
                path.append("h0")  # a point alone is a dot, by its round cap
        is_down = value is not None
    return f'<path class="line c{colour}" d="{"".join(path)}"/>'


def _area(
    at_s: Sequence[float],
    values: Sequence[float | None],
    below: Sequence[float | None],
    x: Callable[[float], float],
    y: Callable[[float], float],
    colour: int,
) -> str:
    there = [f"{x(at):.1f} {y(value or 0.0):.1f}" for at, value in zip(at_s, values, strict=True)]
    back = [f"{x(at):.1f} {y(value or 0.0):.1f}" for at, value in zip(at_s, below, strict=True)]
    return f'<path class="area c{colour}" d="M{"L".join(there)}L{"L".join(reversed(back))}Z"/>'


class _Scale:
    """From 0 up to a round number."""

    def __init__(self, values: Sequence[float], height: int) -> None:
        self.low = 0.0
        step = _round_step(max([*values, 1e-9]) / 4)
        count = max(1, math.ceil(max([*values, step]) / step - 1e-9))
        self._high = count * step
        self._height = height
        self.ticks = [number * step for number in range(count + 1)]

    def y(self, value: float) -> float:
        share = (value - self.low) / (self._high - self.low)
        return self._height - _BOTTOM - min(1.0, max(0.0, share)) * (self._height - _TOP - _BOTTOM)


class _LogScale:
    """From one power of ten to another, at least one decade."""

    def __init__(self, values: Sequence[float], height: int) -> None:
        positive = [value for value in values if value > 0] or [1.0]
        low = math.floor(math.log10(min(positive)) + 1e-9)
        high = math.ceil(math.log10(max(positive)) - 1e-9)
        self._low, self._high = low, max(high, low + 1)
        self._height = height
        self.low = 10.0**self._low
        every = 1 + (self._high - self._low) // 7
        self.ticks = [10.0**power for power in range(self._low, self._high + 1, every)]

    def y(self, value: float) -> float:
        power = math.log10(value) if value > 0 else self._low
        share = (power - self._low) / (self._high - self._low)
        return self._height - _BOTTOM - min(1.0, max(0.0, share)) * (self._height - _TOP - _BOTTOM)


def _draw_bars(histogram: Histogram, colour: int, size: tuple[int, int]) -> str:
    width, height = size
    buckets = list(histogram.buckets())
    # Below a hundredth of a millisecond nothing is told apart: it would only stretch the scale.
    low = math.log10(max(10.0, buckets[0][0]))
    high = max(math.log10(max(10.0, histogram.max_us)), low + 0.5)
    low, high = math.floor(low * 2) / 2, math.ceil(high * 2) / 2
    bars = 40 if width < 600 else 100
    counts = [0] * bars
    for first_us, last_us, count in buckets:
        at = (math.log10(max(10.0, (first_us + last_us) / 2)) - low) / (high - low)
        counts[min(bars - 1, max(0, int(at * bars)))] += count
    scale = _Scale([float(count) for count in counts], height)
    plot = width - _LEFT - _RIGHT

    def x(us: float) -> float:
        share = (math.log10(max(10.0, us)) - low) / (high - low)
        return _LEFT + min(1.0, max(0.0, share)) * plot

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for tick in scale.ticks:
        y = scale.y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{width - _RIGHT}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{show_count(tick)}</text>')
    for power in range(math.ceil(low), math.floor(high) + 1):
        at, label = x(10.0**power), show_tick_ms(10.0**power / 1000)
        anchor = "end" if at > width - _RIGHT - 20 else "middle"
        parts.append(f'<text class="tick" x="{at:.1f}" y="{height - 8}" text-anchor="{anchor}">{label}</text>')
    for number, count in enumerate(counts):
        if count:
            left, y = _LEFT + number * plot / bars, scale.y(count)
            from_us, to_us = (10 ** (low + edge * (high - low) / bars) for edge in (number, number + 1))
            span = f"{show_ms(from_us / 1000)} – {show_ms(to_us / 1000)}"
            parts.append(
                f'<rect class="bar c{colour}" x="{left:.1f}" y="{y:.1f}" width="{plot / bars - 1:.1f}" '
                f'height="{height - _BOTTOM - y:.1f}"><title>{span}: {count:,}</title></rect>'
            )
    for percent, label in ((50.0, "p50"), (99.0, "p99")):
        at = x(histogram.percentile_us(percent))
        parts.append(f'<path class="mark" d="M{at:.1f} {_TOP}V{height - _BOTTOM}"/>')
        parts.append(f'<text class="label" x="{at:.1f}" y="{_TOP - 4}" text-anchor="middle">{label}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {height - _BOTTOM}H{width - _RIGHT}"/></svg>')
    return "".join(parts)


def show_tick_ms(value_ms: float) -> str:
    """Short: it stands beside an axis."""
    return f"{value_ms / 1000:g} s" if value_ms >= 1000 else f"{value_ms:g} ms"


def show_count(value: float) -> str:
    if value >= 10_000_000:
        return f"{value / 1_000_000:.0f} M"
    if value >= 10_000:
        return f"{value / 1000:.0f} k"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10 … at or above it."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def _time_ticks(from_s: float, to_s: float, count_max: int) -> list[float]:
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200)
    step = next((step for step in steps if (to_s - from_s) / step <= count_max), 86400)
    first = math.ceil(from_s / step)
    return [number * float(step) for number in range(first, math.floor(to_s / step) + 1)]
