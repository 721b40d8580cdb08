"""
What Postgres holds of some players, read with SQL of its own.

Owns the queries of the audit and the walk. They lean only on the documented tables, never on `persistence`: if that
package wrote a row where it should not, the same code must not be the one that looks for it.

Promise: one batch of players is read in one REPEATABLE READ transaction, so that rows, state and stream numbers are of
one moment. Reading is bounded by `players_max` per batch.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from loadtest.state_model import parse_document

QUERY_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
PLAYERS_PER_BATCH = 200

# The progress of some players in one experience, with the profile it belongs to.
_SELECT_PROGRESS = """
SELECT p.user_id, p.id AS profile_id, p.total_distance_meters, p.stats::text AS stats,
       e.id, e.version, e.state::text AS state, e.current_location, e.completed_at, e.completion_percentage
FROM player_profiles p
JOIN experience_progress e ON e.player_id = p.id
WHERE p.user_id = ANY($1::uuid[]) AND e.experience_id = $2
"""

# Every stored update of these progress. The order of versions is the order in which they took effect.
_SELECT_ROWS = """
SELECT experience_progress_id, event_type, content_id, data::text AS data, location_lat, location_lng,
       "timestamp", device_id, seq, version
FROM player_progress_events
WHERE experience_progress_id = ANY($1::uuid[])
ORDER BY experience_progress_id, version, device_id, seq
"""

# How far each stream got.
_SELECT_STREAMS = """
SELECT experience_progress_id, device_id, last_seq
FROM device_streams
WHERE experience_progress_id = ANY($1::uuid[])
"""

# Updates that Postgres refused for their data.
_SELECT_DEAD_LETTERS = """
SELECT experience_progress_id, device_id, seq, reason
FROM dead_letters
WHERE experience_progress_id = ANY($1::uuid[])
"""

# What a profile should sum up: the distance of every experience of these players, also of those not audited.
_SELECT_DISTANCES = """
SELECT e.player_id, sum((e.state->>'distance_meters')::float8) AS distance_meters
FROM experience_progress e
WHERE e.player_id = ANY($1::uuid[]) AND jsonb_typeof(e.state->'distance_meters') = 'number'
GROUP BY e.player_id
"""

# How far all streams of these players got: the audit waits until this stops growing.
_SUM_STREAMS = """
SELECT s.device_id, s.last_seq
FROM device_streams s
JOIN experience_progress e ON e.id = s.experience_progress_id
JOIN player_profiles p ON p.id = e.player_id
WHERE p.user_id = ANY($1::uuid[]) AND e.experience_id = $2
"""

# Transactions that Postgres has committed in this database since its statistics were reset.
_SELECT_COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"


@dataclass(slots=True)
class StoredRow:
    """One row of `player_progress_events`."""

    event_type: str
    content_id: str | None
    data: Any
    lat: float | None
    lng: float | None
    timestamp: datetime
    device: str
    seq: int
    version: int


@dataclass(slots=True)
class StoredProgress:
    """One player in one experience, as Postgres has it."""

    user_id: str
    progress_id: uuid.UUID
    profile_id: uuid.UUID
    version: int
    state: Any
    current_location: str | None
    completed_at: datetime | None
    completion_percentage: float
    achievements: list[str]
    total_distance_meters: float
    distance_of_all_experiences: float
    rows: list[StoredRow] = field(default_factory=list)
    streams: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[tuple[str, int], str] = field(default_factory=dict)
    is_partly_seen: bool = False
    """Through the player's own queries: completion, totals and dead letters are not shown there."""


async def connect(database_url: str) -> asyncpg.Connection:
    """
    One connection for reading.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: the database cannot be reached or refuses us.
    """
    return await asyncpg.connect(
        _plain_url(database_url),
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=QUERY_TIMEOUT_S,
        statement_cache_size=0,  # a pooler in front may give each transaction another server
        server_settings={"application_name": "wayhold-audit"},
    )


async def list_progress(
    connection: asyncpg.Connection, user_ids: Sequence[str], experience: str, *, players_max: int = PLAYERS_PER_BATCH
) -> AsyncIterator[list[StoredProgress]]:
    """The stored progress of these players, batch by batch; a player without one is missing from its batch."""
    for start in range(0, len(user_ids), players_max):
        batch = [uuid.UUID(user_id) for user_id in user_ids[start : start + players_max]]
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            stored = await _read_batch(connection, batch, experience)
        yield stored


async def list_stream_ends(connection: asyncpg.Connection, user_ids: Sequence[str], experience: str) -> dict[str, int]:
    """The last seq that Postgres has of each device of these players."""
    ends: dict[str, int] = {}
    for start in range(0, len(user_ids), 5000):
        batch = [uuid.UUID(user_id) for user_id in user_ids[start : start + 5000]]
        for record in await connection.fetch(_SUM_STREAMS, batch, experience):
            ends[record["device_id"]] = record["last_seq"]
    return ends


async def get_commits(connection: asyncpg.Connection) -> int:
    commits: int = await connection.fetchval(_SELECT_COMMITS)
    return commits


async def _read_batch(
    connection: asyncpg.Connection, user_ids: list[uuid.UUID], experience: str
) -> list[StoredProgress]:
    records = await connection.fetch(_SELECT_PROGRESS, user_ids, experience)
    progress_ids = [record["id"] for record in records]
    distances = {
        record["player_id"]: float(record["distance_meters"] or 0)
        for record in await connection.fetch(_SELECT_DISTANCES, [record["profile_id"] for record in records])
    }
    by_id: dict[uuid.UUID, StoredProgress] = {}
    for record in records:
        stats = parse_document(record["stats"]) or {}
        by_id[record["id"]] = StoredProgress(
            user_id=str(record["user_id"]),
            progress_id=record["id"],
            profile_id=record["profile_id"],
            version=record["version"],
            state=parse_document(record["state"]),
            current_location=record["current_location"],
            completed_at=record["completed_at"],
            completion_percentage=float(record["completion_percentage"] or 0),
            achievements=list(stats.get("achievements") or []),
            total_distance_meters=float(record["total_distance_meters"] or 0),
            distance_of_all_experiences=distances.get(record["profile_id"], 0.0),
        )
    for record in await connection.fetch(_SELECT_ROWS, progress_ids):
        by_id[record["experience_progress_id"]].rows.append(
            StoredRow(
                record["event_type"],
                record["content_id"],
                parse_document(record["data"]),
                record["location_lat"],
                record["location_lng"],
                record["timestamp"],
                record["device_id"],
                record["seq"],
                record["version"],
            )
        )
    for record in await connection.fetch(_SELECT_STREAMS, progress_ids):
        by_id[record["experience_progress_id"]].streams[record["device_id"]] = record["last_seq"]
    for record in await connection.fetch(_SELECT_DEAD_LETTERS, progress_ids):
        letters = by_id[record["experience_progress_id"]].dead_letters
        letters[record["device_id"], record["seq"]] = record["reason"]
    return list(by_id.values())


def _plain_url(database_url: str) -> str:
    """asyncpg knows neither `+asyncpg` nor other drivers' names in a scheme."""
    scheme, separator, rest = database_url.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"
