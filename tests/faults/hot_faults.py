"""Faults of what Redis knows: restarted, emptied, rolled back, full."""

# ruff: noqa: ASYNC110 - servers signal nothing, so they are asked.

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

import redis.asyncio as redis_asyncio

from loadtest.history import now_ms
from persistence.embedded.child import start_and_wait
from persistence.embedded.valkey import EmbeddedValkey
from tests.faults.fault import Fault, valkey
from tests.faults.rig import Rig

AOF_CUT_BYTES = 5_000
STALE_S = 1.5
"""How long the primary goes on after its replica was cut off: what is acknowledged meanwhile is forgotten."""


class ValkeyRestarted(Fault):
    name, rows = "valkey restarted", "F03"

    async def inject(self) -> None:
        await self.rig.stop_server("valkey", signal.SIGTERM)

    async def heal(self) -> None:
        await self.rig.start_server("valkey")
        await super().heal()


class ValkeyFlushed(Fault):
    name, rows, loses_hot = "FLUSHALL", "F06", True

    async def inject(self) -> None:
        async with valkey(self.rig) as client:
            await client.flushall()


class ValkeyEmptied(Fault):
    name, rows, loses_hot = "valkey restarted without its data", "F06", True

    async def inject(self) -> None:
        await self.rig.stop_server("valkey")
        self.change_files()

    def change_files(self) -> None:
        for path in _aof_folder(self.rig).glob("*"):
            path.unlink()

    async def heal(self) -> None:
        await self.rig.start_server("valkey")
        await super().heal()


class AofTruncated(ValkeyEmptied):
    name, rows = "append-only file cut short", "F06"

    def change_files(self) -> None:
        newest = max(_aof_folder(self.rig).glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
        size = newest.stat().st_size
        with newest.open("r+b") as file:
            file.truncate(max(0, size - self.scene.rng.randrange(777, AOF_CUT_BYTES)))


class StaleReplicaPromoted(Fault):
    """A replica that was cut off a while ago takes the address: what was acknowledged since is gone."""

    name, rows, loses_hot = "stale replica promoted", "F06", True
    weight = 5

    async def inject(self) -> None:
        rig = self.rig
        port = _free_port()
        folder = rig.folder / f"replica-{time.monotonic_ns() % 10**9}"
        folder.mkdir()
        folder.chmod(0o711)
        replica = EmbeddedValkey(folder, for_tests=not rig.plan.is_durable)
        async with valkey(rig) as primary:
            await primary.config_set("bind", "127.0.0.1")
            await primary.config_set("port", port)
            start_and_wait(replica, 10.0)
            async with redis_asyncio.from_url(replica.url) as client:
                await client.execute_command("REPLICAOF", "127.0.0.1", port)
                async with asyncio.timeout(20):
                    while (await client.info("replication"))["master_link_status"] != "up":
                        await asyncio.sleep(0.05)
                await asyncio.sleep(0.5)
                await client.execute_command("REPLICAOF", "NO", "ONE")
        await asyncio.sleep(STALE_S)
        await rig.replace_valkey(replica, folder)


class ScriptsFlushed(Fault):
    name, rows = "SCRIPT FLUSH", "F10"

    async def inject(self) -> None:
        async with valkey(self.rig) as client:
            await client.script_flush()


class ValkeyFull(Fault):
    """Postgres is away until Redis has no memory left; then Postgres comes back and Redis drains by itself."""

    name, rows, hold_s = "valkey full, postgres down", "F07 F13", 5.0
    weight = 2
    room_bytes = 600_000

    async def inject(self) -> None:
        for link in self.rig.links_between("flusher", "postgres"):
            link.refuse()
        async with valkey(self.rig) as client:
            used = (await client.info("memory"))["used_memory"]
            await client.config_set("maxmemory", used + self.room_bytes)

    async def heal(self) -> None:
        self.rig.heal_links()
        await super().heal()
        self.healed_ms = now_ms()
        # Redis must drain, and acks come again, before anybody gives it more room.
        if self.scene.players is not None:
            assert await self.scene.players.wait_saved(20.0), "a full Redis did not drain by itself"
        async with valkey(self.rig) as client:
            await client.config_set("maxmemory", 0)


def _aof_folder(rig: Rig) -> Path:
    return rig.valkey_folder / "valkey" / "appendonlydir"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
