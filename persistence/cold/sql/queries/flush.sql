-- name: lock_progress
-- The rows of a flush, locked in id order. What another flusher holds is skipped and stays claimed.
SELECT id, player_id, version, last_entry, last_update_at, distance_micrometers
FROM experience_progress
WHERE id = ANY ($1::uuid[])
ORDER BY id
FOR NO KEY UPDATE SKIP LOCKED;

-- name: list_present_progress
-- Which rows exist at all: a progress that was skipped is locked, one that is missing was erased.
SELECT id FROM experience_progress WHERE id = ANY ($1::uuid[]);

-- name: update_progress
-- The state that the newest entry of each progress made. Rows are locked already.
UPDATE experience_progress p SET
    version = u.version,
    last_entry = u.last_entry,
    state = u.state,
    kinds = u.kinds,
    current_location = u.current_location,
    distance_micrometers = u.distance_micrometers,
    playtime_ms = p.playtime_ms + u.playtime_ms,
    last_update_at = COALESCE(u.last_update_at, p.last_update_at),
    started_at = COALESCE(p.started_at, u.first_at),
    last_played_at = GREATEST(p.last_played_at, u.last_at),
    completed_at = COALESCE(p.completed_at, u.completed_at),
    completion_percentage = CASE WHEN u.completed_at IS NULL THEN p.completion_percentage ELSE 100 END,
    updated_at = now()
FROM unnest(
    $1::uuid[], $2::bigint[], $3::uuid[], $4::jsonb[], $5::jsonb[], $6::text[], $7::bigint[], $8::bigint[],
    $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[]
) AS u (id, version, last_entry, state, kinds, current_location, distance_micrometers, playtime_ms,
        last_update_at, first_at, last_at, completed_at)
WHERE p.id = u.id;

-- name: upsert_device_streams
-- How far each stream is saved, in the same transaction as what it saved.
INSERT INTO device_streams AS d (experience_progress_id, device_id, last_seq)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[])
ON CONFLICT (experience_progress_id, device_id) DO UPDATE SET last_seq = GREATEST(d.last_seq, EXCLUDED.last_seq), updated_at = now();

-- name: upsert_sessions
-- Starts and ends in any order: what is known stays known. Only "lost" was a guess: a real end replaces it.
INSERT INTO player_sessions AS s (id, user_id, experience_id, device_id, started_at, ended_at, end_reason)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text[])
ON CONFLICT (id) DO UPDATE SET
    ended_at = CASE WHEN s.end_reason = 'lost' THEN COALESCE(EXCLUDED.ended_at, s.ended_at)
                    ELSE COALESCE(s.ended_at, EXCLUDED.ended_at) END,
    end_reason = CASE WHEN s.end_reason = 'lost' THEN COALESCE(EXCLUDED.end_reason, s.end_reason)
                      ELSE COALESCE(s.end_reason, EXCLUDED.end_reason) END;

-- name: add_session_playtime
-- A session's share of the playtime that its progress gains in this flush.
UPDATE player_sessions s SET playtime_ms = s.playtime_ms + u.playtime_ms
FROM unnest($1::uuid[], $2::bigint[]) AS u (id, playtime_ms)
WHERE s.id = u.id;

-- name: lock_profiles
-- Profiles after progress, in id order: the order in which everybody locks.
SELECT id FROM player_profiles WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE;

-- name: add_to_profiles
-- Totals grow by what this flush adds to progress rows that it holds locked, so they never drift.
UPDATE player_profiles f SET
    total_experiences_played = f.total_experiences_played + u.experiences,
    total_playtime_ms = f.total_playtime_ms + u.playtime_ms,
    total_distance_micrometers = f.total_distance_micrometers + u.distance_micrometers,
    updated_at = now()
FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::bigint[]) AS u (id, experiences, playtime_ms, distance_micrometers)
WHERE f.id = u.id;

-- name: add_achievements
-- A union: an achievement counts once, however often and in how many experiences it was unlocked. Bounded: past 10,000
-- a profile gains no more and loses none, the event is kept all the same.
UPDATE player_profiles f SET
    stats = jsonb_set(
        f.stats, '{achievements}',
        (SELECT jsonb_agg(DISTINCT a ORDER BY a)
         FROM (SELECT a FROM (SELECT jsonb_array_elements_text(COALESCE(f.stats -> 'achievements', '[]')) AS a, 0 AS is_new
                              UNION ALL SELECT jsonb_array_elements_text(u.achievements), 1) AS every
               GROUP BY a ORDER BY min(is_new), a LIMIT 10000) AS kept)
    ),
    updated_at = now()
FROM unnest($1::uuid[], $2::jsonb[]) AS u (id, achievements)
WHERE f.id = u.id;

-- name: insert_events
-- The events of a batch. Their identity is as old as the update itself, so a batch that comes again finds them there.
INSERT INTO player_progress_events (
    id, experience_progress_id, event_type, content_id, data, effects, location_lat, location_lng, "timestamp",
    device_id, seq, version, session_id, received_at
)
SELECT * FROM unnest(
    $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[], $7::float8[], $8::float8[], $9::timestamptz[],
    $10::text[], $11::bigint[], $12::bigint[], $13::uuid[], $14::timestamptz[]
)
ON CONFLICT DO NOTHING;

-- name: insert_dead_letter
-- An event that Postgres refuses for its data, whole and with the reason, so that it can be replayed.
INSERT INTO dead_letters (id, experience_progress_id, device_id, seq, version, payload, reason, sqlstate)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING;
