"""
The driver of the session machine: a socket, a journal and a clock around it, for asyncio.

It is cheap: one task and one timer for each player, so that one process can hold thousands. A slow socket is never
waited for: at most `WRITE_AHEAD_BYTES_MAX` are written ahead of it at once, and nothing once it says that it is full;
the rest stays in the journal. Every wait has a deadline.

Not here: what a game calls (player_client.py), when to send what (machine.py), what survives a crash (journal.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from random import Random
from typing import Any

from websockets.exceptions import WebSocketException

from protocol.client.client_errors import ClientStopped
from protocol.client.client_socket import OpenSocket, PlayerSocket, decode_server_frame, open_client_socket
from protocol.client.journal import Journal, JournalBroken, new_device_id
from protocol.client.listener import PlayerListener
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
from protocol.client.outbox import PLAIN_ACCEPTED, PLAIN_SAVED
from protocol.client.token_source import TOKEN_WAIT_S, Token, TokenSource
from protocol.client.waiting import Waiting, resolve
from protocol.codec import MSGPACK, PLAIN_BYTES_MAX, Codec, codec_for, codec_named
from protocol.limits import SEQ_MAX

log = logging.getLogger("wayhold.client")

# A Random of its own would be 2.5 KB for each player.
_RANDOM = Random()


class ClientDriver:
    """Everything of a client but its public face."""

    __slots__ = (
        "__weakref__",
        "_codec",
        "_connect_timeout_s",
        "_connection",
        "_is_fill_due",
        "_is_performing",
        "_journal",
        "_listener",
        "_loop",
        "_machine",
        "_next_connect",
        "_open_socket",
        "_packed",
        "_query_count",
        "_renumbered",
        "_resets",
        "_run_task",
        "_side_tasks",
        "_stop_code",
        "_stop_reason",
        "_timer",
        "_timer_at_s",
        "_tokens",
        "_url",
        "_waiting",
        "_wake",
        "_wall_clock_s",
        "resumes",
        "source_address",
        "welcomes",
    )

    def __init__(
        self,
        url: str,
        token: Token,
        experience: str,
        *,
        journal: Journal,
        codec: str,
        listener: PlayerListener | None,
        connect_timeout_s: float,
        random: Random | None,
        source_address: tuple[str, int] | None,
        client: str | None,
        open_socket: OpenSocket = open_client_socket,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._open_socket = open_socket
        self._wall_clock_s = wall_clock_s
        self._tokens = TokenSource(token)
        self._journal = journal
        self._codec: Codec = codec_named(codec)
        self._listener = listener
        self._connect_timeout_s = connect_timeout_s
        self.source_address = source_address  # of the next connection
        self._machine = SessionMachine(
            journal,
            experience,
            random=random or _RANDOM,
            measure=measure_msgpack if self._codec.name == "msgpack" else self._measure,
            client=client,
            is_token_constant=self._tokens.is_constant,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: PlayerSocket | None = None
        self._packed: PlayerSocket | None = None  # the same, if it speaks msgpack
        self._run_task: asyncio.Task[None] | None = None
        self._side_tasks: set[asyncio.Task[None]] | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_at_s = 0.0  # kept here: uvloop answers a plain Handle, which cannot say, for what is due already
        self._wake: asyncio.Future[None] | None = None
        self._next_connect: Connect | None = None
        self._waiting = Waiting()
        self._is_performing = False
        self._is_fill_due = False  # an update was made meanwhile
        self._query_count = 0
        self._resets = 0
        self._renumbered: dict[int, int] = {}
        self._stop_code: int | None = None
        self._stop_reason: str | None = None
        self.resumes = 0
        self.welcomes = 0

    @property
    def connected(self) -> bool:
        """In a session, as far as this side knows."""
        return self._connection is not None and self._machine.state in (MachineState.PLAYING, MachineState.SUSPENDED)

    @property
    def stopped(self) -> bool:
        return self._machine.state is MachineState.CLOSED

    # --- the loop ----------------------------------------------------------------------------------------------------

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
                self._connection.abort()
                self._connection = self._packed = None
            if not self.stopped:
                self._perform(machine.stop())
            self._come_to_rest()

    async def _connect_once(self, fresh_token: bool) -> int | None:
        """One connection from its opening to its end; answers its close code."""
        try:
            token = await self._tokens.get(fresh_token)
        except asyncio.CancelledError:
            raise
        except Exception as failed:
            log.warning("no token: %r", failed)
            return None
        try:
            connection = await self._open_socket(
                self._url, self._codec.subprotocol, self._connect_timeout_s, self.source_address
            )
        except (OSError, EOFError, ValueError, WebSocketException) as failed:
            log.debug("cannot connect to %s: %r", self._url, failed)
            return None
        if self.stopped:
            connection.abort()
            return None
        connection.on_writable = self._on_writable
        self._connection = connection
        codec = codec_for(connection.subprotocol)
        self._packed = connection if codec is MSGPACK and self._codec is MSGPACK else None
        try:
            self._set_clock()
            self._step(self._machine.connected(token, self._now_ms(), self._find_refresh_ms()))
            return await self._read(connection, codec)
        finally:
            self._connection = self._packed = None
            connection.on_writable = None
            connection.abort()
            self._waiting.note_disconnected()

    async def _read(self, connection: PlayerSocket, codec: Codec) -> int | None:
        machine, is_packed = self._machine, codec is MSGPACK
        assert self._loop is not None
        now_s = self._loop.time

        def receive(message: str | bytes) -> None:
            now_ms = int(now_s() * 1000)
            # Nearly every frame is an ack or a `saved` from which nothing follows but a number.
            if is_packed and type(message) is bytes and len(message) <= PLAIN_BYTES_MAX:
                ack = MSGPACK.decode_ack(message)
                news: int | None = None
                if ack is not None:
                    seq, version, saved = ack
                    news = machine.heard_plain_ack(seq, version, saved, now_ms)
                elif (told := MSGPACK.decode_saved(message)) is not None and machine.heard_plain_saved(told, now_ms):
                    saved, news = told, PLAIN_SAVED
                if news is not None:
                    if news & PLAIN_ACCEPTED:
                        self._note_accepted(seq)
                    if news & PLAIN_SAVED:
                        self._forget(saved)
                    # What was heard moves deadlines away, and the timer looks again when it fires.
                    if self._timer is None:
                        self._arm()
                    return
            self._step(machine.received(decode_server_frame(codec, message), now_ms))

        code = await connection.read_all(receive)
        if self._listener is not None:
            self._tell("on_close", code)
        return code

    def _step(self, actions: list[Action]) -> None:
        self._perform(actions)
        self._arm()

    def _perform(self, actions: list[Action]) -> None:
        """
        Carry out what the machine decided, in order. A listener may make an update in the middle of it: that goes after
        what the machine has decided to send before.
        """
        was_performing, self._is_performing = self._is_performing, True
        try:
            for action in actions:
                if type(action) is Send:
                    self._write(action.frame)
                elif type(action) is Accepted:
                    self._note_accepted(action.seq)
                elif type(action) is Forget:
                    self._forget(action.seq)
                else:
                    self._perform_rare(action)
        finally:
            self._is_performing = was_performing
        if self._is_fill_due and not was_performing:
            self._is_fill_due = False
            self._perform(self._machine.journal_synced(self._now_ms()))

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
                    connection.abort()
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
                self._tell("on_state", machine.document, machine.version, machine.accepted)
            case Resynced(reason):
                self._tell("on_resync", reason)
                self._tell("on_state", machine.document, machine.version, machine.accepted)
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
                self._waiting.answer(id, data)
            case Refused():
                if action.id is None:
                    self._tell("on_error", action.code, action.name, action.message)
                else:
                    self._waiting.refuse(action.id, action)
            case Suspended(expires_s):
                self._waiting.note_suspended(expires_s)
            case Left(is_saved):
                self._waiting.note_left(is_saved)
            case Stopped(code, reason):
                self._stop_code, self._stop_reason = code, reason
                if reason is not None:
                    log.error("%s", ClientStopped(code, reason))
                if self._wake is not None and not self._wake.done():
                    self._wake.set_result(None)
                self._tell("on_stopped", code)
            case _:
                raise AssertionError(f"no such action: {action} in {machine.state}")

    def _write(self, frame: dict[str, Any]) -> None:
        connection = self._connection
        if connection is not None:
            codec = codec_for(connection.subprotocol)
            connection.write(codec.encode(frame), codec.is_text)
            if connection.paused:
                self._machine.note_choked()

    def _on_writable(self, connection: PlayerSocket) -> None:
        if connection is self._connection and not connection.paused:
            self._step(self._machine.writable(self._now_ms()))

    # --- time --------------------------------------------------------------------------------------------------------

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
        timer = self._loop.call_later(after_s, resolve, wake)
        try:
            await wake
        finally:
            timer.cancel()
            self._wake = None

    def _now_ms(self) -> int:
        return int(time.monotonic() * 1000) if self._loop is None else int(self._loop.time() * 1000)

    def _set_clock(self) -> None:
        self._machine.clock_offset_ms = int(self._wall_clock_s() * 1000) - self._now_ms()

    # --- the end -----------------------------------------------------------------------------------------------------

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
        stopped = ClientStopped(self._stop_code, self._stop_reason)
        self._waiting.come_to_rest(stopped, self._journal.saved == self._journal.made)

    def _spawn(self, work: Any) -> None:
        """Run something beside the reader. This client owns it and waits for its end in `stop`."""
        assert self._loop is not None
        if self._side_tasks is None:
            self._side_tasks = set()
        task = self._loop.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    # --- what became of updates --------------------------------------------------------------------------------------

    def _note_accepted(self, seq: int) -> None:
        if self._listener is not None:
            try:
                self._listener.on_accepted(self._journal.device, seq, time.monotonic() * 1000)
            except Exception:
                log.exception("the listener failed in on_accepted")
        if self._waiting.accepted.waiting:
            self._waiting.accepted.resolve_upto(seq)

    def _forget(self, seq: int) -> None:
        self._journal.forget(seq)
        if self._listener is not None:
            try:
                self._listener.on_saved(self._journal.device, seq)
            except Exception:
                log.exception("the listener failed in on_saved")
        if self._waiting.saved.waiting:
            self._waiting.saved.resolve_upto(seq)

    def _note_welcome(self, resumed: bool, reason: str | None) -> None:
        self.welcomes += 1
        if resumed:
            self.resumes += 1
        if self.welcomes > 1:
            self._tell("on_resume", "resumed" if resumed else reason or "unknown")
        self._waiting.note_welcome()

    def _reset_stream(self, keep_after: int, reason: str) -> None:
        old_device, new_device = self._journal.device, new_device_id()
        renumbered = self._journal.reset(new_device, keep_after)
        self._resets += 1
        self._renumbered = renumbered
        log.warning("stream reset (%s): %d updates go on as a new device", reason, len(renumbered))
        self._tell("on_stream_reset", old_device, new_device, renumbered)
        self._waiting.renumber(renumbered)

    # --- the journal -------------------------------------------------------------------------------------------------

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

    # --- tokens ------------------------------------------------------------------------------------------------------

    def _find_refresh_ms(self) -> int | None:
        """When the token that was just used should be replaced."""
        after_s = self._tokens.find_refresh_s()
        return None if after_s is None else self._now_ms() + int(after_s * 1000)

    async def _refresh_token(self) -> None:
        try:
            token = await self._tokens.get(fresh=True)
        except Exception as failed:
            # The session may go on without it for a while; at the latest the close that tells so asks again.
            log.warning("no fresh token: %r", failed)
            return
        self._step(self._machine.refresh(token, self._now_ms()))

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, name: str, *facts: Any) -> None:
        if self._listener is None:
            return
        try:
            getattr(self._listener, name)(*facts)
        except Exception:
            log.exception("the listener failed in %s", name)
