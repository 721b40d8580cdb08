"""
Health for balancers and people, metrics for machines: the part of the ops port that anybody who reaches it may read.
Under a supervisor ops-1 has the port; a gateway that runs alone answers these four by itself.

Promise: every answer is bounded in time and size, none scans a table, none waits for a store longer than a second. No
login and no secrets: whoever may connect may read it, so it listens on loopback unless told otherwise.

    /livez                   200 while the event loop answers
    /readyz                  200 or 503, {"status": "ready" | "not_ready", "reasons": […]}
    /health/player-progress  200, {"status": "healthy" | "degraded", "redis": "ok" | "error", "postgresql": "ok" |
    "error"}
    /metrics                 every process of this supervisor
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.telemetry.health import Health, Readiness
from gateway.telemetry.metrics import Publisher
from persistence.errors import PersistenceError

ASK_TIMEOUT_S = 1.0
REMEMBERED_S = 1.0
"""Health is asked for by several balancers at once; the stores are asked once."""
CONNECTIONS_MAX = 64
START_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 1.0
REQUEST_S = 15.0
"""How long a request may take to arrive, head and body: who sends nothing must not keep a place from a balancer."""
UNREAD_S = 30.0
"""How long somebody may leave an answer unread."""

Ask = Callable[[], Awaitable[object]]


class StoreHealth:
    """Whether both stores answer, asked at most once in a while."""

    def __init__(self, ask_redis: Ask, ask_postgres: Ask, clock: Callable[[], float]) -> None:
        self._ask_redis = ask_redis
        self._ask_postgres = ask_postgres
        self._clock = clock
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self.redis_error: str | None = None
        self.postgres_error: str | None = None

    async def refresh(self) -> None:
        async with self._asking:
            if self._clock() - self._asked_at < REMEMBERED_S:
                return
            self.redis_error, self.postgres_error = await asyncio.gather(
                _find_error(self._ask_redis), _find_error(self._ask_postgres)
            )
            self._asked_at = self._clock()


async def _find_error(ask: Ask) -> str | None:
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            await ask()
    except (PersistenceError, TimeoutError) as error:
        return str(error) or "no answer"
    return None


def make_ops_app(health: Health, stores: StoreHealth, publisher: Publisher) -> Starlette:
    """What a gateway without a supervisor answers."""
    return Starlette(routes=make_health_routes(health.judge, stores, publisher.render))


def make_health_routes(
    judge: Callable[[], Readiness], stores: StoreHealth, render_metrics: Callable[[], bytes]
) -> list[Route]:
    async def livez(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        readiness = judge()
        status = "ready" if readiness.is_ready else "not_ready"
        return JSONResponse(
            {"status": status, "reasons": readiness.reasons}, status_code=200 if readiness.is_ready else 503
        )

    async def player_progress(request: Request) -> Response:
        await stores.refresh()
        is_healthy = stores.redis_error is None and stores.postgres_error is None
        return JSONResponse(
            {
                "status": "healthy" if is_healthy else "degraded",
                "redis": "ok" if stores.redis_error is None else "error",
                "postgresql": "ok" if stores.postgres_error is None else "error",
            }
        )

    async def metrics(request: Request) -> Response:
        # Reads files of all processes: some milliseconds that players must not wait for.
        page = await asyncio.to_thread(render_metrics)
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/health/player-progress", player_progress),
        Route("/metrics", metrics),
    ]


class OpsServer:
    """Serves an app on a bound socket in this event loop."""

    def __init__(
        self,
        app: Starlette,
        listener: socket.socket,
        *,
        connections_max: int = CONNECTIONS_MAX,
        trusted_proxies: str = "",
    ) -> None:
        """`trusted_proxies`: addresses and networks by commas that may say for whom they ask. Nobody may otherwise."""
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                # Its own default would be an environment variable, or whoever is on this machine.
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=trusted_proxies,
                limit_concurrency=connections_max,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=round(STOP_TIMEOUT_S),
                h11_max_incomplete_event_size=16 * 1024,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(
            self._server.serve(sockets=[self._listener]), name="ops http"
        )
        listening = asyncio.ensure_future(self._server.listening.wait())
        await asyncio.wait({self._task, listening}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        if self._task is None:
            return
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._task}, timeout=STOP_TIMEOUT_S * 2)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=STOP_TIMEOUT_S)


class _Connection(H11Protocol):
    """Uvicorn's, which waits for ever for the first request and for who does not read: both end."""

    _due: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._due = _stopped(self._due)
        self._unread = _stopped(self._unread)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = _stopped(self._unread)

    def _watch_request(self) -> None:
        """The time runs from its first byte, or from the begin of the connection, to its last byte."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._due = _stopped(self._due)
        elif self._due is None:
            self._due = self.loop.call_later(REQUEST_S, self.transport.abort)


def _stopped(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None


class _Server(uvicorn.Server):
    """Signals belong to the process, not to one of its servers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
