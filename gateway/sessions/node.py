"""
One node: the connections of this process, and the tasks that serve all of them together.

Promise: a player has at most one connection here; the newer one, by its number, wins at once. Every task is owned: a
flow ends with its connection, a service with the node, and none ends unseen. A fault in one connection is one log line
and one close. Nothing here is the only copy of anything: kill it at any line, and another node takes its players.

Not here: sockets (gateway.sockets) and when the process starts and stops (gateway.app).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from gateway.sessions import dispatch, pushes
from gateway.sessions.action_sweeper import ActionSweeper
from gateway.sessions.committer import Committer
from gateway.sessions.connection import Connection, Phase, Wire
from gateway.sessions.connection_log import ConnectionLog
from gateway.sessions.content_rules import make_content_rules
from gateway.sessions.drain import drain
from gateway.sessions.expiry import ExpirySweeper
from gateway.sessions.farewell import say_why_it_ended, take_close_notice
from gateway.sessions.faults import Goodbye, close_of
from gateway.sessions.gate import Gate
from gateway.sessions.hello_line import HelloLine
from gateway.sessions.hydrator import Hydrator
from gateway.sessions.latency import Latency
from gateway.sessions.leaving import leave
from gateway.sessions.pulse import Pulse
from gateway.sessions.recovery import recover
from gateway.sessions.rules import SessionRules
from gateway.sessions.timer_wheel import TICK_S, TimerWheel
from gateway.sessions.tokens import Tokens
from gateway.sessions.verdicts import take_full, take_outage, take_verdict
from gateway.sessions.viewing import Viewing
from gateway.sessions.watch import Watch
from gateway.telemetry.health import Health
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Tally
from persistence.cold.store import ColdStore
from persistence.errors import PersistenceError
from persistence.hot.shapes import CloseNotice, DrainNotice, ErasedNotice, MissedNotices, PushNotice, SavedNotice
from persistence.hot.store import HotStore
from persistence.leaderboards import Leaderboards
from persistence.player_progress import PlayerProgress
from protocol.closes import CloseCode
from protocol.codec import Codec
from protocol.entry import EntryIds
from protocol.experience import ExperienceDefinition
from protocol.frames import ResyncReason

OPENINGS_WIDTH = 12
"""
Hellos that ask Redis at once. Their answers come together, and each keeps this loop for a part of the 650 µs that a
player costs who comes back (measured with 5,000 at once, the handshake included): what the updates of those who play on
may have to wait for in one turn.
"""

LOOKS_WIDTH = 32
"""Flows of hellos that ask Redis for the first time: `OPENINGS_WIDTH` do at once, and the next are ready."""

READINGS_WIDTH = 192
"""Flows of hellos that read a progress from Postgres: all that goes into two reads, and half as many behind them."""

MAKINGS_WIDTH = 16
"""Flows of hellos that make a new player's rows: `hydrator.WIDTH` are made at once, and the next are ready."""

QUESTIONS_WIDTH = 64
"""
Queries that ask Redis at once, in flight together on one connection. Each waits for several turns of a busy loop, so
this many in a few turns is what is answered: where a turn took 40 ms, 300 queries a second stood in line for seconds
with twelve.
"""

COLD_QUESTIONS_WIDTH = 3
"""Queries that ask Postgres at once; apart from the others, because a slow Postgres must keep nobody from Redis."""

COMMITTER_STOP_S = 3.0
"""How long a stopping node waits for the call that is under way."""

log = get_logger("sessions")


class Node:
    """`start_services`, then `connect` for every socket, then `drain` and `stop`."""

    def __init__(
        self,
        rules: SessionRules,
        hot: HotStore,
        cold: ColdStore,
        tokens: Tokens,
        *,
        tally: Tally | None = None,
        definitions: Mapping[str, ExperienceDefinition] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.rules = rules
        self.name = rules.node
        self.hot = hot
        self.cold = cold
        self.tokens = tokens
        self.tally = tally if tally is not None else Tally()
        self.content_rules = make_content_rules(definitions or {}, self.tally)
        self.clock = clock if clock is not None else asyncio.get_running_loop().time
        self.health = Health(self.clock, rules.redis_high_water_share)
        self.wheel = TimerWheel(self.clock())
        self.entry_ids = EntryIds()
        self.hydrator = Hydrator(hot, cold, self.tally, self.clock)
        self.boards = Leaderboards(hot, cold)
        self.progress = PlayerProgress(
            hot,
            cold,
            caller=rules.node,
            hydrate=self.hydrator,
            boards=self.boards,
            on_read=self.note_read,
            definitions=definitions,
        )
        """Players' progress for whoever in this process is no player: what operators ask and do."""
        self.watch = Watch(self)
        self.openings = Gate(OPENINGS_WIDTH)
        self.looks = HelloLine(LOOKS_WIDTH, self.start_flow)
        self.readings = HelloLine(READINGS_WIDTH, self.start_flow)
        self.makings = HelloLine(MAKINGS_WIDTH, self.start_flow)
        self.questions = Gate(QUESTIONS_WIDTH)
        self.cold_questions = Gate(COLD_QUESTIONS_WIDTH)
        self.latency = Latency(self.tally)
        self.connection_log = ConnectionLog(self)
        self.viewing = Viewing(self)
        self.spectator: Viewing | None = None
        """Told of every update while somebody watches events or a player; else None."""
        self.committer = Committer(
            hot,
            clock=self.clock,
            on_verdict=take_verdict,
            on_full=take_full,
            on_outage=take_outage,
            on_fault=self.fail,
            latency=self.latency,
            gather_s=rules.gather_s,
        )
        self.connections: set[Connection] = set()
        self.players: dict[str, Connection] = {}  # by user id: those that were welcomed
        self.is_draining = False
        self._is_leaving = False
        self.broken = asyncio.Event()
        """A service of this node has ended by itself. Whoever runs the node should end it."""
        self._pongs: deque[tuple[float, Connection]] = deque()
        self._stop = asyncio.Event()
        self._services: list[asyncio.Task[None]] = []
        self._queries: set[asyncio.Task[None]] = set()

    def note_read(self, is_hot: bool) -> None:
        """A progress was looked for in Redis."""
        self.tally.hot_lookups["read"] += 1
        self.tally.hot_hits["read"] += is_hot

    def now_ms(self) -> int:
        """The wall clock: what happened when. Never what is due when."""
        return time.time_ns() // 1_000_000

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def start_flow(self, connection: Connection, flow: Coroutine[Any, Any, None], name: str) -> None:
        """Run a flow of a connection; it ends with the connection, and what it raises ends the connection."""
        task = asyncio.get_running_loop().create_task(self._run_flow(connection, flow), name=name)
        connection.task = task

    def start_services(self) -> None:
        services: list[tuple[str, Coroutine[Any, Any, None]]] = [
            ("committer", self.committer.run()),
            ("timers", self._turn_wheel()),
            ("notices", self._listen()),
            ("expiry", ExpirySweeper(self).run(self._stop)),
            ("actions", ActionSweeper(self).run(self._stop)),
            ("pulse", Pulse(self).run(self._stop)),
            ("watch", self.watch.run(self._stop)),
            ("viewing", self.viewing.run(self._stop)),
            ("connection log", self.connection_log.run(self._stop)),
        ]
        loop = asyncio.get_running_loop()
        self._services = [loop.create_task(service, name=name) for name, service in services]
        for task in self._services:
            task.add_done_callback(self._service_ended)

    async def drain(self, urgent: asyncio.Event) -> None:
        self._is_leaving = True
        await drain(self, urgent)

    async def drain_as_told(self, is_on: bool) -> None:
        """An operator empties this node, or lets it take players again. It stays, and says so by /readyz."""
        if self._is_leaving:
            return  # this process ends, whatever an operator wishes
        self.health.is_draining = self.is_draining = is_on
        log.warning("drain_asked", is_on=is_on, connections=len(self.connections))
        try:
            await self.hot.note_drained(self.name, is_on)
        except PersistenceError as error:
            log.info("drain_not_noted", error=str(error))
        if is_on and self.is_draining:  # not taken back meanwhile
            await drain(self, asyncio.Event())

    async def stop(self) -> None:
        """End every service. Connections must be closed before; what was in flight to Redis is waited for, briefly."""
        self._stop.set()
        self.is_draining = True
        self.looks.close()
        self.readings.close()
        self.makings.close()
        self.committer.stop()
        flows = [c.task for c in self.connections if c.task is not None]
        for task in [*flows, *self._queries]:
            task.cancel()
        committer = [task for task in self._services if task.get_name() == "committer"]
        if committer:
            await asyncio.wait(committer, timeout=COMMITTER_STOP_S)
        for task in self._services:
            task.cancel()
        ending = [*flows, *self._queries, *self._services]
        if ending:
            await asyncio.wait(ending, timeout=COMMITTER_STOP_S)
        await self.hydrator.close()
        await self.boards.close()

    # ── for sockets ─────────────────────────────────────────────────────────────────────────────────────────────────

    def connect(self, wire: Wire, codec: Codec) -> Connection:
        connection = Connection(self, wire, codec)
        self.connections.add(connection)
        return connection

    receive = staticmethod(dispatch.receive)

    @property
    def is_full(self) -> bool:
        """More sockets than this node should hold: the newest are told to come back."""
        return len(self.connections) > self.rules.connections_max

    # ── for flows ───────────────────────────────────────────────────────────────────────────────────────────────────

    def register(self, connection: Connection) -> None:
        """
        This connection holds its player now.

        Raises:
            Goodbye: one with a higher number does already.
        """
        user_id = connection.key.user_id
        older = self.players.get(user_id)
        if older is not None and older is not connection and older.is_open:
            if older.number > connection.number:
                raise Goodbye(CloseCode.REPLACED)
            older.end(CloseCode.REPLACED)
        self.players[user_id] = connection
        connection.welcomed = (self.now_ms(), connection.told)
        if self.spectator is not None:
            self.spectator.note_welcomed(connection)

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        user_id = connection.key.user_id
        if self.players.get(user_id) is connection:
            del self.players[user_id]
            if self.spectator is not None:
                self.spectator.note_gone(connection)
        self.latency.forget(connection)
        self.connection_log.note(connection)
        connection.drop_queue()
        connection.pings = []
        task, connection.task = connection.task, None
        if task is not None and task is not _current_task():
            task.cancel()

    def start_recovery(self, connection: Connection, reason: ResyncReason) -> None:
        connection.phase = Phase.RECOVERING
        connection.drop_queue()
        connection.answer_pings(None)
        connection.check_window()
        self.start_flow(connection, recover(connection, reason), "recovery")

    def start_farewell(self, connection: Connection) -> None:
        """The session is over; who knows why says so."""
        connection.phase = Phase.RECOVERING
        connection.drop_queue()
        self.start_flow(connection, say_why_it_ended(connection), "farewell")

    def start_leave(self, connection: Connection) -> None:
        connection.phase = Phase.LEAVING
        self.start_flow(connection, leave(connection), "leave")

    def start_query(self, connection: Connection, answering: Coroutine[Any, Any, None]) -> None:
        self._start_task(answering, "query")

    def _start_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Something short, with its own deadlines and its own way to say what went wrong."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._queries.add(task)
        task.add_done_callback(self._queries.discard)

    def await_pong(self, connection: Connection, within_s: float) -> None:
        """Answer the pings of this connection by then, looked at or not."""
        self._pongs.append((self.clock() + within_s, connection))

    def fail(self, connection: Connection, error: BaseException) -> None:
        """The one end of everything that goes wrong in a connection's own affairs."""
        close = close_of(error)
        if not close.is_expected:
            self.log_fault(connection, error)
        connection.end(close.code, close.retry_after_ms, close.message)

    def log_fault(self, connection: Connection, error: BaseException) -> None:
        log.error("connection_fault", progress=connection.key.member, phase=connection.phase.name, exc_info=error)

    async def _run_flow(self, connection: Connection, flow: Coroutine[Any, Any, None]) -> None:
        try:
            await flow
        except asyncio.CancelledError:
            # Whoever cancels has ended the connection, or the node ends and aborts it.
            raise
        except Exception as error:
            self.fail(connection, error)

    # ── services ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _turn_wheel(self) -> None:
        """All deadlines of all connections, and how late this loop is."""
        while not self._stop.is_set():
            before = self.clock()
            await asyncio.sleep(TICK_S)
            now = self.clock()
            self.health.note_lag(now - before - TICK_S)
            self.wheel.turn(now)
            pongs = self._pongs
            while pongs and pongs[0][0] <= now:
                connection = pongs.popleft()[1]
                if connection.pings and connection.is_open:
                    try:
                        connection.answer_pings(None)
                    except Exception as error:
                        self.fail(connection, error)

    async def _listen(self) -> None:
        """`saved`, as soon as a flusher has committed it; and who is no player any more."""
        async for notices in self.hot.notices(self.name):
            for notice in notices:
                if isinstance(notice, SavedNotice):
                    connection = self.players.get(notice.key.user_id)
                    if connection is not None and connection.key == notice.key:
                        try:
                            self._tell_saved(connection, notice)
                        except Exception as error:
                            self.fail(connection, error)
                elif isinstance(notice, PushNotice):
                    connection = self.players.get(notice.user_id)
                    if connection is not None:
                        try:
                            pushes.take_notice(connection, notice)
                        except Exception as error:
                            self.fail(connection, error)
                elif isinstance(notice, MissedNotices):
                    self._start_task(pushes.look_again(self), "look for pushes")
                elif isinstance(notice, CloseNotice):
                    take_close_notice(self, notice)
                elif isinstance(notice, DrainNotice):
                    self._start_task(self.drain_as_told(notice.is_on), "drain")
                elif isinstance(notice, ErasedNotice):
                    erased = self.players.get(notice.user_id)
                    if erased is not None:
                        erased.end(CloseCode.PLAYER_DELETED)
                        erased.welcomed = (0, 0)  # one that had ended already is not logged either
                    self.connection_log.forget_player(notice.user_id)
            if self._stop.is_set():
                return

    def _tell_saved(self, connection: Connection, notice: SavedNotice) -> None:
        seq = notice.saved.get(connection.device)
        if seq is not None and connection.phase in (Phase.PLAYING, Phase.RECOVERING, Phase.LEAVING):
            connection.tell_saved(seq)
            self.latency.note_saved(connection, seq, self.clock())
        waiter = connection.leave_saved
        # The version alone could be of another copy, made since by others.
        is_all_saved = (
            notice.saved_version >= connection.leave_version and connection.saved_told >= connection.leave_seq
        )
        if waiter is not None and not waiter.done() and is_all_saved:
            waiter.set_result(None)

    def _service_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._stop.is_set():
            return
        # A node without one of its services is worse than none: the process ends and the supervisor starts another.
        log.critical("service_ended", service=task.get_name(), exc_info=task.exception())
        self.health.is_broken = True
        self.broken.set()


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
