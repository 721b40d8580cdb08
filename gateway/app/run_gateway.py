"""
Run one gateway in the foreground: the process that players' sockets end in.

The composition root of a gateway: settings → stores → sessions → sockets → ops port, and the same backwards. Works
under a supervisor (`python -m gateway.app.run_gateway --worker I`, see children.py), which has looked at the servers
and bound the ports, and without one, where it does both itself.

SIGTERM: not ready any more, nobody new comes in, everybody is told and moved within drain_s, then the process ends.
What was accepted is in Redis, whatever happens here.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import secrets
import socket
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.app.checks import check_postgres, check_redis
from gateway.app.children import open_listeners
from gateway.app.errors import ExitCode, find_command_error
from gateway.app.experience_files import load_experiences
from gateway.app.launch import count_connections_possible, raise_file_limit
from gateway.app.serve import require_server_urls
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.supervised import Inheritance, StopRequest, inherit
from gateway.sessions.node import Node
from gateway.sessions.rules import SessionRules
from gateway.sessions.tokens import Tokens
from gateway.sockets.play_server import PlayServer, PlaySettings
from gateway.telemetry.logs import get_logger, set_up_logs
from gateway.telemetry.metrics import Publisher, Tally
from gateway.telemetry.node_report import keep_report
from persistence.cold.store import ColdStore
from persistence.errors import PersistenceError
from persistence.hot.store import HotStore

POSTGRES_LOOK_S = 2.0
ACTIVE_PLAYERS_LOOK_S = 10.0

ORPHAN_DRAIN_S = 1.0
"""Without a supervisor there is nobody to come back to for a while: say so and go."""

HANG_UP_S = 0.5

GC_THRESHOLDS = (5_000, 500, 100)
"""
Connections hold few cycles, and a full collection over ten thousand of them takes longer than an ack may: so the older
generations are looked at rarely. The youngest is small: with 50,000 objects one collection stopped the loop for 40 to
150 ms while a crowd came back, with 5,000 for 4 to 25. 2,000 players at saturation make two in 10 s.
"""

log = get_logger("gateway")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worker", type=int, default=1, metavar="I", help="its number, for logs and metrics")
    add_setting_flags(parser)


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    require_server_urls(settings, "gateway")
    inheritance = inherit(f"gateway-{args.worker}")
    set_up_logs(settings.log_level, settings.log_format, inheritance.process)
    raise_file_limit()
    possible = count_connections_possible(settings.connections_max)
    if possible < settings.connections_max:
        # Past it, accepting would fail; this way whoever is too much is told to come back.
        log.info("connections_max_lowered", connections_max=possible, why="open files (ulimit -n)")
        settings = replace(settings, connections_max=possible)
    main = run_gateway(settings, inheritance, worker=args.worker)
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def run_gateway(settings: Settings, inheritance: Inheritance, *, worker: int) -> int:
    """Serve players until asked to stop. Returns the exit code."""
    assert settings.redis_url is not None and settings.database_url is not None
    stop = StopRequest()
    stop.install(inheritance)
    tokens = Tokens(settings.get_jwt_secret(), issuer=settings.jwt_issuer, audience=settings.jwt_audience)
    definitions = load_experiences(settings)
    warnings = [inheritance.redis_warning] if inheritance.redis_warning else []
    if inheritance.lifeline_fd is None:
        risks = await check_redis(settings.redis_url, allow_volatile=settings.allow_volatile_redis)
        warnings += [risks] if isinstance(risks, str) and risks else []
        await check_postgres(settings.database_url, is_migrated_later=False)
    play_socket, ops_socket = _sockets(settings, inheritance, worker)

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
        cold = await ColdStore.open(settings.database_url, pool_max=settings.database_connections_max)
        stack.push_async_callback(cold.close)

        tally = Tally()
        node = Node(
            session_rules(settings, inheritance.process), hot, cold, tokens, tally=tally, definitions=definitions
        )
        node.health.warnings = warnings
        server = PlayServer(play_settings(settings), wheel=node.wheel, connect=node.connect, clock=node.clock)
        node.start_services()
        stack.push_async_callback(node.stop)

        def set_gauges() -> None:
            tally.connections = server.admission.connections
            tally.sessions = len(node.players)
            node.health.is_full = server.admission.is_nearly_full

        node.viewing.read_figures = lambda: _figures(node)
        publisher = Publisher(tally, set_gauges)
        ended = asyncio.Event()
        side_tasks = [asyncio.create_task(publisher.run(ended), name="publish metrics")]
        stack.push_async_callback(_end, side_tasks, ended)
        if worker == 1:
            side_tasks.append(asyncio.create_task(_watch_postgres(node, ended), name="watch postgres"))
            side_tasks.append(asyncio.create_task(_count_active_players(node, ended), name="count active players"))
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if directory:
            report = keep_report(
                *(Path(directory), inheritance.process, node.name, node.health.judge, lambda: _figures(node), ended)
            )
            side_tasks.append(asyncio.create_task(report, name="report"))
        if ops_socket is not None:
            # Under a supervisor another process has the ops port, and this one starts sooner without a web framework.
            from gateway.app.ops_http import OpsServer, StoreHealth, make_ops_app

            stores = StoreHealth(hot.time_ms, cold.ping, node.clock)
            ops = OpsServer(make_ops_app(node.health, stores, publisher), ops_socket)
            await ops.start()
            stack.push_async_callback(ops.stop)

        await server.start(play_socket)
        node.health.is_started = True
        # What was imported and built until here lives as long as the process: no collection needs to look at it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        play_port = _port(play_socket)
        inheritance.report_ready(play_port=play_port, ops_port=_port(ops_socket))
        log.info("started", node=node.name, play_port=play_port, ops_port=_port(ops_socket))

        await _until_either(stop.requested, node.broken)

        node.health.is_draining = True
        server.stop_listening()
        log.info("draining", connections=len(node.connections), is_orphan=stop.is_orphan)
        urgent = stop.urgent
        try:
            async with asyncio.timeout(ORPHAN_DRAIN_S if stop.is_orphan else settings.drain_s):
                await node.drain(urgent)
        except TimeoutError:
            pass
        # Those who were told have their close frame; they hang up when they have read it.
        await server.wait_empty(0.0 if urgent.is_set() else HANG_UP_S)
        left = server.abort_all()
        log.info("drained", cut_off=left)
    log.info("stopped")
    return ExitCode.BAD_VERDICT if node.broken.is_set() and not stop.requested.is_set() else ExitCode.OK


def session_rules(settings: Settings, process: str) -> SessionRules:
    return SessionRules(
        # Unique for each life of each process: a notice for the last one must not reach the next.
        node=f"{socket.gethostname()[:40]}-{process}-{os.getpid()}-{secrets.token_hex(3)}",
        heartbeat_s=settings.heartbeat_s,
        hello_timeout_s=settings.hello_timeout_s,
        session_expiry_s=settings.session_expiry_s,
        window=settings.window,
        gather_s=settings.gather_s,
        updates_per_s=settings.updates_per_s,
        updates_burst=settings.updates_burst,
        # Sockets are aborted at drain_s; the last of them should have been asked before.
        drain_s=settings.drain_s * 0.8,
        connections_max=settings.connections_max,
        redis_high_water_share=settings.redis_high_water_share,
    )


def play_settings(settings: Settings) -> PlaySettings:
    return PlaySettings(
        hello_timeout_s=settings.hello_timeout_s,
        connections_max=settings.connections_max,
        connections_per_address_max=settings.connections_per_address_max,
        handshakes_per_s=settings.handshakes_per_s,
        out_queue_bytes_max=settings.out_queue_bytes_max,
        origins=settings.origins,
    )


def _sockets(settings: Settings, inheritance: Inheritance, worker: int) -> tuple[socket.socket, socket.socket | None]:
    """Those of the supervisor, or our own when there is none."""
    if inheritance.lifeline_fd is not None:
        assert inheritance.play_socket is not None, "a supervised gateway is handed its port"
        return inheritance.play_socket, inheritance.ops_socket
    play = open_listeners(settings.play_host, settings.play_port, 1, "play")[0]
    ops = open_listeners(settings.ops_host, settings.ops_port, 1, "ops")[0] if worker == 1 else None
    return play, ops


def _port(listener: socket.socket | None) -> int | None:
    return None if listener is None else int(listener.getsockname()[1])


def _figures(node: Node) -> dict[str, Any]:
    """What the overview of live-ops shows of this gateway."""
    tally = node.tally
    return {
        "connections": tally.connections or 0,
        "sessions": tally.sessions or 0,
        "accepted": tally.updates_accepted,
        "void": tally.updates_void,
        "repeated": tally.updates_repeated,
        "resumes": tally.resumes,
        "resyncs": tally.resyncs,
        "ack_waits": tally.ack_latency.counts,
        "saved_waits": tally.saved_latency.counts,
        "errors": tally.errors.total(),
        "closes": {str(int(code)): count for code, count in tally.closes.items()},
        "lag_ms": round(node.health.lag_s * 1000, 1),
        "is_draining": node.is_draining,
        "active_players": tally.active_players,
        "redis_share": node.health.redis_share,
    }


async def _watch_postgres(node: Node, ended: asyncio.Event) -> None:
    """Whether Postgres answers: a reason on /readyz, never a refusal."""
    while not ended.is_set():
        try:
            await node.cold.ping()
        except Exception as error:
            if not isinstance(error, PersistenceError):
                log.error("postgres_look_failed", exc_info=True)
            node.health.note_postgres(str(error))
        else:
            node.health.note_postgres(None)
        await _pause(ended, POSTGRES_LOOK_S)


async def _count_active_players(node: Node, ended: asyncio.Event) -> None:
    """The gauge of active players, over all nodes and experiences: every node tells the same number."""
    while not ended.is_set():
        try:
            node.tally.active_players = await node.hot.count_all_active_players()
        except Exception as error:
            if not isinstance(error, PersistenceError):
                log.error("active_players_look_failed", exc_info=True)
            node.tally.active_players = None
        await _pause(ended, ACTIVE_PLAYERS_LOOK_S)


async def _until_either(first: asyncio.Event, second: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in (first, second)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _pause(ended: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:
        pass


async def _end(tasks: list[asyncio.Task[None]], ended: asyncio.Event) -> None:
    ended.set()
    await asyncio.wait(tasks, timeout=2.0)
    for task in tasks:
        task.cancel()


def main() -> int:
    """As a supervised process: what is wrong is one line in the log, and an exit code the supervisor understands."""
    parser = argparse.ArgumentParser(prog="python -m gateway.app.run_gateway", allow_abbrev=False)
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
