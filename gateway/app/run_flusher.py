"""
Run one flusher (Redis to Postgres) in the foreground.

It needs REDIS_URL and DATABASE_URL, and looks at both servers first. `serve` and `dev` start flushers by themselves;
this is for one more, on any machine that reaches both stores.

SIGTERM: a final flush of everything pending, bounded by final_flush_s; what is left waits in Redis for the next start.
"""

# The text above is shown by --help. This is the composition root of the flusher process: it builds the stores and the
# flusher, listens to signals and to the supervisor's lifeline, publishes metrics. Under a supervisor (python -m
# gateway.app.run_flusher --worker I) the servers have been looked at.

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import asyncpg

from gateway.app.checks import check_postgres, check_redis
from gateway.app.errors import ExitCode, find_command_error
from gateway.app.experience_files import load_experiences
from gateway.app.level_rule import make_level_rule
from gateway.app.serve import require_server_urls
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.supervised import Inheritance, StopRequest, inherit
from gateway.telemetry.health import Readiness
from gateway.telemetry.logs import set_up_logs
from gateway.telemetry.metrics import Publisher, Tally
from gateway.telemetry.node_report import keep_report
from persistence.cold.connect import COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S, POSTGRES_ERRORS
from persistence.cold.queries import queries
from persistence.errors import PersistenceError
from persistence.flusher.flusher import FlushBounds, Flusher, FlushReport
from persistence.hot.store import HotStore
from persistence.retention import RetentionSweeper
from protocol.experience import ExperienceDefinition

PENDING_LOOK_INTERVAL_S = 1.0
DEAD_LETTERS_LOOK_INTERVAL_S = 30.0
ORPHAN_FLUSH_S = 2.5  # less than what an orphan has left before it is ended

log = logging.getLogger("wayhold.flusher")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worker", type=int, default=1, metavar="I", help="its number, for logs and metrics")
    add_setting_flags(parser)


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    require_server_urls(settings, "flusher")
    inheritance = inherit(f"flusher-{args.worker}")
    set_up_logs(settings.log_level, settings.log_format, inheritance.process)
    main = run_flusher(settings, inheritance)
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


GC_THRESHOLDS = (50_000, 50, 100)
"""
A flush makes tens of thousands of objects, keeps them until it is settled, and leaves no cycles: looking through them
every 700 took 11 % of a flusher's time with long batches, 3 % with large states, and found nothing.
"""


def collect_rarely() -> None:
    """To be called when everything is imported and built: that lives as long as the process and is never looked at."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def run_flusher(settings: Settings, inheritance: Inheritance) -> int:
    """Flush until asked to stop. Returns the exit code."""
    assert settings.redis_url is not None and settings.database_url is not None
    stop = StopRequest()
    stop.install(inheritance)
    if inheritance.lifeline_fd is None:
        await check_redis(settings.redis_url, allow_volatile=settings.allow_volatile_redis)
        await check_postgres(settings.database_url, is_migrated_later=False)
    experiences = load_experiences(settings)
    tally = Tally()
    publisher = Publisher(tally)
    async with AsyncExitStack() as stack:
        hot = await HotStore.open(
            settings.redis_url,
            partitions=settings.redis_partitions,
            flush_interval_s=settings.flush_interval_s,
            session_expiry_s=settings.session_expiry_s,
            progress_idle_s=settings.progress_idle_s,
            pending_updates_max=settings.pending_updates_max,
            pending_bytes_max=settings.pending_bytes_max,
        )
        stack.push_async_callback(hot.close)
        flusher = Flusher(
            hot,
            settings.database_url,
            bounds=FlushBounds(
                progress_max=settings.flush_batch_progress_max,
                entries_max=settings.flush_batch_updates_max,
                bytes_max=settings.flush_batch_bytes_max,
            ),
            claim_lease_s=settings.claim_lease_s,
            levels=make_level_rule(settings),
            experiences=experiences,
            lanes=settings.flush_lanes_max,
            on_flush=lambda report: _count(tally, report),
        )
        side_tasks = [
            asyncio.create_task(publisher.run(stop.requested), name="publish metrics"),
            asyncio.create_task(_watch_pending(hot, tally, stop.requested), name="count pending"),
            asyncio.create_task(
                _watch_dead_letters(settings.database_url, tally, stop.requested), name="count dead letters"
            ),
            asyncio.create_task(
                _make_sweeper(settings.database_url, experiences, tally).run(stop.requested), name="remove old events"
            ),
        ]
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if directory:
            report = keep_report(
                *(Path(directory), inheritance.process, "", lambda: Readiness(True, []), lambda: _figures(tally)),
                stop.requested,
            )
            side_tasks.append(asyncio.create_task(report, name="report"))
        collect_rarely()
        inheritance.report_ready()
        log.info("started")
        try:
            is_done = await _flush(flusher, stop, settings.final_flush_s)
        finally:
            for task in side_tasks:
                task.cancel()
            await asyncio.gather(*side_tasks, return_exceptions=True)
        publisher.publish()
    log.info("stopped", extra={"everything_flushed": is_done})
    return ExitCode.OK


def _make_sweeper(database_url: str, experiences: Mapping[str, ExperienceDefinition], tally: Tally) -> RetentionSweeper:
    days = {
        name: definition.privacy.event_retention_days
        for name, definition in experiences.items()
        if definition.privacy.event_retention_days is not None
    }

    def count(removed: int) -> None:
        tally.events_removed += removed

    # Unique for each life of each process: a lease of the last one is waited for.
    holder = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"
    return RetentionSweeper(database_url, days, holder=holder, on_removed=count)


async def _flush(flusher: Flusher, stop: StopRequest, final_flush_s: float) -> bool:
    """Until `stop`, then the final flush; an urgent stop cuts that short. True when nothing was left behind."""
    work = asyncio.create_task(flusher.run(stop.requested, final_flush_s=final_flush_s), name="flush")
    hurry = asyncio.create_task(stop.urgent.wait(), name="hurry")
    try:
        await asyncio.wait({work, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            # What is in flight may finish; a transaction that is cut off is rolled back and done again.
            await asyncio.wait({work}, timeout=min(ORPHAN_FLUSH_S, final_flush_s))
        if work.done():
            return work.result()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        return False
    finally:
        hurry.cancel()
        work.cancel()


async def _watch_pending(hot: HotStore, tally: Tally, stop: asyncio.Event) -> None:
    """Keep the gauges of what waits for Postgres, once a second."""
    while not stop.is_set():
        with suppress(PersistenceError):
            totals = await hot.count_pending()
            tally.pending_updates = totals.updates
            tally.pending_bytes = totals.bytes
            tally.oldest_pending_s = totals.oldest_s
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), PENDING_LOOK_INTERVAL_S)


async def _watch_dead_letters(database_url: str, tally: Tally, stop: asyncio.Event) -> None:
    """Keep the gauge of what Postgres refused. Rarely: a connection and a commit each time."""
    sql = queries("dead_letters")["count_dead_letters"]
    while not stop.is_set():
        with suppress(*POSTGRES_ERRORS):
            connection = await asyncpg.connect(
                database_url, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S
            )
            try:
                tally.dead_letters = await connection.fetchval(sql)
            finally:
                connection.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), DEAD_LETTERS_LOOK_INTERVAL_S)


def _figures(tally: Tally) -> dict[str, Any]:
    """What the overview of live-ops shows of this flusher, and of what all flushers have to do."""
    return {
        "saved": tally.updates_saved,
        "discards": tally.discards,
        "flushes": tally.flush_duration.counts,
        "pending_updates": tally.pending_updates,
        "pending_bytes": tally.pending_bytes,
        "oldest_pending_s": tally.oldest_pending_s,
        "dead_letters": tally.dead_letters,
    }


def _count(tally: Tally, report: FlushReport) -> None:
    tally.updates_saved += report.updates
    tally.discards += report.discards
    tally.write_latency.observe(report.write_s)
    tally.flush_duration.observe(report.duration_s)
    tally.flush_batch_updates.observe(report.updates)


def main() -> int:
    """As a supervised process: what is wrong is one line in the log, and an exit code the supervisor understands."""
    parser = argparse.ArgumentParser(prog="python -m gateway.app.run_flusher", allow_abbrev=False)
    add_arguments(parser)
    try:
        return run(parser.parse_args())
    except Exception as error:
        found = find_command_error(error)
        if found is None:
            raise
        print(found, file=sys.stderr)
        return int(found.exit_code)


if __name__ == "__main__":
    sys.exit(main())
