"""
The table of metrics, and how numbers of several processes become one /metrics page.

Promise: counting costs an addition. The hot path adds to plain attributes of `Tally`; once a second `Publisher` moves
what was added into prometheus' shared files (one set for each process, in PROMETHEUS_MULTIPROC_DIR), and whoever serves
/metrics adds them up. A process that died keeps its counters in the sum; its gauges go.

Without PROMETHEUS_MULTIPROC_DIR (tests, a single process) everything works within the process.

    tally.updates_accepted += 3
    tally.errors[103] += 1
    tally.write_latency.observe(0.012)
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PUBLISH_INTERVAL_S = 1.0

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WAITS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0),
)
"""What players wait for: fine enough that a percentile between two bounds means something."""
UPDATES = (1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)


class Distribution:
    """How often a value fell where. Plain numbers, so that observing costs a search and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Tally:
    """The numbers of one process. A field here is the metric of the same name in `METRICS`."""

    updates_accepted: int = 0
    updates_saved: int = 0
    updates_void: int = 0
    updates_repeated: int = 0
    hydrates: int = 0
    resyncs: int = 0
    resumes: int = 0
    stream_resets: int = 0
    discards: int = 0
    hot_lookups: Counter[str] = field(default_factory=Counter)
    hot_hits: Counter[str] = field(default_factory=Counter)
    errors: Counter[int] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)
    unknown_content: Counter[str] = field(default_factory=Counter)
    write_latency: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    flush_duration: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    ack_latency: Distribution = field(default_factory=lambda: Distribution(WAITS))
    saved_latency: Distribution = field(default_factory=lambda: Distribution(WAITS))
    flush_batch_updates: Distribution = field(default_factory=lambda: Distribution(UPDATES))
    connections: int | None = None
    sessions: int | None = None
    active_players: int | None = None
    pending_updates: int | None = None
    pending_bytes: int | None = None
    oldest_pending_s: float | None = None
    events_removed: int = 0
    dead_letters: int | None = None


@dataclass(frozen=True)
class Metric:
    """
    One metric: its public name, and the field of `Tally` it shows.

    `across` says how the processes' gauges become one number: "livesum" adds those of live processes, "mostrecent" is
    for what every process sees whole.
    """

    name: str
    kind: str  # counter | gauge | histogram | derived
    tally_field: str
    about: str
    label: str = ""
    bounds: tuple[float, ...] = ()
    across: str = ""


METRICS: tuple[Metric, ...] = (
    Metric("wayhold_updates_accepted_total", "counter", "updates_accepted", "Effective updates that reached Redis."),
    Metric("wayhold_updates_saved_total", "counter", "updates_saved", "Effective updates that reached Postgres."),
    Metric("wayhold_updates_void_total", "counter", "updates_void", "Rejected updates: a number used, no effect."),
    Metric(
        "wayhold_updates_repeated_total", "counter", "updates_repeated", "Updates sent again and acknowledged again."
    ),
    Metric("wayhold_hydrates_total", "counter", "hydrates", "Progress read from Postgres into Redis."),
    Metric("wayhold_resyncs_total", "counter", "resyncs", "Clients told to go back, because the hot copy was rebuilt."),
    Metric("wayhold_resumes_total", "counter", "resumes", "Sessions taken up again by a new connection."),
    Metric("wayhold_stream_resets_total", "counter", "stream_resets", "Devices told to start a new stream. Alarm."),
    Metric("wayhold_discards_total", "counter", "discards", "Hot copies dropped because Postgres has another history."),
    Metric("wayhold_errors_total", "counter", "errors", "Error frames sent, by code.", label="code"),
    Metric("wayhold_closes_total", "counter", "closes", "Connections closed, by close code.", label="code"),
    Metric(
        "wayhold_unknown_content_total",
        "counter",
        "unknown_content",
        "Events about content that their experience's definition does not have.",
        label="experience",
    ),
    Metric(
        "wayhold_events_removed_total",
        "counter",
        "events_removed",
        "Events removed for their age (months that went whole are not counted).",
    ),
    Metric(
        "wayhold_hot_lookups_total",
        "counter",
        "hot_lookups",
        "Progress looked for in Redis, for a hello or to be read.",
        label="by",
    ),
    Metric(
        "wayhold_hot_hits_total",
        "counter",
        "hot_hits",
        "Progress found in Redis, for a hello or to be read.",
        label="by",
    ),
    Metric(
        "player_progress_write_latency_seconds",
        "histogram",
        "write_latency",
        "Time that Postgres takes to write one batch of progress, from the first lock to the commit.",
        bounds=SECONDS,
    ),
    Metric(
        "wayhold_flush_duration_seconds",
        "histogram",
        "flush_duration",
        "Time of one flush, from the first snapshot to the commit: reading from Redis, and that.",
        bounds=SECONDS,
    ),
    Metric(
        "wayhold_ack_wait_seconds",
        "histogram",
        "ack_latency",
        "Time from a frame of a player to its ack: of each call of the hot store the one that waited longest.",
        bounds=WAITS,
    ),
    Metric(
        "wayhold_saved_wait_seconds",
        "histogram",
        "saved_latency",
        "Time from the ack of an update until its player is told that it is saved: samples.",
        bounds=WAITS,
    ),
    Metric(
        "wayhold_flush_batch_updates",
        "histogram",
        "flush_batch_updates",
        "Updates written in one transaction.",
        bounds=UPDATES,
    ),
    Metric("wayhold_connections", "gauge", "connections", "Open player sockets.", across="livesum"),
    Metric("wayhold_sessions", "gauge", "sessions", "Sessions held by this node's connections.", across="livesum"),
    Metric(
        "active_players_total", "gauge", "active_players", "Players active in the last 30 minutes.", across="mostrecent"
    ),
    Metric(
        "wayhold_pending_updates", "gauge", "pending_updates", "Entries that wait for Postgres.", across="mostrecent"
    ),
    Metric("wayhold_pending_bytes", "gauge", "pending_bytes", "Bytes that wait for Postgres.", across="mostrecent"),
    Metric(
        "wayhold_oldest_pending_seconds",
        "gauge",
        "oldest_pending_s",
        "How long the oldest entry that Postgres lacks has been waiting.",
        across="mostrecent",
    ),
    Metric(
        "wayhold_dead_letters", "gauge", "dead_letters", "Event rows that Postgres refused. Alarm.", across="mostrecent"
    ),
    Metric(
        "player_progress_cache_hit_rate",
        "derived",
        "",
        "Part of hellos and reads whose progress was in Redis (wayhold_hot_hits_total / wayhold_hot_lookups_total).",
    ),
)


class Publisher:
    """Moves a tally into prometheus. One for each process, owned by its main coroutine."""

    def __init__(self, tally: Tally, refresh: Callable[[], None] | None = None) -> None:
        """`refresh` is called before each publishing, to set the gauges."""
        # Imported here: prometheus looks for PROMETHEUS_MULTIPROC_DIR when it is imported.
        from prometheus_client import CollectorRegistry, Gauge, Histogram
        from prometheus_client import Counter as PrometheusCounter

        self.registry = CollectorRegistry()
        self._tally = tally
        self._refresh = refresh
        self._published: dict[str, Any] = {}
        self._metrics: dict[str, Any] = {}
        for metric in METRICS:
            labels = [metric.label] if metric.label else []
            if metric.kind == "counter":
                made: Any = PrometheusCounter(metric.name, metric.about, labels, registry=self.registry)
            elif metric.kind == "gauge":
                made = Gauge(
                    metric.name,
                    metric.about,
                    registry=self.registry,
                    multiprocess_mode="livesum" if metric.across == "livesum" else "mostrecent",
                )
            elif metric.kind == "histogram":
                made = Histogram(metric.name, metric.about, buckets=metric.bounds, registry=self.registry)
            else:
                continue
            self._metrics[metric.name] = made

    def publish(self) -> None:
        if self._refresh is not None:
            self._refresh()
        for metric in METRICS:
            if metric.kind == "derived":
                continue
            made, value = self._metrics[metric.name], getattr(self._tally, metric.tally_field)
            if metric.kind == "gauge":
                if value is not None:
                    made.set(value)
            elif metric.kind == "histogram":
                self._publish_distribution(metric, made, value)
            elif metric.label:
                before = self._published.setdefault(metric.name, Counter())
                for code, count in value.items():
                    if count > before[code]:
                        made.labels(code if isinstance(code, str) else str(int(code))).inc(count - before[code])
                        before[code] = count
            else:
                before = self._published.get(metric.name, 0)
                if value > before:
                    made.inc(value - before)
                    self._published[metric.name] = value

    async def run(self, stop: asyncio.Event) -> None:
        """Publish once a second until `stop`, and once more then."""
        while not stop.is_set():
            self.publish()
            try:
                await asyncio.wait_for(stop.wait(), PUBLISH_INTERVAL_S)
            except TimeoutError:
                pass
        self.publish()

    def render(self) -> bytes:
        """The /metrics page: every process of this supervisor, or this one alone. Reads files: some ms."""
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return render_all()
        return _render(self.registry)

    def _publish_distribution(self, metric: Metric, made: Any, value: Distribution) -> None:
        counts, total = self._published.get(metric.name, ([0] * len(value.counts), 0.0))
        added = [now - before for now, before in zip(value.counts, counts, strict=True)]
        if any(added):
            # Thousands of observations a second, one by one, would cost what counting in plain numbers has saved;
            # prometheus has no public call for adding many. A test pins these two names.
            for bucket, count in zip(made._buckets, added, strict=True):
                if count:
                    bucket.inc(count)
            made._sum.inc(value.total - total)
            self._published[metric.name] = (list(value.counts), value.total)


def render_all() -> bytes:
    """The /metrics page of every process of this supervisor, for one that counts nothing itself. Reads files."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    return _render(MultiProcessCollector(CollectorRegistry()))  # type: ignore[no-untyped-call]


def _render(source: Any) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest

    page = CollectorRegistry()
    page.register(_Page(source))
    return generate_latest(page)


class _Page:
    """The collected metrics and what is computed from them."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def collect(self) -> Any:
        from prometheus_client.core import GaugeMetricFamily

        sums = {"wayhold_hot_hits_total": 0.0, "wayhold_hot_lookups_total": 0.0}
        for family in self._source.collect():
            for sample in family.samples:
                if sample.name in sums:
                    sums[sample.name] += sample.value
            yield family
        lookups = sums["wayhold_hot_lookups_total"]
        for metric in METRICS:
            if metric.kind == "derived":
                rate = sums["wayhold_hot_hits_total"] / lookups if lookups else 1.0
                yield GaugeMetricFamily(metric.name, metric.about, value=rate)


def wipe_metrics_dir(directory: Path) -> None:
    """An empty folder for a new supervisor's processes: numbers start at 0 with it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for pattern in ("*.db", "*.node.json"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)


def forget_process(directory: Path, pid: int) -> None:
    """Take a dead process's gauges out of the sums; its counters stay. For the supervisor: imports no prometheus."""
    for pattern in (f"gauge_live*_{pid}.db", f"*_{pid}.node.json"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)
