"""
Hydrate: progress from Postgres into Redis, when it is needed and not there.

Promise: one read in flight for the same question, a bounded number in all, live sockets before new logins; questions of
many players share a read (cold_reads.py). The clock of Redis is read before Postgres is, so that an install that comes
too late is refused. A hydrate proves nothing about what happened after its read began; whoever needs proof reads again
(`find_device_seq`).

Not here: what is done when there is nothing to hydrate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence

from gateway.sessions.cold_reads import ColdReads
from gateway.sessions.gate import Gate
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Tally
from persistence.cold.shapes import ColdProgress, ColdQuestion
from persistence.cold.store import ColdStore
from persistence.errors import PlayerErased, StoreUnavailable
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey

WIDTH = 4
"""
Reads of Postgres at once that are of one player each. With those of many (`cold_reads.LANES`) below its pool, so that
queries find a connection too.
"""

INSTALLS_MAX = 3
"""A read is refused when it took longer than Redis allows; a store that slow is as good as away after three."""

_Answer = tuple[ColdProgress | PlayerErased | None, int]
"""What Postgres has, and when that read began by the clock of Redis."""

log = get_logger("hydrator")


class Hydrator:
    def __init__(self, hot: HotStore, cold: ColdStore, tally: Tally, clock: Callable[[], float]) -> None:
        self._hot = hot
        self._cold = cold
        self._tally = tally
        self._clock = clock
        self._gate = Gate(WIDTH)
        self._reads: ColdReads[ColdQuestion, _Answer] = ColdReads(self._find_many, clock)
        self._flights: dict[Hashable, asyncio.Task[ColdProgress | None]] = {}

    async def hydrate(
        self,
        key: ProgressKey,
        device: str,
        *,
        session_id: str | None = None,
        creates: bool = False,
        token_issued_at: float | None = None,
        is_live: bool = False,
    ) -> ColdProgress | None:
        """
        Read a progress and make it the hot copy, unless a copy is there that has not diverged. None: there is no such
        progress (only a hello with a token `creates` one, by `make`, and says when the token was issued).

        Raises:
            PlayerErased: nothing is created for this token or device any more.
            StoreUnavailable: one of the stores did not answer; nothing is half done.
        """
        question = ColdQuestion(key, device, session_id, creates, token_issued_at)
        flight = self._flights.get(question)
        if flight is None:
            flight = asyncio.get_running_loop().create_task(self._fly(question, is_live), name=f"hydrate {key.member}")
        return await self._wait_for(question, flight)

    async def make(self, key: ProgressKey, device: str, token_issued_at: float | None) -> ColdProgress | None:
        """
        Make the rows that a hello with a token has not found, and make them the hot copy. None: that took too long,
        the copy is not there. Repeating it is harmless.

        Raises:
            PlayerErased, StoreUnavailable: as `hydrate`.
        """
        # Who goes away while waiting is made nothing. What has begun is ended, and has its place until then.
        await self._gate.enter(is_live=False)
        flight = asyncio.get_running_loop().create_task(
            self._make(key, device, token_issued_at), name=f"hydrate {key.member}"
        )
        flight.add_done_callback(lambda done: self._gate.leave())
        return await self._wait_for(flight, flight)

    async def find_device_seq(self, row_id: str, device: str, *, is_live: bool = False) -> tuple[int, int]:
        """(how far the stream is saved, when that was read by the clock of Redis): always a read that begins now."""
        async with self._gate.hold(is_live=is_live):
            read_started_ms = await self._hot.time_ms()
            return await self._cold.find_device_seq(row_id, device), read_started_ms

    async def check_not_erased(self, user_id: str, device: str, token_issued_at: float | None) -> None:
        """Raises PlayerErased for a token or device from before an erase."""
        async with self._gate.hold(is_live=False):
            await self._cold.check_not_erased(user_id, device, token_issued_at)

    async def install_device(self, key: ProgressKey, device: str, *, is_live: bool = False) -> None:
        """
        Load a stream that a hot copy does not know. Whoever asked looks again, so what it answers does not matter. The
        copy is looked at before the read: what it took from Postgres since then the read may not have seen.
        """
        seen = await self._hot.find_progress(key)
        if seen is not None:
            seq, read_started_ms = await self.find_device_seq(seen.row_id, device, is_live=is_live)
            await self._hot.install_device(key, device, seq, seen, read_started_ms)

    async def close(self) -> None:
        for flight in list(self._flights.values()):
            flight.cancel()
        if self._flights:
            await asyncio.wait(list(self._flights.values()), timeout=2.0)
        await self._reads.close()

    async def _fly(self, question: ColdQuestion, is_live: bool) -> ColdProgress | None:
        for _ in range(INSTALLS_MAX):
            async with self._reads.turn(question, is_live=is_live) as (cold, read_started_ms):
                if isinstance(cold, PlayerErased):
                    raise PlayerErased
                is_there = cold is not None and await self._install(cold, read_started_ms)
            if cold is None:
                return None
            if is_there:
                return cold
        raise StoreUnavailable("postgres", "find_progress", "it answers too slowly to be installed")

    async def _make(self, key: ProgressKey, device: str, token_issued_at: float | None) -> ColdProgress | None:
        # Making rows is one player's affair: an erase of this player may have to wait for it.
        read_started_ms = await self._hot.time_ms()
        cold = await self._cold.open_progress(key, device, token_issued_at)
        return cold if await self._install(cold, read_started_ms) else None

    async def _find_many(self, questions: Sequence[ColdQuestion]) -> list[_Answer]:
        read_started_ms = await self._hot.time_ms()
        return [(answer, read_started_ms) for answer in await self._cold.find_many(questions)]

    async def _install(self, cold: ColdProgress, read_started_ms: int) -> bool:
        """Whether a copy is there now."""
        is_there, thrown = await self._hot.install(cold, read_started_ms)
        self._tally.hydrates += 1
        if thrown:
            log.warning("diverged_copy_replaced", progress=cold.key.member, version=cold.version, pending_thrown=thrown)
        return is_there

    async def _wait_for(self, name: Hashable, flight: asyncio.Task[ColdProgress | None]) -> ColdProgress | None:
        if name not in self._flights:
            self._flights[name] = flight
            flight.add_done_callback(lambda done: self._land(name, done))
        # Shielded: whoever asked first may be cancelled, the others still wait for the same answer.
        return await asyncio.shield(flight)

    def _land(self, name: Hashable, flight: asyncio.Task[ColdProgress | None]) -> None:
        self._flights.pop(name, None)
        if not flight.cancelled():
            flight.exception()  # told to everybody who waits; nobody may be left
