"""
Takes what the rivals' players did from Redis to Postgres, every second, in batches: COPY into a temporary table, one
INSERT … SELECT, one upsert of the states. A process of its own, for all rivals.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import asyncpg
import msgpack
import uvloop
from redis.asyncio import Redis

from benchmarks.rivals.common import keys_of, open_redis

INTERVAL_S = 1.0
PLAYERS_MAX = 500
ENTRIES_MAX = 200

TABLES = """
CREATE TABLE IF NOT EXISTS rival_events (user_id uuid, seq bigint, type text, content_id text, data jsonb,
    received_at timestamptz DEFAULT now(), PRIMARY KEY (user_id, seq));
CREATE TABLE IF NOT EXISTS rival_states (user_id uuid PRIMARY KEY, seq bigint, state jsonb, updated_at timestamptz);
CREATE TEMP TABLE IF NOT EXISTS arriving (user_id uuid, seq bigint, type text, content_id text, data jsonb)
    ON COMMIT DELETE ROWS;
"""
INSERT_EVENTS = """
INSERT INTO rival_events (user_id, seq, type, content_id, data)
SELECT user_id, seq, type, content_id, data FROM arriving ON CONFLICT DO NOTHING
"""
UPSERT_STATES = """
INSERT INTO rival_states (user_id, seq, state, updated_at)
SELECT user_id, seq, state, now() FROM unnest($1::uuid[], $2::bigint[], $3::jsonb[]) AS new (user_id, seq, state)
ON CONFLICT (user_id) DO UPDATE SET seq = excluded.seq, state = excluded.state, updated_at = excluded.updated_at
"""
SETTLE = """
redis.call('LTRIM', KEYS[1], ARGV[2], -1)
if redis.call('LLEN', KEYS[1]) == 0 then redis.call('ZREM', KEYS[2], ARGV[1]) end
"""


async def main() -> None:
    redis = open_redis()
    database = await asyncpg.connect(os.environ["RIVAL_DATABASE"])
    await database.execute(TABLES)
    settle = redis.register_script(SETTLE)
    await redis.script_load(SETTLE)
    print(json.dumps({"port": 0}), flush=True)
    while True:
        began = time.monotonic()
        while users := list_text(await redis.zrange("rival:dirty", 0, PLAYERS_MAX - 1)):
            await save(redis, database, settle, users)
        await asyncio.sleep(max(0.05, INTERVAL_S - (time.monotonic() - began)))


def list_text(found: Any) -> list[str]:
    return [each.decode() for each in found]


async def save(redis: Redis, database: Any, settle: Any, users: list[str]) -> None:
    reads = redis.pipeline(transaction=False)
    for user in users:
        state, visited, pending = keys_of(user)
        reads.lrange(pending, 0, ENTRIES_MAX - 1)
        reads.hgetall(state)
        reads.smembers(visited)
    found = await reads.execute()
    events, ids, seqs, states, taken = [], [], [], [], []
    for number, user in enumerate(users):
        entries, state, visited = found[3 * number : 3 * number + 3]
        for entry in entries:
            frame = json.loads(entry) if entry[:1] == b"{" else msgpack.unpackb(entry)
            event = frame["event"]
            effects = json.dumps({"effects": frame["effects"]})
            events.append((user, frame["seq"], event["type"], event["content_id"], effects))
        document = {name.decode(): value.decode() for name, value in state.items()}
        document["visited"] = sorted(place.decode() for place in visited)
        ids.append(user)
        seqs.append(int(document["seq"]))
        states.append(json.dumps(document))
        taken.append((user, len(entries)))
    async with database.transaction():
        await database.copy_records_to_table("arriving", records=events)
        await database.execute(INSERT_EVENTS)
        await database.execute(UPSERT_STATES, ids, seqs, states)
    writes = redis.pipeline(transaction=False)
    for user, count in taken:
        writes.evalsha(settle.sha, 2, keys_of(user)[2], "rival:dirty", user, count)
    await writes.execute()


if __name__ == "__main__":
    uvloop.run(main())
