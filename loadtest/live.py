"""
What is seen of a run while it goes on: a view on a terminal, plain lines elsewhere, nothing if that is wanted.

Not here: where the figures come from (load_test.py).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from loadtest.percentiles import Histogram
from loadtest.server_meter import Use
from loadtest.tally import STATES
from protocol.closes import CloseCode
from protocol.errors import ErrorCode


@dataclass(slots=True)
class Moment:
    """One second of a run. Counts are since its start, `…_per_s` of this second, histograms of it, too."""

    at_s: float
    seconds: float
    players: int
    counts: Mapping[str, Any]
    made_per_s: int
    accepted_per_s: int
    ack: Histogram
    saved: Histogram
    late: Histogram
    servers: Mapping[str, Use] = field(default_factory=dict)
    tool: Use = field(default_factory=Use)


class View(Protocol):
    def show(self, moment: Moment) -> None: ...
    def note(self, text: str, at_s: float) -> None:
        """Something happened that does not go away with the next second."""
        ...

    def close(self) -> None: ...


def open_view(title: str, *, is_quiet: bool) -> View:
    if is_quiet:
        return QuietView()
    if sys.stdout.isatty():
        try:
            return TerminalView(title)
        except ImportError:
            pass
    return LineView()


class QuietView:
    def show(self, moment: Moment) -> None: ...
    def note(self, text: str, at_s: float) -> None: ...
    def close(self) -> None: ...


class LineView:
    """One line a second."""

    def show(self, moment: Moment) -> None:
        counts = moment.counts
        ack_p50, ack_p99 = moment.ack.percentiles_us((50, 99))
        self.note(
            f"players {counts['connected']}/{moment.players}  made {counts['made']} (+{moment.made_per_s})  "
            f"accepted {counts['accepted']} (+{moment.accepted_per_s})  saved {counts['saved']}  "
            f"ack p50 {ack_p50 / 1000:.1f} p99 {ack_p99 / 1000:.1f} ms  resumes {counts['resumes']}  "
            f"errors {sum(counts['errors'].values())}",
            moment.at_s,
        )

    def note(self, text: str, at_s: float) -> None:
        print(f"{at_s:6.1f} s  {text}", flush=True)

    def close(self) -> None: ...


class TerminalView:
    """A table that is drawn anew every second; what happened scrolls by above it. Raises ImportError without rich."""

    def __init__(self, title: str, console: Any = None) -> None:
        from rich.live import Live

        self._title = title
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._live.start()

    def show(self, moment: Moment) -> None:
        self._live.update(draw(self._title, moment))

    def note(self, text: str, at_s: float) -> None:
        self._live.console.print(f"{at_s:6.1f} s  {text}", highlight=False, markup=False)

    def close(self) -> None:
        self._live.stop()


def draw(title: str, moment: Moment) -> Any:
    """One second as something that rich can show."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    counts = moment.counts
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("time", _progress(moment))
    states = "  ".join(f"{state} {counts[state]}" for state in STATES if counts[state])
    table.add_row("players", f"{states or 'nobody yet'}  of {moment.players}")
    table.add_row(
        "updates",
        f"{moment.made_per_s}/s made  {moment.accepted_per_s}/s accepted   "
        f"(all: {counts['made']} made, {counts['accepted']} accepted, {counts['saved']} saved)",
    )
    table.add_row("ack", _percentiles(moment.ack))
    table.add_row("saved", _percentiles(moment.saved))
    failed = f", {counts['connects_failed']} connections that failed" if counts["connects_failed"] else ""
    table.add_row("resumes", f"{counts['resumes']} of {counts['welcomes']} welcomes{failed}")
    table.add_row("errors", _codes(counts["errors"], ErrorCode))
    table.add_row("closes", _codes(counts["closes"], CloseCode))
    for kind, use in sorted(moment.servers.items()):
        if kind != "supervisor":
            table.add_row(kind, _use(use))
    tool = f"{_use(moment.tool)}, late p99 {moment.late.percentile_ms(99):.1f} ms"
    is_late = moment.late.percentile_ms(99) > 50
    table.add_row("this tool", Text(tool, style="yellow" if is_late else ""))
    return Panel(table, title=title, title_align="left", expand=False)


def _progress(moment: Moment) -> str:
    if moment.at_s < 0:
        return f"the players come, play begins in {-moment.at_s:.0f} s"
    done = min(1.0, moment.at_s / moment.seconds) if moment.seconds else 1.0
    bar = "█" * round(done * 24)
    if done >= 1:
        return f"{bar} over; waiting until everything is saved"
    left = f"{_clock(moment.at_s)} of {_clock(moment.seconds)}, {_clock(moment.seconds - moment.at_s)} left"
    return f"{bar}{'░' * (24 - len(bar))} {left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02}"


def _percentiles(histogram: Histogram) -> str:
    if not histogram:
        return "–"
    p50, p90, p99 = histogram.percentiles_us((50, 90, 99))
    return "  ".join(
        f"{name} {value / 1000:.1f} ms"
        for name, value in (("p50", p50), ("p90", p90), ("p99", p99), ("max", histogram.max_us))
    )


def _codes(counts: Mapping[Any, int], names: Any) -> str:
    def name(code: int) -> str:
        try:
            return f"{code} {names(code).name}"
        except ValueError:
            return f"{code}"

    return "  ".join(f"{name(int(code))}×{count}" for code, count in counts.items()) or "none"


def _use(use: Use) -> str:
    return f"{use.cores * 100:.0f} % of a core, {use.rss_bytes / 1048576:.0f} MiB"
