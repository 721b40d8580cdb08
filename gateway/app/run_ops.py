"""
Run the ops process in the foreground: health, metrics, live-ops API and console on the ops port.

Its composition root: settings → stores → services → app → server, and the same backwards. A process of its own, so that
nobody who watches can slow down anybody who plays; it holds nothing that is not elsewhere, so it may die at any line.
Works under a supervisor (`python -m gateway.app.run_ops --worker 1`, see children.py) and, for a look at stores from
another machine, without one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from gateway.app.analytics_for_api import answer_analytics
from gateway.app.children import open_listeners
from gateway.app.errors import ExitCode, find_command_error
from gateway.app.experience_files import load_experiences
from gateway.app.launch import raise_file_limit
from gateway.app.ops_http import OpsServer, StoreHealth, make_health_routes
from gateway.app.ops_token import make_ops_token, remove_ops_token
from gateway.app.serve import require_server_urls
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.supervised import Inheritance, StopRequest, inherit
from gateway.app.version import get_version
from gateway.liveops.access import Access
from gateway.liveops.actions import LiveOpsActions
from gateway.liveops.app import make_app
from gateway.liveops.hosts import Hosts
from gateway.liveops.live.hub import LiveHub
from gateway.liveops.services import Services
from gateway.liveops.setup_key import SetupKey
from gateway.telemetry.health import Readiness
from gateway.telemetry.logs import get_logger, set_up_logs
from gateway.telemetry.metrics import render_all
from gateway.telemetry.node_report import NodeReport, judge_gateways, list_reports
from persistence.analytics import Analytics
from persistence.cold.store import ColdStore
from persistence.errors import PersistenceError
from persistence.hot.store import HotStore
from persistence.operators import Operators
from persistence.player_progress import PlayerProgress

DATABASE_CONNECTIONS = 6
REQUESTS_MAX = 512
"""Requests and live feeds at once; past it 503, so that memory has a bound."""

GC_THRESHOLDS = (10_000, 50, 100)
"""The rows of ten thousand sessions hold no cycles, and a search would wait for a full collection over them."""

log = get_logger("ops")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worker", type=int, default=1, metavar="I", help="its number, for logs")
    add_setting_flags(parser)


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    require_server_urls(settings, "the ops process")
    inheritance = inherit(f"ops-{args.worker}")
    set_up_logs(settings.log_level, settings.log_format, inheritance.process)
    raise_file_limit()
    main = run_ops(settings, inheritance)
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def run_ops(settings: Settings, inheritance: Inheritance) -> int:
    """Serve operators until asked to stop. Returns the exit code."""
    assert settings.redis_url is not None and settings.database_url is not None
    stop = StopRequest()
    stop.install(inheritance)
    listener = inheritance.ops_socket or open_listeners(settings.ops_host, settings.ops_port, 1, "ops")[0]
    reports_dir = os.environ.get("PROMETHEUS_MULTIPROC_DIR")

    def list_all_reports() -> list[NodeReport]:
        return list_reports(Path(reports_dir)) if reports_dir else []

    async with AsyncExitStack() as stack:
        local_token = ""
        if inheritance.lifeline_fd is not None and not inheritance.is_production:
            local_token = make_ops_token(settings.data_dir)
            stack.callback(remove_ops_token, settings.data_dir, local_token)
        app, services = await open_ops_app(
            stack,
            settings,
            list_all_reports,
            is_production=inheritance.is_production,
            setup_key=SetupKey(inheritance.setup_key, inheritance.setup_until_s),
            local_token=local_token,
        )
        server = OpsServer(app, listener, connections_max=REQUESTS_MAX, trusted_proxies=settings.ops_trusted_proxies)
        await server.start()
        stack.push_async_callback(server.stop)
        # What was imported and built until here lives as long as the process: no collection needs to look at it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        ops_port = int(listener.getsockname()[1])
        inheritance.report_ready(ops_port=ops_port, needs_setup=await _needs_setup(services.operators))
        log.info("started", ops_port=ops_port)
        await stop.requested.wait()
    log.info("stopped")
    return ExitCode.OK


async def open_ops_app(
    stack: AsyncExitStack,
    settings: Settings,
    list_all_reports: Callable[[], list[NodeReport]],
    *,
    is_production: bool,
    setup_key: SetupKey,
    local_token: str = "",
) -> tuple[FastAPI, Services]:
    """The app with all that it stands on, running; `stack` ends it in the right order."""
    assert settings.redis_url is not None and settings.database_url is not None
    definitions = load_experiences(settings)
    clock = time.monotonic

    def judge() -> Readiness:
        return judge_gateways(list_all_reports(), settings.workers, clock())

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
    cold = await ColdStore.open(settings.database_url, pool_max=DATABASE_CONNECTIONS)
    stack.push_async_callback(cold.close)
    analytics = await Analytics.open(settings.database_url)
    stack.push_async_callback(analytics.close)
    operators = Operators(cold)
    stores = StoreHealth(hot.time_ms, cold.ping, clock)

    async def ask_health() -> dict[str, str]:
        await stores.refresh()
        said = {"redis": stores.redis_error, "postgresql": stores.postgres_error}
        return {name: "ok" if error is None else "error" for name, error in said.items()}

    hub = LiveHub(hot, list_all_reports, clock=clock)
    services = Services(
        hot=hot,
        cold=cold,
        analytics=analytics,
        progress=PlayerProgress(hot, cold, caller="live-ops", definitions=definitions),
        operators=operators,
        access=Access(operators, clock, local_token),
        redis_url=settings.redis_url,
        database_url=settings.database_url,
        definitions=definitions,
        clock=clock,
        hub=hub,
        ask_health=ask_health,
        answer_analytics=partial(answer_analytics, analytics, definitions),
        judge=judge,
        list_reports=list_all_reports,
        is_production=is_production,
        version=get_version(),
        setup_key=setup_key,
    )
    hub.refresh = services.refresh_health
    actions = LiveOpsActions(hot, cold, settings.database_url, progress=services.progress)
    services.extras["actions"] = actions
    stack.push_async_callback(actions.close)
    ended = asyncio.Event()
    for work, name in ((actions.run(ended), "actions"), (hub.run(ended), "live")):
        stack.push_async_callback(_end, asyncio.create_task(work, name=name), ended)
    hosts = Hosts(settings.ops_host, settings.ops_hosts)
    return make_app(services, make_health_routes(judge, stores, render_all), hosts), services


async def _end(task: asyncio.Task[None], ended: asyncio.Event) -> None:
    ended.set()
    await asyncio.wait({task}, timeout=2.0)
    task.cancel()


async def _needs_setup(operators: Operators) -> bool:
    try:
        return await operators.count() == 0
    except PersistenceError as error:
        log.warning("operators_not_counted", error=str(error))
        return False


def main() -> int:
    """As a supervised process: what is wrong is one line in the log, and an exit code the supervisor understands."""
    parser = argparse.ArgumentParser(prog="python -m gateway.app.run_ops", allow_abbrev=False)
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
