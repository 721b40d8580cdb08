"""Faults of Postgres while it lives: refusing, slow, locked, in deadlock, out of connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import asyncpg

from persistence.embedded.postgres import USER
from tests.faults.fault import Fault, database, wait_for_database


class PostgresRefuses(Fault):
    name, rows, hold_s = "postgres refuses", "F12 F13", 3.0
    weight = 5

    async def inject(self) -> None:
        for kind in ("flusher", "gateway"):
            for link in self.rig.links_between(kind, "postgres"):
                link.refuse()

    async def heal(self) -> None:
        self.rig.heal_links()
        await super().heal()


class PostgresSlow(Fault):
    name, rows, hold_s = "postgres slow", "F18", 5.0
    weight = 4
    latency_s = 0.1

    async def inject(self) -> None:
        for link in self.rig.links_between("flusher", "postgres"):
            link.latency_s = self.latency_s

    async def heal(self) -> None:
        self.rig.heal_links()
        await super().heal()


class RowsLocked(Fault):
    """An operator's transaction holds progress and profile rows."""

    name, rows, hold_s = "rows locked by an operator", "F17", 3.0
    weight = 5

    async def inject(self) -> None:
        self.connection = await asyncpg.connect(self.rig.database_url)
        self.transaction = self.connection.transaction()
        await self.transaction.start()
        await self.connection.execute("SET lock_timeout = '10s'")
        await self.connection.fetch("SELECT id FROM experience_progress ORDER BY updated_at DESC LIMIT 20 FOR UPDATE")
        await self.connection.fetch("SELECT id FROM player_profiles ORDER BY updated_at DESC LIMIT 40 FOR UPDATE")

    async def heal(self) -> None:
        await self.transaction.rollback()
        await self.connection.close()
        await super().heal()


class Deadlocks(Fault):
    """Transactions that lock profiles before progress, the other way round than a flush does, in a hurry."""

    name, rows, hold_s = "deadlocks provoked", "F17", 0.0
    weight = 4

    async def inject(self) -> None:
        await asyncio.gather(*(self._lock_backwards() for _ in range(4)))

    async def _lock_backwards(self) -> None:
        async with database(self.rig) as connection:
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                with contextlib.suppress(asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError):
                    async with connection.transaction():
                        await connection.execute("SET LOCAL deadlock_timeout = '50ms'")
                        rows = await connection.fetch(
                            "SELECT id FROM player_profiles ORDER BY updated_at DESC LIMIT 10 FOR UPDATE"
                        )
                        await asyncio.sleep(0.05)
                        await connection.fetch(
                            "SELECT id FROM experience_progress WHERE player_id = ANY($1) FOR UPDATE",
                            [row["id"] for row in rows],
                        )


class BackendsTerminated(Fault):
    name, rows = "backends terminated", "F20"

    async def inject(self) -> None:
        async with database(self.rig) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE usename = '{USER}' AND application_name LIKE 'wayhold%' AND pid <> pg_backend_pid()"
            )


class ConnectionsExhausted(Fault):
    """All connections that Postgres has are taken by somebody else, and those we had are gone."""

    name, rows, hold_s = "postgres out of connections", "F20", 2.0
    weight = 3

    async def inject(self) -> None:
        self.taken: list[Any] = []
        async with database(self.rig) as connection:
            with contextlib.suppress(asyncpg.PostgresError):
                while True:
                    self.taken.append(await asyncpg.connect(self.rig.database_url))
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'wayhold%'"
            )
            with contextlib.suppress(asyncpg.PostgresError):
                while True:
                    self.taken.append(await asyncpg.connect(self.rig.database_url))

    async def heal(self) -> None:
        for connection in self.taken:
            connection.terminate()
        await wait_for_database(self.rig)
        await super().heal()
