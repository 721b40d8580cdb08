"""
A player's client for asyncio: what a game calls.

Promise: what `event` and `update` have returned is in the journal, synced, and will be accepted exactly once and in
order, however often the gateway or the network disappears; it is forgotten only when the server has saved it. The
client comes back by itself for ever, unless a close (42xx), a token that is refused and cannot be replaced, `leave` or
`stop` ends it. Every wait has a deadline.

Not here: how it comes back (driver.py), when to send what (machine.py), and what survives a crash (journal.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from random import Random
from typing import Any, Final

from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from protocol.client.client_errors import ClientStopped, QueryRefused, UpdateRefused
from protocol.client.client_socket import (
    SERVER_FRAME_BYTES_MAX,
    OpenSocket,
    decode_server_frame,
    open_client_socket,
)
from protocol.client.driver import ClientDriver, log
from protocol.client.journal import Journal, JournalBroken, MemoryJournal
from protocol.client.listener import PlayerListener
from protocol.client.machine import MachineState, measure_msgpack
from protocol.client.sendable import check_sendable
from protocol.client.token_source import TOKEN_WAIT_S, Token, find_token_life_s
from protocol.client.waiting import AskAgain, SeqWaiters
from protocol.codec import MSGPACK
from protocol.limits import UPDATE_BYTES_MAX

__all__ = [
    "SERVER_FRAME_BYTES_MAX",
    "TOKEN_WAIT_S",
    "ClientStopped",
    "PlayerClient",
    "PlayerListener",
    "QueryRefused",
    "Token",
    "UpdateRefused",
    "decode_server_frame",
    "find_token_life_s",
]

QUERIES_MAX: Final = 32


class PlayerClient(ClientDriver):
    """
    One player in one experience on one device. `start` it, then `event`, `update`, `query`; `leave` or `stop` it.
    """

    __slots__ = ()

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
        open_socket: OpenSocket = open_client_socket,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        """
        `token` is called again whenever a fresh one is needed; a plain string is tried once: a server that
        refuses it ends this client (`ClientStopped`). The journal
        stays the caller's: this client never closes it. One journal serves one client at a time. `open_socket` and
        `wall_clock_s` are the network and the clock of the device, for those who simulate them.
        """
        if journal is None:
            journal = MemoryJournal(device)
        elif device is not None and journal.device != device:
            raise ValueError("the journal names another device")
        try:
            parse_uri(url)  # here, rather than for ever in the background
        except InvalidURI as invalid:
            raise ValueError(str(invalid)) from invalid
        super().__init__(
            url,
            token,
            experience,
            journal=journal,
            codec=codec,
            listener=listener,
            connect_timeout_s=connect_timeout_s,
            random=random,
            source_address=source_address,
            client=client,
            open_socket=open_socket,
            wall_clock_s=wall_clock_s,
        )

    # --- facts -------------------------------------------------------------------------------------------------------

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
    def is_running(self) -> bool:
        """It was started and has not come to rest: `start` would be refused."""
        return self._run_task is not None and not self._run_task.done()

    @property
    def is_suspended(self) -> bool:
        return self._machine.state is MachineState.SUSPENDED

    @property
    def stop_code(self) -> int | None:
        """The close code that told this client to stay away; None if there was none."""
        return self._stop_code

    # --- playing -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """
        Begin to connect, and return at once; `wait_connected` waits. Raises RuntimeError if it is running already.
        """
        if self.is_running:
            raise RuntimeError("the client is running")
        self._loop = asyncio.get_running_loop()
        self._stop_code = self._stop_reason = None
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
        if self._waiting.leaving is None:
            self._waiting.leaving = self._loop.create_future()
            self._step(self._machine.leave(self._now_ms()))
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._waiting.leaving)
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
        event: dict[str, Any] = {"type": type, "at": int(self._wall_clock_s() * 1000) if at_ms is None else at_ms}
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
        seq = self._append(event, effects, durable)
        if self._journal.synced < seq:
            seq = await self._sync_update(seq)
        self._step(self._machine.journal_synced(self._now_ms()))
        return seq

    def make(
        self,
        event: dict[str, Any] | None = None,
        effects: list[dict[str, Any]] | None = None,
        durable: bool = False,
    ) -> int:
        """
        `update` for those who cannot wait: it is sent once it is synced, beside; `on_unmade` tells when the disk
        refused it. Only for a client that was started, unless its journal has no disk.

        Raises UpdateRefused, JournalFull, JournalBroken.
        """
        seq = self._append(event, effects, durable)
        packed = self._packed
        if self._is_performing and self._journal.synced >= seq:
            self._is_fill_due = True  # a listener made it, and what was made before is not all written yet
        elif packed is not None and (payload := self._machine.send_made(seq, self._now_ms())) is not None:
            packed.write(MSGPACK.encode_update(seq, payload), False)
            if packed.paused:
                self._machine.note_choked()
            # This moves deadlines away, and the timer looks again when it fires.
            if self._timer is None:
                self._arm()
        elif self._journal.synced < seq:
            self._spawn(self._sync_made(seq))
        else:
            self._step(self._machine.journal_synced(self._now_ms()))
        return seq

    async def wait_accepted(self, seq: int, timeout_s: float) -> None:
        """Return once everything up to `seq` is accepted. Raises TimeoutError, ClientStopped."""
        if self._machine.accepted < seq:
            await self._wait_for(self._waiting.accepted, seq, timeout_s)

    async def wait_saved(self, seq: int, timeout_s: float) -> None:
        """Return once everything up to `seq` is saved. Raises TimeoutError, ClientStopped."""
        if self._journal.saved < seq:
            await self._wait_for(self._waiting.saved, seq, timeout_s)

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once there is a session. Raises TimeoutError, ClientStopped."""
        async with asyncio.timeout(timeout_s):
            await self._wait_turn()

    async def query(self, of: str, args: dict[str, Any] | None = None, timeout_s: float = 5.0) -> dict[str, Any]:
        """
        Read from the server. Asked again over the next connection if this one is lost, and after a 2xx.

        Raises: QueryRefused, TimeoutError, ClientStopped; RuntimeError when too many queries are waiting.
        """
        if len(self._waiting.queries) >= QUERIES_MAX:
            raise RuntimeError(f"{QUERIES_MAX} queries are waiting for an answer")
        async with asyncio.timeout(timeout_s):
            while True:
                await self._wait_turn()
                assert self._loop is not None
                self._query_count += 1
                id = str(self._query_count)
                answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
                self._waiting.queries[id] = answer
                try:
                    self._step(self._machine.ask(id, of, args, self._now_ms()))
                    return await answer
                except AskAgain as again:
                    retry_s = again.retry_s
                finally:
                    self._waiting.queries.pop(id, None)
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
            if self._waiting.suspending is None:
                self._waiting.suspending = self._loop.create_future()
            self._step(self._machine.suspend(expected_s, self._now_ms()))
            return await asyncio.shield(self._waiting.suspending)

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
            self._connection.abort()

    # --- making ------------------------------------------------------------------------------------------------------

    def _append(self, event: dict[str, Any] | None, effects: list[dict[str, Any]] | None, durable: bool) -> int:
        """Give the update its number in the journal, and tell it; its seq."""
        body: dict[str, Any] = {}
        try:
            if event is not None:
                body["event"] = event
                check_sendable(event)
            if effects is not None:
                body["effects"] = effects
                check_sendable(effects)
            if durable:
                body["durable"] = True
            payload = MSGPACK.encode(body)
            size_bytes = measure_msgpack(payload, body) if self._codec is MSGPACK else self._measure(payload, body)
        except (TypeError, ValueError, OverflowError, RecursionError) as refused:
            raise UpdateRefused(str(refused)) from refused
        if size_bytes > UPDATE_BYTES_MAX:
            raise UpdateRefused(f"{size_bytes} bytes encoded, {UPDATE_BYTES_MAX} are allowed")
        journal = self._journal
        seq = journal.append(payload)
        if self._listener is not None:
            try:
                self._listener.on_journaled(journal.device, seq, payload, body)
            except Exception:
                log.exception("the listener failed in on_journaled")
        return seq

    async def _sync_made(self, seq: int) -> None:
        with contextlib.suppress(OSError, JournalBroken):  # told as unmade
            await self._sync_update(seq)
            self._step(self._machine.journal_synced(self._now_ms()))

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def _sync_update(self, seq: int) -> int:
        """Sync the update just made; answers its seq, which a stream reset in between may have changed."""
        device, resets = self._journal.device, self._resets
        try:
            await self._journal.sync()
        except (OSError, JournalBroken):
            self._tell("on_unmade", device, seq)
            raise
        return seq if resets == self._resets else self._renumbered.get(seq, seq)

    async def _wait_for(self, waiters: SeqWaiters, seq: int, timeout_s: float) -> None:
        if self._run_task is None or self.stopped:
            raise ClientStopped(self._stop_code, self._stop_reason)
        assert self._loop is not None
        future = self._loop.create_future()
        waiters.add(seq, future)
        async with asyncio.timeout(timeout_s):
            await future

    async def _wait_turn(self) -> None:
        """Wait for a session to say something in."""
        while not self.connected or self._machine.is_closing:
            if self._run_task is None or self.stopped:
                raise ClientStopped(self._stop_code, self._stop_reason)
            assert self._loop is not None
            future = self._loop.create_future()
            self._waiting.turn.append(future)
            await future
