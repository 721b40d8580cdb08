"""Hot store, cold store and flusher on real servers, and a player that speaks to the hot store without a gateway."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from persistence.cold.store import ColdStore
from persistence.flusher.flusher import Flusher, FlushReport
from persistence.hot.known_fields import KnownFields
from persistence.hot.shapes import (
    EndSession,
    GroupVerdict,
    HotProgress,
    HotUpdate,
    OpenSession,
    Outcome,
    SessionEntry,
    UpdateGroup,
)
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey
from protocol.effects import compile_update
from protocol.entry import EntryIds, SessionBody, encode_session_body, encode_update_body
from protocol.errors import VoidUpdate
from tests.servers import Servers

ENTRY_IDS = EntryIds()


@dataclass
class StorePlayer:
    """Does what a gateway does for one connection, with nothing in between."""

    hot: HotStore
    cold: ColdStore
    key: ProgressKey
    device: str = "phone"
    node: str = "node-1"
    session_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    connection: int = 0
    copy: str = ""
    seq: int = 0
    told: int = 0
    known: KnownFields = field(default_factory=KnownFields)

    async def hydrate(self) -> None:
        started_ms = await self.hot.time_ms()
        await self.hot.install(await self.cold.open_progress(self.key, self.device), started_ms)

    async def hello(self) -> HotProgress:
        await self.hydrate()
        progress = await self.hello_without_hydrate()
        assert progress is not None
        return progress

    async def hello_without_hydrate(self) -> HotProgress | None:
        """None when the copy or the session changed meanwhile, as a gateway would see it and look again."""
        seen = await self.hot.find_session(self.key.user_id)
        started_ms = await self.hot.time_ms()
        opened = await self.hot.open_session(
            OpenSession(
                key=self.key,
                device=self.device,
                node=self.node,
                session_id=self.session_id,
                started_ms=started_ms,
                claims="{}",
                connection_min=0,
                seen=None if seen is None else (seen.id, seen.connection),
                start_entry=self.session_entry(started_ms) if seen is None or seen.id != self.session_id else None,
                end_entry=None,
            )
        )
        if opened.outcome is not Outcome.OK or opened.progress is None:
            return None
        self.connection, self.copy = opened.connection, opened.progress.copy
        self.told = opened.progress.accepted[self.device]
        self.known = KnownFields()
        return opened.progress

    def session_entry(self, started_ms: int, ended_ms: int = 0, reason: str = "") -> SessionEntry:
        body = SessionBody(
            self.session_id, self.key.user_id, self.key.experience, self.device, started_ms, ended_ms, reason
        )
        return SessionEntry(ENTRY_IDS.next(), encode_session_body(body))

    def make(
        self, event: Any = None, effects: Any = None, *, seq: int | None = None, at_ms: int = 1_700_000_000_000
    ) -> HotUpdate:
        if seq is None:
            self.seq += 1
            seq = self.seq
        try:
            compiled = compile_update(event, effects)
        except VoidUpdate as void:
            body = encode_update_body(
                self.device, seq, at_ms, at_ms, self.session_id, "update", None, b"{}", b"", None, None
            )
            return HotUpdate(seq, ENTRY_IDS.next(), body, [], (int(void.code), void.message))
        data = compiled.data_json if compiled.event else compiled.effects_json
        body = encode_update_body(
            self.device,
            seq,
            compiled.at_ms or at_ms,
            at_ms,
            self.session_id,
            compiled.event_type or "update",
            compiled.content_id,
            data,
            compiled.effects_json if compiled.event else b"",
            compiled.lat,
            compiled.lng,
        )
        return HotUpdate(seq, ENTRY_IDS.next(), body, list(compiled.ops))

    def group(self, *updates: HotUpdate, durable: bool = False) -> UpdateGroup:
        header = self.hot.make_header(self.key, self.session_id, self.connection, self.copy, self.device)
        return UpdateGroup(header, self.told, list(updates), durable, self.known)

    async def send(self, *updates: HotUpdate, durable: bool = False) -> GroupVerdict:
        verdict = (await self.hot.apply_updates([self.group(*updates, durable=durable)]))[0]
        if verdict.outcome is Outcome.OK:
            self.told = max(self.told, verdict.accepted)
        return verdict

    async def leave(self, reason: str = "left") -> int:
        now_ms = await self.hot.time_ms()
        ended = await self.hot.end_session(
            EndSession(self.key, self.session_id, self.session_entry(now_ms - 5, now_ms, reason))
        )
        assert ended.outcome is Outcome.OK
        return ended.version


@dataclass
class Stores:
    hot: HotStore
    cold: ColdStore
    database_url: str
    redis_url: str
    reports: list[FlushReport] = field(default_factory=list)

    def player(
        self, experience: str = "wylding-woods", user_id: str | None = None, device: str = "phone"
    ) -> StorePlayer:
        return StorePlayer(self.hot, self.cold, ProgressKey(user_id or str(uuid.uuid4()), experience), device)

    def flusher(self, **kwargs: Any) -> Flusher:
        return Flusher(self.hot, self.database_url, on_flush=self.reports.append, **kwargs)

    async def flush(self) -> int:
        """Flush everything that is dirty, due or not, as a final flush does."""
        flusher = self.flusher()
        try:
            return await flusher.flush_due(ahead_s=3600.0)
        finally:
            await flusher.close()

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        connection = await asyncpg.connect(self.database_url)
        try:
            return list(await connection.fetch(sql, *args))
        finally:
            await connection.close()


@pytest.fixture
async def stores(redis_url: str, database_url: str) -> AsyncIterator[Stores]:
    hot = await HotStore.open(redis_url, flush_interval_s=5.0)
    cold = await ColdStore.open(database_url, pool_max=4)
    yield Stores(hot, cold, database_url, redis_url)
    async with asyncio.timeout(5):
        await hot.close()
        await cold.close()


@pytest.fixture(scope="module")
def module_database_url(servers: Servers) -> Iterator[str]:
    """A migrated database for all tests of a module that say so; see `empty_database`."""
    url = servers.create_database()
    yield url
    servers.drop_database(url)


async def empty_database(url: str) -> None:
    """Everything that belongs to players goes: a tenth of the time that a database of its own takes."""
    connection = await asyncpg.connect(url)
    try:
        for table in ("liveops_actions", "users", "content_hours", "contents", "content_player_days"):
            await connection.execute(f"DELETE FROM {table}")
        for table in ("experience_hours", "player_days", "erased_players"):
            await connection.execute(f"DELETE FROM {table}")
    finally:
        await connection.close()
