"""
Hydrating outside a gateway: a progress that a service asks about is read from Postgres and made hot, without a session.

Promise: one read in flight for a progress, a bounded number in all; only rows that exist are read, none are made. The
clock of Redis is read before Postgres is, so that an install that comes too late is refused.

Not here: hydrating for players, with ranks and sessions (gateway.sessions.hydrator).
"""

from __future__ import annotations

import asyncio

from persistence.cold.shapes import ColdProgress
from persistence.cold.store import ColdStore
from persistence.errors import StoreUnavailable
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey

WIDTH = 4
"""Reads of Postgres at once: a service that asks for thousands of idle players must not be felt by those who play."""

INSTALLS_MAX = 3
"""A read that Redis refuses for its age; a store that slow is as good as away after three."""


class Warmer:
    """Safe for many tasks of one event loop."""

    def __init__(self, hot: HotStore, cold: ColdStore) -> None:
        self._hot = hot
        self._cold = cold
        self._free = asyncio.Semaphore(WIDTH)
        self._flights: dict[tuple[ProgressKey, str], asyncio.Task[ColdProgress | None]] = {}

    async def hydrate(self, key: ProgressKey, device: str) -> ColdProgress | None:
        """
        Read a progress and make it the hot copy, unless a copy is there that has not diverged. None: there is none.

        Raises:
            StoreUnavailable: one of the stores did not answer; nothing is half done.
        """
        flight = self._flights.get((key, device))
        if flight is None:
            flight = asyncio.get_running_loop().create_task(self._fly(key, device), name=f"warm {key.member}")
            self._flights[key, device] = flight
            flight.add_done_callback(lambda done: self._land((key, device), done))
        # Shielded: whoever asked first may be cancelled, the others still wait for the same answer.
        return await asyncio.shield(flight)

    async def install_device(self, key: ProgressKey, device: str) -> None:
        """Load a stream that a hot copy does not know. Whoever asked looks again."""
        seen = await self._hot.find_progress(key)
        if seen is not None:
            async with self._free:
                read_started_ms = await self._hot.time_ms()
                seq = await self._cold.find_device_seq(seen.row_id, device)
            await self._hot.install_device(key, device, seq, seen, read_started_ms)

    async def close(self) -> None:
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        if flights:
            await asyncio.wait(flights, timeout=2.0)

    async def _fly(self, key: ProgressKey, device: str) -> ColdProgress | None:
        async with self._free:
            for _ in range(INSTALLS_MAX):
                read_started_ms = await self._hot.time_ms()
                cold = await self._cold.find_progress(key, device)
                if cold is None:
                    return None
                is_there, _ = await self._hot.install(cold, read_started_ms)
                if is_there:
                    return cold
        raise StoreUnavailable("postgres", "find_progress", "it answers too slowly to be installed")

    def _land(self, question: tuple[ProgressKey, str], flight: asyncio.Task[ColdProgress | None]) -> None:
        self._flights.pop(question, None)
        if not flight.cancelled():
            flight.exception()  # told to everybody who waits; nobody may be left
