"""
The verification: reads everything in Postgres at one instant and says what is not as the events say.

Promise: it changes nothing, and flushers that run are no drift, because all of it is one snapshot (repeatable read) and
a flush commits events and what follows from them together. Memory is bounded: progress come some at a time, their
histories and the rollups' differences through cursors. Time is not: it reads every event five times.

Not here: what a history comes to (replay_progress.py), what is compared (compare_progress.py), mending (repair.py).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from persistence.cold.connect import CONNECT_TIMEOUT_S, POSTGRES_ERRORS, UNAVAILABLE_ERRORS
from persistence.cold.queries import queries
from persistence.errors import StoreUnavailable
from persistence.flusher.levels import LevelRule
from persistence.verify.compare_progress import StoredProgress, list_problems
from persistence.verify.findings import ROLLUPS, Difference, Findings
from persistence.verify.replay_progress import ProgressReplay, StoredUpdate
from protocol.entry import UpdateBody, decode_body
from protocol.experience import ExperienceDefinition

PROGRESS_AT_ONCE = 200
ROWS_AT_ONCE = 1_000
ACHIEVEMENTS_MAX = 10_000
"""Past it a profile gains no more, so none can be missed."""


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far it got. `of` is an estimate."""

    part: str
    done: int
    of: int


async def verify(
    database_url: str,
    *,
    levels: LevelRule,
    experiences: Mapping[str, ExperienceDefinition],
    rows_max: int = 10,
    on_progress: Callable[[VerifyProgress], None] = lambda _progress: None,
) -> Findings:
    """
    Everything that differs, the first `rows_max` of each check with what is there and what should be.

    Raises:
        StoreUnavailable: Postgres did not answer, or refused.
    """
    connection: Any = None
    try:
        connection = await asyncpg.connect(
            database_url,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={"application_name": "wayhold-verify", "timezone": "UTC", "statement_timeout": "0"},
        )
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await look(
                connection, levels=levels, experiences=experiences, rows_max=rows_max, on_progress=on_progress
            )
    except POSTGRES_ERRORS as error:
        raise StoreUnavailable("postgres", "verify", error or type(error).__name__) from error
    finally:
        if connection is not None:
            try:
                await connection.close(timeout=2.0)
            except UNAVAILABLE_ERRORS:
                connection.terminate()


async def look(
    connection: Any,
    *,
    levels: LevelRule,
    experiences: Mapping[str, ExperienceDefinition],
    rows_max: int = 10,
    on_progress: Callable[[VerifyProgress], None] = lambda _progress: None,
) -> Findings:
    """`verify` in the caller's transaction."""
    verification = _Verification(connection, levels, experiences, Findings(rows_max), on_progress)
    await verification.run()
    return verification.findings


class _Verification:
    """One snapshot of one database."""

    def __init__(
        self,
        connection: Any,
        levels: LevelRule,
        experiences: Mapping[str, ExperienceDefinition],
        findings: Findings,
        on_progress: Callable[[VerifyProgress], None],
    ) -> None:
        self._connection = connection
        self._levels = levels
        self._experiences = experiences
        self.findings = findings
        self._on_progress = on_progress
        self._sql = queries("verify")
        self._horizons: dict[str, datetime] = {}
        # The last player of one batch may go on in the next: what they unlocked is compared when they are over.
        self._open_player: UUID | None = None
        self._achievements: dict[UUID, set[str]] = {}

    async def run(self) -> None:
        rows = await self._connection.fetch(self._sql["list_event_horizons"])
        self._horizons = {row["experience_id"]: row["horizon"] for row in rows}
        await self._verify_progress()
        await self._verify_profiles()
        for number, table in enumerate(ROLLUPS):
            self._on_progress(VerifyProgress(table, number, len(ROLLUPS)))
            await self._verify_rollup(table)
        self._on_progress(VerifyProgress("", 1, 1))

    # --- progress ----------------------------------------------------------------------------------------------------

    async def _verify_progress(self) -> None:
        expected = await self._connection.fetchval(self._sql["count_roughly"])
        cursor = await self._connection.cursor(self._sql["verify_progress"])
        while rows := await cursor.fetch(PROGRESS_AT_ONCE):
            await self._verify_some(rows)
            self.findings.progress += len(rows)
            last_player = rows[-1]["player_id"]
            await self._verify_achievements(keep=last_player)
            self._on_progress(VerifyProgress("progress", self.findings.progress, max(expected, self.findings.progress)))
        await self._verify_achievements(keep=None)

    async def _verify_some(self, rows: list[Any]) -> None:
        ids = [row["id"] for row in rows]
        stored = {row["id"]: StoredProgress(_as_stored(row), {}, {}) for row in rows}
        for stream in await self._connection.fetch(self._sql["verify_streams"], ids):
            stored[stream["experience_progress_id"]].streams[stream["device_id"]] = stream["last_seq"]
        by_player = {(row["player_id"], row["experience_id"]): row["id"] for row in rows}
        players = sorted({row["player_id"] for row in rows})
        async for session in self._connection.cursor(self._sql["verify_sessions"], players, prefetch=ROWS_AT_ONCE):
            progress_id = by_player.get((session["player_id"], session["experience_id"]))
            if progress_id is not None:
                stored[progress_id].sessions_ms[str(session["id"])] = session["playtime_ms"]
        replays = {row["id"]: self._begin_replay(row) for row in rows}
        async for progress_id, update in self._list_updates(ids):
            replays[progress_id].add(update)
            self.findings.events += 1
        for row in rows:
            replay, definition = replays[row["id"]], self._experiences.get(row["experience_id"])
            self.findings.unknowable += not replay.is_whole
            self._achievements.setdefault(row["player_id"], set()).update(replay.achievements)
            for check, what, found, wanted in list_problems(stored[row["id"]], replay, definition):
                where = {
                    "experience_progress_id": row["id"],
                    "user_id": row["user_id"],
                    "experience_id": row["experience_id"],
                }
                self.findings.add(Difference(check, where, what, found, wanted))
                if check in ("playtime", "completion"):
                    self.findings.note_player(row["player_id"], row["id"])

    def _begin_replay(self, row: Any) -> ProgressReplay:
        horizon = self._horizons.get(row["experience_id"])
        started_at = row["started_at"]
        is_whole = horizon is None or started_at is None or started_at >= horizon
        return ProgressReplay(self._experiences.get(row["experience_id"]), is_whole)

    async def _list_updates(self, ids: list[UUID]) -> AsyncIterator[tuple[UUID, StoredUpdate]]:
        """Events and dead letters of these progress, each progress's in version order."""
        dead = [
            (row["experience_progress_id"], _of_letter(row))
            for row in await self._connection.fetch(self._sql["verify_dead_letters"], ids)
        ]
        dead.reverse()
        async for row in self._connection.cursor(self._sql["verify_events"], ids, prefetch=ROWS_AT_ONCE):
            progress_id, update = row["experience_progress_id"], _of_event(row)
            while dead and (dead[-1][0], dead[-1][1].version) < (progress_id, update.version):
                yield dead.pop()
            yield progress_id, update
        while dead:
            yield dead.pop()

    # --- profiles ----------------------------------------------------------------------------------------------------

    async def _verify_achievements(self, keep: UUID | None) -> None:
        """Compare what is gathered of all players but `keep`, of whom more may come."""
        over = [player for player in self._achievements if player != keep]
        self.findings.players += len(over)
        unlocked = {player: names for player in over if (names := self._achievements.pop(player))}
        if not unlocked:
            return
        for row in await self._connection.fetch(self._sql["verify_achievements"], sorted(unlocked)):
            held = json.loads(row["achievements"]) if row["achievements"] else []
            missing = sorted(unlocked[row["id"]] - {name for name in held if isinstance(name, str)})
            if missing and len(held) < ACHIEVEMENTS_MAX:
                where = {"player_profile_id": row["id"]}
                difference = Difference(
                    "achievements", where, "stats.achievements", f"{len(held)} of them", missing[:5]
                )
                self.findings.add(difference)

    async def _verify_profiles(self) -> None:
        self._on_progress(VerifyProgress("profiles", 0, 1))
        cursor = self._connection.cursor(
            self._sql["verify_profiles"], *self._levels.as_arguments(), prefetch=ROWS_AT_ONCE
        )
        async for row in cursor:
            where = {"player_profile_id": row["id"], "user_id": row["user_id"]}
            for check, column, wanted in (
                ("profiles", "total_experiences_played", "experiences"),
                ("profiles", "total_playtime_ms", "playtime_ms"),
                ("profiles", "total_distance_micrometers", "distance_micrometers"),
                ("levels", "account_level", "level"),
            ):
                if row[column] != row[wanted]:
                    self.findings.add(Difference(check, where, column, row[column], row[wanted]))
            self.findings.note_player(row["id"])

    # --- rollups -----------------------------------------------------------------------------------------------------

    async def _verify_rollup(self, table: str) -> None:
        async for row in self._connection.cursor(self._sql[f"verify_{table}"], prefetch=ROWS_AT_ONCE):
            columns = dict(row)
            expected = {name[9:]: columns.pop(name) for name in tuple(columns) if name.startswith("expected_")}
            found = {name: columns.pop(name) for name in expected}
            for name, wanted in expected.items():
                if (found[name] or 0) != (wanted or 0):
                    self.findings.add(Difference(table, columns, name, found[name], wanted))
            self.findings.experiences_to_repair.add(row["experience_id"])


def _as_stored(row: Any) -> dict[str, Any]:
    return {**row, "last_entry": row["last_entry"].hex}


def _of_event(row: Any) -> StoredUpdate:
    return StoredUpdate(
        version=row["version"],
        entry_id=row["id"].hex,
        device=row["device_id"],
        seq=row["seq"],
        event_type=row["event_type"],
        content_id=row["content_id"],
        data_json=row["data"],
        effects_json=row["effects"],
        at_ms=_ms(row["timestamp"]),
        playtime_ms=row["playtime_ms"],
        session_id=str(row["session_id"]),
    )


def _of_letter(row: Any) -> StoredUpdate:
    body = decode_body(row["payload"])
    assert isinstance(body, UpdateBody)
    return StoredUpdate(
        version=row["version"],
        entry_id=row["id"].hex,
        device=body.device,
        seq=body.seq,
        event_type=body.event_type,
        content_id=body.content_id,
        data_json=body.data_json,
        effects_json=body.effects_json,
        at_ms=body.timestamp_ms,
        playtime_ms=row["playtime_ms"],
        session_id=str(UUID(body.session_id)),
    )


def _ms(at: datetime) -> int:
    return round((at - _EPOCH).total_seconds() * 1000)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
