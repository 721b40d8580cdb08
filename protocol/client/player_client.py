"""
A player's client for asyncio: the session machine with a socket, a journal and a clock around it.

Promise: what `event` and `update` have returned is in the journal, synced, and will be accepted exactly once and in
order, however often the gateway or the network disappears; it is forgotten only when the server has saved it. The
client comes back by itself for ever, unless a close (42xx), `leave` or `stop` ends it. Every wait has a deadline.

It is cheap: one task and one timer for each player, so that one process can hold thousands. A slow socket is never
waited for: at most `WRITE_AHEAD_BYTES_MAX` are written ahead of it, the rest stays in the journal.

Not here: when to send what (machine.py), and what survives a crash (journal.py).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import json
import logging
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final

import msgpack
from pydantic_core import from_json
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed, InvalidState, InvalidURI, WebSocketException
from websockets.frames import CloseCode as SocketCloseCode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from protocol.client.journal import Journal, JournalBroken, MemoryJournal, new_device_id
from protocol.client.machine import (
    CLOSE_WAIT_MS,
    Abort,
    Accepted,
    Action,
    Answered,
    Connect,
    DropJournal,
    Forget,
    Hangup,
    Left,
    MachineState,
    More,
    NeedToken,
    Pushed,
    Refused,
    ResetStream,
    Resynced,
    Send,
    SessionMachine,
    Stopped,
    Suspended,
    SyncJournal,
    Voided,
    Welcomed,
    measure_msgpack,
)
from protocol.codec import Codec, codec_for, codec_named
from protocol.errors import FrameError
from protocol.limits import DECODE_ARRAY_MAX, DECODE_MAP_MAX, FRAME_BYTES_MAX, SEQ_MAX, UPDATE_BYTES_MAX

log = logging.getLogger("wayhold.client")

# A welcome carries a whole state, a page of history a hundred events: larger than any frame a client may send.
SERVER_FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
# Past this a provider of tokens counts as failed, and the client tries again later.
TOKEN_WAIT_S: Final = 15.0
# The part of its life after which a token is replaced.
TOKEN_LIFE_USED: Final = 0.8
QUERIES_MAX: Final = 32
WRITE_BUFFER_BYTES: Final = 64 * 1024

Token = str | Callable[[], str | Awaitable[str]]

# A Random of its own would be 2.5 KB for each player.
_RANDOM = Random()


class ClientStopped(Exception):
    """The client is closed: by a close code that told it to stay away (`code`), or because it was stopped (None)."""

    def __init__(self, code: int | None) -> None:
        self.code = code
        super().__init__("the client is stopped" if code is None else f"the server closed with {code}")


class UpdateRefused(ValueError):
    """This update can never be sent: it was not given a seq. The caller's fault."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"update refused: {reason}")


class QueryRefused(Exception):
    """The server answered a query with an error."""

    def __init__(self, code: int, name: str, message: str) -> None:
        self.code = code
        self.name = name
        self.message = message
        super().__init__(f"query refused: {code} {name}: {message}")


class PlayerListener:
    """
    What a client tells while it plays. Override what you need.

    Called in the client's loop, between its reads and writes: keep it cheap and synchronous. What it raises is logged
    and goes no further. `at_ms` is `time.monotonic()` in milliseconds.
    """

    def on_made(self, device: str, seq: int, frame: dict[str, Any]) -> None:
        """An update has its number and stands in the journal; it is synced before it is sent."""

    def on_unmade(self, device: str, seq: int) -> None:
        """The disk refused an update before it was ever sent: its number goes to the next one."""

    def on_accepted(self, device: str, seq: int, at_ms: float) -> None:
        """Everything up to `seq` is accepted."""

    def on_saved(self, device: str, seq: int) -> None:
        """Everything up to `seq` is saved."""

    def on_void(self, device: str, seq: int, code: int, message: str) -> None:
        """The server rejected this update; told once."""

    def on_resume(self, reason: str) -> None:
        """The client is back after a lost connection: "resumed", or why a new session began (`ended`, `lost`, …)."""

    def on_resync(self, reason: str) -> None:
        """The server rebuilt its copy: the state was replaced, what it does not know is sent again."""

    def on_stream_reset(self, old_device: str, new_device: str, renumbered: dict[int, int]) -> None:
        """The client goes on as a new device. Old seqs that are not in `renumbered` are in the server's hands."""

    def on_push(self, n: int, kind: str, data: Any, after: int | None) -> None:
        """The server tells something by itself."""

    def on_error(self, code: int, name: str, message: str) -> None:
        """An error frame that answers no query."""

    def on_close(self, code: int | None) -> None:
        """A connection ended: its close code, None when there was none."""

    def on_stopped(self, code: int | None) -> None:
        """The client will not come back by itself."""


class PlayerClient:
    """
    One player in one experience on one device. `start` it, then `event`, `update`, `query`; `leave` or `stop` it.
    """

    __slots__ = (
        "__weakref__",
        "_accepted_waiters",
        "_codec",
        "_connect_timeout_s",
        "_connection",
        "_journal",
        "_leaving",
        "_listener",
        "_loop",
        "_machine",
        "_next_connect",
        "_queries",
        "_query_count",
        "_renumbered",
        "_resets",
        "_run_task",
        "_saved_waiters",
        "_side_tasks",
        "_source_address",
        "_stop_code",
        "_suspending",
        "_timer",
        "_timer_at_s",
        "_token",
        "_token_life_s",
        "_token_of",
        "_token_since_s",
        "_turn",
        "_url",
        "_wake",
        "resumes",
        "welcomes",
    )

    def __init__(
        self,
        url: str,
        token: Token,
        experience: str,
        *,
        journal: Journal | None = None,
        device: str | None = None,
        codec: str = "msgpack",
        listener: PlayerListener | None = None,
        connect_timeout_s: float = 5.0,
        random: Random | None = None,
        source_address: tuple[str, int] | None = None,
        client: str | None = "wayhold-python",
    ) -> None:
        """
        `token` is called again whenever a fresh one is needed; a plain string can only be tried again. The journal
        stays the caller's: this client never closes it. One journal serves one client at a time.
        """
        if journal is None:
            journal = MemoryJournal(device)
        elif device is not None and journal.device != device:
            raise ValueError("the journal names another device")
        try:
            parse_uri(url)  # here, rather than for ever in the background
        except InvalidURI as invalid:
            raise ValueError(str(invalid)) from invalid
        self._url = url
        self._token_of = token
        self._journal = journal
        self._codec: Codec = codec_named(codec)
        self._listener = listener
        self._connect_timeout_s = connect_timeout_s
        self._source_address = source_address
        self._machine = SessionMachine(
            journal,
            experience,
            random=random or _RANDOM,
            measure=measure_msgpack if self._codec.name == "msgpack" else self._measure,
            client=client,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: _Socket | None = None
        self._run_task: asyncio.Task[None] | None = None
        self._side_tasks: set[asyncio.Task[None]] | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_at_s = 0.0  # kept here: uvloop answers a plain Handle, which cannot say, for what is due already
        self._wake: asyncio.Future[None] | None = None
        self._next_connect: Connect | None = None
        self._token: str | None = None
        self._token_since_s = 0.0
        self._token_life_s: float | None = None
        self._accepted_waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._saved_waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._turn: list[asyncio.Future[None]] = []  # who waits for the next welcome
        self._queries: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._query_count = 0
        self._leaving: asyncio.Future[bool] | None = None
        self._suspending: asyncio.Future[float] | None = None
        self._resets = 0
        self._renumbered: dict[int, int] = {}
        self._stop_code: int | None = None
        self.resumes = 0
        self.welcomes = 0

    # --- facts ------------------------------------------------------------------------------------------------------

    @property
    def accepted(self) -> int:
        return self._machine.accepted

    @property
    def saved(self) -> int:
        return self._journal.saved

    @property
    def made(self) -> int:
        return self._journal.made

    @property
    def pending(self) -> int:
        """How many updates are not accepted yet."""
        return self._journal.made - self._machine.accepted

    @property
    def device(self) -> str:
        return self._journal.device

    @property
    def stream(self) -> str:
        """The device id, which makes the stream."""
        return self._journal.device

    @property
    def journal(self) -> Journal:
        return self._journal

    @property
    def voids(self) -> dict[int, tuple[int, str]]:
        """The rejected updates that are not saved yet: seq → (code, message)."""
        return self._machine.voids

    @property
    def state(self) -> dict[str, Any]:
        """The state as the server gave it last (welcome or resync). Ask `query("state")` for what is accepted now."""
        return self._machine.document

    @property
    def version(self) -> int:
        return self._machine.version

    @property
    def session_id(self) -> str | None:
        return self._machine.session_id

    @property
    def rtt_ms(self) -> float | None:
        """How long the last ping took; None before the first."""
        return self._machine.rtt_ms

    @property
    def connected(self) -> bool:
        """In a session, as far as this side knows."""
        return self._connection is not None and self._machine.state in (MachineState.PLAYING, MachineState.SUSPENDED)

    @property
    def stopped(self) -> bool:
        return self._machine.state is MachineState.CLOSED

    @property
    def stop_code(self) -> int | None:
        """The close code that told this client to stay away; None if there was none."""
        return self._stop_code

    # --- playing ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """
        Begin to connect, and return at once; `wait_connected` waits. Raises RuntimeError if it is running already.
        """
        if self._run_task is not None and not self._run_task.done():
            raise RuntimeError("the client is running")
        self._loop = asyncio.get_running_loop()
        self._stop_code = None
        self._perform(self._machine.start())
        self._run_task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        """Close the socket and come to rest. The session lives on at the server, the updates in the journal."""
        self._perform(self._machine.stop())
        await self._wait_end()

    async def leave(self, timeout_s: float = 12.0) -> bool:
        """
        Send what is left, end the session, stop. True if the server says that everything is saved.

        False after `timeout_s`, or when the session ended otherwise: what is not saved is still in the journal.
        """
        if self._run_task is None or self.stopped:
            await self._wait_end()
            return self._journal.saved == self._journal.made
        assert self._loop is not None
        if self._leaving is None:
            self._leaving = self._loop.create_future()
            self._step(self._machine.leave(self._now_ms()))
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._leaving)
        except TimeoutError:
            return False
        finally:
            await self.stop()

    async def event(
        self,
        type: str,
        content_id: str | None = None,
        *,
        data: dict[str, Any] | None = None,
        at_ms: int | None = None,
        lat: float | None = None,
        lng: float | None = None,
        effects: list[dict[str, Any]] | None = None,
        durable: bool = False,
    ) -> int:
        """
        Something happened: journal it, sync it, send it. Answers its seq. `at_ms` is now unless it is given.

        Raises what `update` raises.
        """
        event: dict[str, Any] = {"type": type, "at": int(time.time() * 1000) if at_ms is None else at_ms}
        if content_id is not None:
            event["content_id"] = content_id
        if data is not None:
            event["data"] = data
        if lat is not None:
            event["lat"] = lat
        if lng is not None:
            event["lng"] = lng
        return await self.update(event, effects, durable)

    async def update(
        self,
        event: dict[str, Any] | None = None,
        effects: list[dict[str, Any]] | None = None,
        durable: bool = False,
    ) -> int:
        """
        One atomic step, as it is: journal it, sync it, send it. Works offline and before `start`.

        Cancelling does not take the update back: once it has a number it will be sent.

        Raises:
            UpdateRefused: it is too large or cannot be encoded; it has no seq.
            JournalFull: nothing was made; come back when the server has saved some.
            OSError, JournalBroken: the disk did not take it; it was taken back.
        """
        body: dict[str, Any] = {}
        if event is not None:
            body["event"] = event
        if effects is not None:
            body["effects"] = effects
        if durable:
            body["durable"] = True
        try:
            _check_sendable(event)
            _check_sendable(effects)
            payload: bytes = msgpack.packb(body)
            size_bytes = (
                measure_msgpack(payload, body) if self._codec.name == "msgpack" else self._measure(payload, body)
            )
        except (TypeError, ValueError, OverflowError, RecursionError) as refused:
            raise UpdateRefused(str(refused)) from refused
        if size_bytes > UPDATE_BYTES_MAX:
            raise UpdateRefused(f"{size_bytes} bytes encoded, {UPDATE_BYTES_MAX} are allowed")
        journal = self._journal
        seq = journal.append(payload)
        if self._listener is not None:
            self._tell("on_made", journal.device, seq, {"t": "update", "seq": seq, **body})
        if journal.synced < seq:
            seq = await self._sync_update(seq)
        self._step(self._machine.journal_synced(self._now_ms()))
        return seq

    async def wait_accepted(self, seq: int, timeout_s: float) -> None:
        """Return once everything up to `seq` is accepted. Raises TimeoutError, ClientStopped."""
        if self._machine.accepted < seq:
            await self._wait_for(self._accepted_waiters, seq, timeout_s)

    async def wait_saved(self, seq: int, timeout_s: float) -> None:
        """Return once everything up to `seq` is saved. Raises TimeoutError, ClientStopped."""
        if self._journal.saved < seq:
            await self._wait_for(self._saved_waiters, seq, timeout_s)

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once there is a session. Raises TimeoutError, ClientStopped."""
        async with asyncio.timeout(timeout_s):
            await self._wait_turn()

    async def query(self, of: str, args: dict[str, Any] | None = None, timeout_s: float = 5.0) -> dict[str, Any]:
        """
        Read from the server. Asked again over the next connection if this one is lost, and after a 2xx.

        Raises: QueryRefused, TimeoutError, ClientStopped; RuntimeError when too many queries are waiting.
        """
        if len(self._queries) >= QUERIES_MAX:
            raise RuntimeError(f"{QUERIES_MAX} queries are waiting for an answer")
        async with asyncio.timeout(timeout_s):
            while True:
                await self._wait_turn()
                assert self._loop is not None
                self._query_count += 1
                id = str(self._query_count)
                answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
                self._queries[id] = answer
                try:
                    self._step(self._machine.ask(id, of, args, self._now_ms()))
                    return await answer
                except _AskAgain as again:
                    retry_s = again.retry_s
                finally:
                    self._queries.pop(id, None)
                    self._machine.forget_query(id)
                if retry_s:
                    await asyncio.sleep(retry_s)

    async def suspend(self, expected_s: int, timeout_s: float = 5.0) -> float:
        """
        Go to the background: no heartbeats until `wake` or the next update. Answers for how long the session is kept.

        Raises: TimeoutError (the session is kept no longer than usual), ClientStopped.
        """
        async with asyncio.timeout(timeout_s):
            await self._wait_turn()
            assert self._loop is not None
            if self._suspending is None:
                self._suspending = self._loop.create_future()
            self._step(self._machine.suspend(expected_s, self._now_ms()))
            return await asyncio.shield(self._suspending)

    def wake(self) -> None:
        """
        Back from the background: learn within two seconds whether the connection still lives, or reconnect at once.
        """
        if self._run_task is not None:
            self._step(self._machine.wake(self._now_ms()))
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)

    def drop_connection(self) -> None:
        """Cut the socket without a word, as a dead network does: for load tests and tests."""
        if self._connection is not None:
            self._connection.transport.abort()

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        machine = self._machine
        try:
            while not self.stopped:
                plan, self._next_connect = self._next_connect, None
                assert plan is not None, "the machine says when to connect again, or is closed"
                if plan.after_ms:
                    await self._pause(plan.after_ms / 1000)
                if self.stopped:
                    break
                code = await self._connect_once(plan.fresh_token)
                if not self.stopped:
                    self._perform(machine.disconnected(code, self._now_ms()))
        finally:
            if self._connection is not None:
                self._connection.transport.abort()
                self._connection = None
            if not self.stopped:
                self._perform(machine.stop())
            self._come_to_rest()

    async def _connect_once(self, fresh_token: bool) -> int | None:
        """One connection from its opening to its end; answers its close code."""
        try:
            token = await self._get_token(fresh_token)
        except asyncio.CancelledError:
            raise
        except Exception as failed:
            log.warning("no token: %r", failed)
            return None
        try:
            connection = await connect(
                self._url,
                subprotocols=[Subprotocol(self._codec.subprotocol)],
                compression=None,
                proxy=None,
                open_timeout=self._connect_timeout_s,
                ping_interval=None,
                close_timeout=CLOSE_WAIT_MS / 1000,
                max_size=SERVER_FRAME_BYTES_MAX,
                write_limit=WRITE_BUFFER_BYTES,
                create_connection=_Socket,
                local_addr=self._source_address,
            )
        except (OSError, EOFError, ValueError, WebSocketException) as failed:
            log.debug("cannot connect to %s: %r", self._url, failed)
            return None
        assert isinstance(connection, _Socket)
        if self.stopped:
            connection.transport.abort()
            return None
        connection.client = self
        self._connection = connection
        codec = codec_for(connection.subprotocol)
        try:
            self._set_clock()
            self._step(self._machine.connected(token, self._now_ms(), self._find_refresh_ms()))
            return await self._read(connection, codec)
        finally:
            self._connection = None
            connection.client = None
            connection.transport.abort()
            self._fail_queries()

    async def _read(self, connection: _Socket, codec: Codec) -> int | None:
        machine = self._machine
        now_ms = self._now_ms
        code: int | None = None
        try:
            while True:
                message = await connection.recv()
                self._step(machine.received(decode_server_frame(codec, message), now_ms()))
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd is not None else None
        if self._listener is not None:
            self._tell("on_close", code)
        return code

    def _step(self, actions: list[Action]) -> None:
        self._perform(actions)
        self._arm()

    def _perform(self, actions: list[Action]) -> None:
        """Carry out what the machine decided, in order."""
        for action in actions:
            if type(action) is Send:
                self._write(action.frame)
            elif type(action) is Accepted:
                self._note_accepted(action.seq)
            elif type(action) is Forget:
                self._forget(action.seq)
            else:
                self._perform_rare(action)

    def _perform_rare(self, action: Action) -> None:
        machine, connection = self._machine, self._connection
        match action:
            case Voided(seq, code, message):
                self._tell("on_void", self._journal.device, seq, code, message)
            case Connect():
                self._next_connect = action
            case Abort(reason):
                log.debug("aborting: %s", reason)
                if connection is not None:
                    connection.transport.abort()
            case Hangup(code):
                if connection is not None:
                    connection.hang_up(code)
            case More():
                if connection is not None and not connection.paused and self._loop is not None:
                    self._loop.call_soon(self._on_writable, connection)
            case SyncJournal():
                self._sync_journal()
            case Welcomed(resumed, reason):
                self._note_welcome(resumed, reason)
            case Resynced(reason):
                self._tell("on_resync", reason)
            case ResetStream(keep_after, reason):
                self._reset_stream(keep_after, reason)
            case DropJournal():
                self._journal.reset(new_device_id(), self._journal.made)
                self._sync_journal()
            case NeedToken():
                self._spawn(self._refresh_token())
            case Pushed(n, kind, data, after):
                self._tell("on_push", n, kind, data, after)
            case Answered(id, data):
                answer = self._queries.get(id)
                if answer is not None and not answer.done():
                    answer.set_result(data if isinstance(data, dict) else {})
            case Refused():
                self._note_refused(action)
            case Suspended(expires_s):
                if self._suspending is not None and not self._suspending.done():
                    self._suspending.set_result(expires_s)
                self._suspending = None
            case Left(is_saved):
                if self._leaving is not None and not self._leaving.done():
                    self._leaving.set_result(is_saved)
            case Stopped(code):
                self._stop_code = code
                if self._wake is not None and not self._wake.done():
                    self._wake.set_result(None)
                self._tell("on_stopped", code)
            case _:
                raise AssertionError(f"no such action: {action} in {machine.state}")

    def _write(self, frame: dict[str, Any]) -> None:
        connection = self._connection
        if connection is None:
            return
        codec = codec_for(connection.subprotocol)
        # The one public way to write without waiting; the machine bounds how much that can be.
        broadcast((connection,), codec.encode(frame), text=codec.is_text)

    def _on_writable(self, connection: _Socket) -> None:
        if connection is self._connection and not connection.paused:
            self._step(self._machine.writable(self._now_ms()))

    def _arm(self) -> None:
        """
        See to it that `tick` comes in time. Deadlines mostly move away, so a timer that is too early is left alone
        and looks again when it fires: that is one timer per heartbeat instead of one per message.
        """
        at_ms = self._machine.find_next_tick_ms()
        if at_ms is None or self._loop is None:
            return
        at_s = at_ms / 1000
        timer = self._timer
        if timer is not None:
            if self._timer_at_s <= at_s:
                return
            timer.cancel()
        self._timer_at_s = at_s
        self._timer = self._loop.call_at(at_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        at_ms = self._machine.find_next_tick_ms()
        if at_ms is None:
            return
        now_ms = self._now_ms()
        if now_ms >= at_ms:
            self._set_clock()
            self._perform(self._machine.tick(now_ms))
        self._arm()

    async def _pause(self, after_s: float) -> None:
        """Wait, or until somebody wakes this client."""
        assert self._loop is not None
        wake = self._wake = self._loop.create_future()
        timer = self._loop.call_later(after_s, _resolve, wake)
        try:
            await wake
        finally:
            timer.cancel()
            self._wake = None

    async def _wait_end(self) -> None:
        task = self._run_task
        if task is None or task is asyncio.current_task():
            return
        _, running = await asyncio.wait([task], timeout=CLOSE_WAIT_MS / 1000 + 0.5)
        if running:
            task.cancel()
            await asyncio.wait([task])
        self._run_task = None
        if self._side_tasks:
            for side in list(self._side_tasks):
                side.cancel()
            await asyncio.wait(list(self._side_tasks), timeout=TOKEN_WAIT_S)
        if not task.cancelled() and (failed := task.exception()) is not None:
            raise failed

    def _come_to_rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        stopped = ClientStopped(self._stop_code)
        waiting: list[asyncio.Future[Any]] = [future for _, future in self._accepted_waiters + self._saved_waiters]
        waiting += self._turn + list(self._queries.values())
        if self._suspending is not None:
            waiting.append(self._suspending)
        for future in waiting:
            if not future.done():
                future.set_exception(stopped)
        if self._suspending is not None:
            self._suspending.exception()  # it may have nobody who waits for it any more
        self._accepted_waiters, self._saved_waiters, self._turn, self._suspending = [], [], [], None
        if self._leaving is not None:
            if not self._leaving.done():
                self._leaving.set_result(self._journal.saved == self._journal.made)
            self._leaving = None

    def _spawn(self, work: Any) -> None:
        """Run something beside the reader. This client owns it and waits for its end in `stop`."""
        assert self._loop is not None
        if self._side_tasks is None:
            self._side_tasks = set()
        task = self._loop.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    def _now_ms(self) -> int:
        return int(time.monotonic() * 1000) if self._loop is None else int(self._loop.time() * 1000)

    def _set_clock(self) -> None:
        self._machine.clock_offset_ms = int(time.time() * 1000) - self._now_ms()

    # --- what became of updates -------------------------------------------------------------------------------------

    def _note_accepted(self, seq: int) -> None:
        if self._listener is not None:
            self._tell("on_accepted", self._journal.device, seq, time.monotonic() * 1000)
        if self._accepted_waiters:
            self._accepted_waiters = _resolve_upto(self._accepted_waiters, seq)

    def _forget(self, seq: int) -> None:
        self._journal.forget(seq)
        if self._listener is not None:
            self._tell("on_saved", self._journal.device, seq)
        if self._saved_waiters:
            self._saved_waiters = _resolve_upto(self._saved_waiters, seq)

    def _note_welcome(self, resumed: bool, reason: str | None) -> None:
        self.welcomes += 1
        if resumed:
            self.resumes += 1
        if self.welcomes > 1:
            self._tell("on_resume", "resumed" if resumed else reason or "unknown")
        for future in self._turn:
            _resolve(future)
        self._turn = []

    def _note_refused(self, refused: Refused) -> None:
        if refused.id is None:
            self._tell("on_error", refused.code, refused.name, refused.message)
            return
        answer = self._queries.get(refused.id)
        if answer is None or answer.done():
            return
        if 200 <= refused.code < 300:
            answer.set_exception(_AskAgain((refused.retry_after_ms or 1000) / 1000))
        else:
            answer.set_exception(QueryRefused(refused.code, refused.name, refused.message))

    def _fail_queries(self) -> None:
        for answer in self._queries.values():
            if not answer.done():
                answer.set_exception(_AskAgain(0.0))
        if self._suspending is not None and not self._suspending.done():
            self._suspending.cancel()
            self._suspending = None

    def _reset_stream(self, keep_after: int, reason: str) -> None:
        old_device, new_device = self._journal.device, new_device_id()
        renumbered = self._journal.reset(new_device, keep_after)
        self._resets += 1
        self._renumbered = renumbered
        log.warning("stream reset (%s): %d updates go on as a new device", reason, len(renumbered))
        self._tell("on_stream_reset", old_device, new_device, renumbered)
        self._accepted_waiters = _renumber(self._accepted_waiters, renumbered)
        self._saved_waiters = _renumber(self._saved_waiters, renumbered)

    # --- the journal ------------------------------------------------------------------------------------------------

    async def _sync_update(self, seq: int) -> int:
        """Sync the update just made; answers its seq, which a stream reset in between may have changed."""
        device, resets = self._journal.device, self._resets
        try:
            await self._journal.sync()
        except (OSError, JournalBroken):
            self._tell("on_unmade", device, seq)
            raise
        return seq if resets == self._resets else self._renumbered.get(seq, seq)

    def _sync_journal(self) -> None:
        if self._journal.synced >= self._journal.made:
            self._perform(self._machine.journal_synced(self._now_ms()))
        else:
            self._spawn(self._sync_beside())

    async def _sync_beside(self) -> None:
        try:
            await self._journal.sync()
        except (OSError, JournalBroken) as failed:
            log.error("the journal cannot be synced, nothing new is sent: %r", failed)
            return
        self._step(self._machine.journal_synced(self._now_ms()))

    def _measure(self, payload: bytes, body: dict[str, Any]) -> int:
        return len(self._codec.encode({"t": "update", "seq": SEQ_MAX, **body}))

    # --- tokens -----------------------------------------------------------------------------------------------------

    async def _get_token(self, fresh: bool) -> str:
        if isinstance(self._token_of, str):
            return self._token_of
        used_up = self._token_life_s is not None and (
            time.monotonic() - self._token_since_s >= self._token_life_s * TOKEN_LIFE_USED
        )
        if self._token is None or fresh or used_up:
            async with asyncio.timeout(TOKEN_WAIT_S):
                token = self._token_of()
                if inspect.isawaitable(token):
                    token = await token
            self._token = token
            self._token_since_s = time.monotonic()
            self._token_life_s = find_token_life_s(token)
        return self._token

    def _find_refresh_ms(self) -> int | None:
        """When the token that was just used should be replaced."""
        if isinstance(self._token_of, str) or self._token_life_s is None:
            return None
        age_s = time.monotonic() - self._token_since_s
        return self._now_ms() + max(1_000, int((self._token_life_s * TOKEN_LIFE_USED - age_s) * 1000))

    async def _refresh_token(self) -> None:
        try:
            token = await self._get_token(fresh=True)
        except Exception as failed:
            # The session may go on without it for a while; at the latest the close that tells so asks again.
            log.warning("no fresh token: %r", failed)
            return
        self._step(self._machine.refresh(token, self._now_ms()))

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def _wait_for(self, waiters: list[tuple[int, asyncio.Future[None]]], seq: int, timeout_s: float) -> None:
        if self._run_task is None or self.stopped:
            raise ClientStopped(self._stop_code)
        assert self._loop is not None
        future = self._loop.create_future()
        waiters.append((seq, future))
        async with asyncio.timeout(timeout_s):
            await future

    async def _wait_turn(self) -> None:
        """Wait for a session to say something in."""
        while not self.connected or self._machine.is_closing:
            if self._run_task is None or self.stopped:
                raise ClientStopped(self._stop_code)
            assert self._loop is not None
            future = self._loop.create_future()
            self._turn.append(future)
            await future

    def _tell(self, name: str, *facts: Any) -> None:
        if self._listener is None:
            return
        try:
            getattr(self._listener, name)(*facts)
        except Exception:
            log.exception("the listener failed in %s", name)


class _AskAgain(Exception):
    """A query found no answer now: repeat it after this wait."""

    def __init__(self, retry_s: float) -> None:
        self.retry_s = retry_s
        super().__init__()


class _Socket(ClientConnection):
    """
    A connection that tells its client when it can be written again, and that does not wait for ever for the other
    side to close.
    """

    client: PlayerClient | None = None
    _close_timer: asyncio.TimerHandle | None = None

    def hang_up(self, code: int) -> None:
        """Begin to close; the reader sees the end, at the latest after `CLOSE_WAIT_MS`."""
        if self.protocol.state is State.OPEN:
            try:
                self.protocol.send_close(SocketCloseCode(code))
            except InvalidState:
                pass
            self.send_data()
        self._close_soon()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.protocol.state is not State.OPEN and self.protocol.state is not State.CONNECTING:
            self._close_soon()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.client is not None:
            self.client._on_writable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        super().connection_lost(exc)

    def _close_soon(self) -> None:
        if self._close_timer is None and self.protocol.state is not State.CLOSED:
            self._close_timer = self.loop.call_later(CLOSE_WAIT_MS / 1000, self.transport.abort)


def _check_sendable(value: Any) -> None:
    """
    Refuse what a codec would write but no gateway reads: it would answer "bad frame", and the step would be used up.
    What a gateway reads and rejects is its own business.
    """
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str:
                raise TypeError(f"a key is text, not {type(key).__name__}")
            if type(inner) not in _SCALARS:
                _check_sendable(inner)
    elif kind is list or kind is tuple:
        for inner in value:
            if type(inner) not in _SCALARS:
                _check_sendable(inner)
    elif value is not None and kind not in _SCALARS:
        raise TypeError(f"{kind.__name__} has no place in an update")


_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def decode_server_frame(codec: Codec, message: str | bytes) -> Any:
    """
    What the server sent, or None if it cannot be read: the machine knows what to do then.

    A frame from the server may be larger than one from a client (a welcome carries a whole state), so that the
    codec's own decoder, which is made for gateways, is only for those that it takes.
    """
    try:
        if len(message) <= FRAME_BYTES_MAX:
            return codec.decode(message)
        if codec.is_text or isinstance(message, str):
            return from_json(message, allow_inf_nan=False)
        return msgpack.unpackb(message, timestamp=0, max_array_len=DECODE_ARRAY_MAX, max_map_len=DECODE_MAP_MAX)
    except (FrameError, ValueError, OverflowError, TypeError, RecursionError, msgpack.UnpackException):
        return None


def find_token_life_s(token: str) -> float | None:
    """For how long a JWT is good, read from its own claims without judging them; None if it does not say."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        expires_s, issued_s = float(claims["exp"]), float(claims.get("iat", time.time()))
    except (binascii.Error, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    # By the difference, because the phone's clock may be hours off.
    life_s = expires_s - issued_s
    return life_s if 0 < life_s < 10 * 365 * 86_400 else None


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _resolve_upto(waiters: list[tuple[int, asyncio.Future[None]]], seq: int) -> list[tuple[int, asyncio.Future[None]]]:
    rest = []
    for waiter in waiters:
        if waiter[0] <= seq:
            _resolve(waiter[1])
        elif not waiter[1].done():
            rest.append(waiter)
    return rest


def _renumber(
    waiters: list[tuple[int, asyncio.Future[None]]], renumbered: dict[int, int]
) -> list[tuple[int, asyncio.Future[None]]]:
    """What is not in the new stream is in the server's hands: whoever waited for it may go on."""
    rest = []
    for seq, future in waiters:
        if seq in renumbered:
            rest.append((renumbered[seq], future))
        else:
            _resolve(future)
    return rest
