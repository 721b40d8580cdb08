"""
What the figures are held against. One row is one promise: a figure, its bar, and what would be better still.

Bars are for two cores with all guarantees, tokens, limits and metrics on.

Not here: how a figure is measured (its part).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """`is_at_most`: a smaller figure is better."""

    part: str
    figure: str
    about: str
    unit: str
    bar: float
    stretch: float | None = None
    is_at_most: bool = True

    def judge(self, value: float) -> str:
        for limit, verdict in ((self.stretch, "ok, stretch"), (self.bar, "ok")):
            if limit is not None and (value <= limit if self.is_at_most else value >= limit):
                return verdict
        return "missed"

    def show_bar(self) -> str:
        sign = "≤" if self.is_at_most else "≥"
        stretch = "" if self.stretch is None else f" ({show(self.stretch)})"
        return f"{sign} {show(self.bar)}{stretch}"


KIB = 1024

BARS = (
    Bar("saturation", "saturation_gateway_us", "gateway CPU per update at saturation", "µs", 16, 12),
    Bar("saturation", "saturation_redis_us", "Redis CPU per update, claims and settles included", "µs", 9, 6),
    Bar(
        "saturation",
        "saturation_updates_per_gateway_cpu_s",
        "updates per CPU-second of the gateway",
        "/s",
        60_000,
        80_000,
        is_at_most=False,
    ),
    Bar(
        "saturation",
        "saturation_rate_per_s",
        "wall rate, everything on two cores",
        "/s",
        20_000,
        30_000,
        is_at_most=False,
    ),
    Bar(
        "rivals", "ratio_websockets_redis_py", "gateway CPU: plain websockets + redis-py ÷ Wayhold", "×", 8, None, False
    ),
    Bar("rivals", "ratio_socketio", "gateway CPU: Socket.IO ÷ Wayhold", "×", 2, None, False),
    Bar("rivals", "ratio_middle", "gateway CPU: websockets with group commit ÷ Wayhold", "×", 2, None, False),
    Bar("rates", "rate_2000x2_p50_ms", "ack p50 at 2,000 × 2/s", "ms", 0.5, 0.3),
    Bar("rates", "rate_2000x2_p99_ms", "ack p99 at 2,000 × 2/s", "ms", 3, 2),
    Bar("rates", "rate_10000x2_p99_ms", "ack p99 at 10,000 × 2/s", "ms", 15, 8),
    Bar("rates", "rate_10000x2_p999_ms", "ack p99.9 at 10,000 × 2/s", "ms", 60, 30),
    Bar("idle", "idle_rss_bytes_10000", "gateway memory per idle session (10,000)", "bytes", 8 * KIB, 6 * KIB),
    Bar("idle", "redis_bytes_per_player", "Redis memory per active player, settled", "bytes", 2.5 * KIB, 1.5 * KIB),
    Bar("flush", "flush_events_per_s", "events saved by one flusher", "/s", 40_000, 80_000, is_at_most=False),
    Bar("flush", "flush_states_per_s", "3 KB states saved by one flusher", "/s", 10_000, 15_000, is_at_most=False),
    Bar("lag", "saved_lag_p99_s", "saved lag p99 at 15,000 updates/s", "s", 10),
    Bar("lag", "saved_lag_rate_per_s", "rate that the lag was measured at", "/s", 14_700, None, is_at_most=False),
    Bar("resume", "resume_hot_s", "5,000 resumes at once, hot: last one welcome after", "s", 5, 3),
    Bar("resume", "resume_hot_live_p99_ms", "ack p99 of 200 others meanwhile", "ms", 50),
    Bar("resume", "resume_wiped_s", "5,000 resumes at once, Redis wiped: last one welcome after", "s", 15, 8),
    Bar("resume", "resume_wiped_live_p99_ms", "ack p99 of 200 others meanwhile", "ms", 50),
    Bar("viewer", "viewer_ratio", "gateway CPU per update with a viewer ÷ without, median of pairs", "×", 1.02),
    Bar("viewer", "viewer_ratio_upper", "the same, upper end of 95 %", "×", 1.05),
    Bar("search", "search_p95_ms", "player search at each letter, 10,000 sessions: server time p95", "ms", 50),
    Bar("search", "search_page_p95_ms", "the same on the page of those who play now", "ms", 50),
    Bar("fsync", "always_share_percent", "rate with appendfsync always, of everysec", "%", 60, None, is_at_most=False),
)


def list_rows(figures: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    """(what, bar, measured, verdict) of every bar whose part has run."""
    return [
        (bar.about, f"{bar.show_bar()} {bar.unit}", show(figures[bar.figure]), bar.judge(figures[bar.figure]))
        for bar in BARS
        if bar.figure in figures
    ]


def show(value: float) -> str:
    """Three digits are all that a benchmark can tell."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
