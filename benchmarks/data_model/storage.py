"""
Storage per player: what a database full of filled players takes, by kind of row, and the same rows in the tables that
the data model sketches.

Everything is read from Postgres's own sizes after a VACUUM: pages of tables and their overflow (TOAST), indexes apart.
The sketch is the data model's DDL to the letter, in the same database server, with the same players and events.

Redis is asked while players are in, when everything they did is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from redis.asyncio import Redis

# What the data model plans with: bytes for each player of 50 events, and what of ours stands for it.
PLANNED_BYTES = {"profile": 1_000, "progress": 5_000, "events": 50 * 100}
TABLES = {
    "profile": ("users", "player_profiles"),
    "progress": ("experience_progress",),
    "events": ("player_progress_events",),
    "streams": ("device_streams",),
    "sessions": ("player_sessions",),
    "rollups": ("contents", "content_hours", "content_player_days", "experience_hours", "player_days"),
}
ABOUT = {
    "profile": "users and player_profiles",
    "progress": "experience_progress with its state",
    "events": "player_progress_events",
    "streams": "device_streams",
    "sessions": "player_sessions",
    "rollups": "rollups (visits, unique players, days)",
}

SKETCH = """
CREATE SCHEMA sketch;
CREATE TABLE sketch.users (id UUID PRIMARY KEY);
CREATE TABLE sketch.player_profiles (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id UUID NOT NULL UNIQUE REFERENCES sketch.users(id) ON DELETE CASCADE,
    total_experiences_played INTEGER DEFAULT 0,
    total_playtime_seconds INTEGER DEFAULT 0,
    total_distance_meters FLOAT DEFAULT 0.0,
    account_level INTEGER DEFAULT 1,
    stats JSONB DEFAULT '{}',
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX ON sketch.player_profiles (user_id);
CREATE INDEX ON sketch.player_profiles (account_level);
CREATE TABLE sketch.experience_progress (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    player_id UUID NOT NULL REFERENCES sketch.player_profiles(id) ON DELETE CASCADE,
    experience_id VARCHAR(100) NOT NULL,
    started_at TIMESTAMP,
    completed_at TIMESTAMP,
    last_played_at TIMESTAMP,
    playtime_seconds INTEGER DEFAULT 0,
    completion_percentage FLOAT DEFAULT 0.0,
    current_location VARCHAR(255),
    state JSONB DEFAULT '{}',
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    UNIQUE(player_id, experience_id)
);
CREATE INDEX ON sketch.experience_progress (player_id);
CREATE INDEX ON sketch.experience_progress (experience_id);
CREATE INDEX ON sketch.experience_progress (last_played_at);
CREATE INDEX ON sketch.experience_progress (player_id, experience_id);
CREATE INDEX ON sketch.experience_progress USING GIN ((state->'inventory'));
CREATE INDEX ON sketch.experience_progress USING GIN ((state->'visited_waypoints'));
CREATE TABLE sketch.player_progress_events (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    experience_progress_id UUID NOT NULL REFERENCES sketch.experience_progress(id) ON DELETE CASCADE,
    event_type VARCHAR(50) NOT NULL,
    content_id VARCHAR(255),
    data JSONB DEFAULT '{}',
    location_lat FLOAT,
    location_lng FLOAT,
    timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
);
CREATE INDEX ON sketch.player_progress_events (experience_progress_id);
CREATE INDEX ON sketch.player_progress_events (event_type);
CREATE INDEX ON sketch.player_progress_events (timestamp);
CREATE INDEX ON sketch.player_progress_events (content_id);

INSERT INTO sketch.users SELECT id FROM users;
INSERT INTO sketch.player_profiles
SELECT id, user_id, total_experiences_played, total_playtime_seconds, total_distance_meters, account_level, stats,
       created_at, updated_at FROM player_profiles;
INSERT INTO sketch.experience_progress
SELECT id, player_id, experience_id, started_at, completed_at, last_played_at, playtime_seconds, completion_percentage,
       current_location, state, created_at, updated_at FROM experience_progress;
INSERT INTO sketch.player_progress_events
SELECT gen_random_uuid(), experience_progress_id, event_type, content_id, data, location_lat, location_lng, "timestamp"
FROM player_progress_events ORDER BY received_at;
"""

SIZES = """
SELECT CASE WHEN c.relname ~ '^player_progress_events_' THEN 'player_progress_events' ELSE c.relname END AS name,
       sum(pg_table_size(c.oid))::bigint AS rows_bytes, sum(pg_indexes_size(c.oid))::bigint AS indexes_bytes
FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = $1::regnamespace GROUP BY 1
"""


async def measure_storage(connection: asyncpg.Connection[asyncpg.Record], players: int) -> dict[str, Any]:
    """Bytes for each player by kind of row, of a database in which only these players are."""
    await connection.execute("VACUUM (ANALYZE)")
    ours = await _read_sizes(connection, "public", players)
    await connection.execute(SKETCH)
    await connection.execute("VACUUM (ANALYZE)")
    sketch = await _read_sizes(connection, "sketch", players)
    facts = await connection.fetchrow(
        """SELECT (SELECT count(*) FROM player_progress_events) AS events,
                  (SELECT avg(octet_length(state::text))::int FROM experience_progress) AS state_bytes,
                  (SELECT avg(octet_length(data::text))::int FROM player_progress_events) AS data_bytes"""
    )
    await connection.execute("DROP SCHEMA sketch CASCADE")
    assert facts is not None
    return {
        "players": players,
        "events_per_player": facts["events"] / players,
        "state_bytes": facts["state_bytes"],
        "data_bytes": facts["data_bytes"],
        "ours": ours,
        "sketch": sketch,
        "planned": PLANNED_BYTES,
    }


async def _read_sizes(
    connection: asyncpg.Connection[asyncpg.Record], schema: str, players: int
) -> dict[str, dict[str, float]]:
    sizes = {row["name"]: (row["rows_bytes"], row["indexes_bytes"]) for row in await connection.fetch(SIZES, schema)}
    found = {}
    for kind, tables in TABLES.items():
        rows, indexes = (sum(sizes.get(table, (0, 0))[part] for table in tables) for part in (0, 1))
        if rows or indexes:
            found[kind] = {"rows": round(rows / players, 1), "indexes": round(indexes / players, 1)}
    return found


def total_bytes(sizes: Mapping[str, Mapping[str, float]]) -> float:
    """Of one player, all tables and indexes."""
    return sum(part["rows"] + part["indexes"] for part in sizes.values())


async def measure_redis(redis: Redis, user_ids: Sequence[str] = ()) -> dict[str, Any]:
    """
    Bytes in use without buffers, and of these players the bytes of each kind of key: session, progress, pending.

    Keys are measured whole (`MEMORY USAGE … SAMPLES 0`), with the entry of the table of keys.
    """
    info = await redis.info("memory")
    buffers = sum(int(info.get(name, 0)) for name in ("mem_clients_normal", "mem_aof_buffer"))
    found: dict[str, Any] = {"used": int(info["used_memory"]) - buffers}
    wanted, sizes = set(user_ids), dict[str, list[int]]()
    async for key in redis.scan_iter(match="{p*}:player:*", count=1000):
        _, _, user_id, kind = key.decode().split(":")[:4]
        if user_id in wanted:
            sizes.setdefault(kind, []).append(int(await redis.memory_usage(key, samples=0) or 0))
    found["bytes"] = {kind: round(sum(each) / len(user_ids)) for kind, each in sizes.items()}
    return found
