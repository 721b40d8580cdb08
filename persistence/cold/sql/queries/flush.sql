-- name: lock_progress
-- The rows of a flush, locked in id order. What another flusher holds is skipped and stays claimed.
SELECT id, player_id, version, last_entry, last_update_at, distance_micrometers, completed_at IS NOT NULL AS is_completed
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
    -- LEAST takes what there is of the two. Something late may have happened before what came first.
    started_at = LEAST(p.started_at, u.first_at),
    last_played_at = GREATEST(p.last_played_at, u.last_at),
    completed_at = COALESCE(p.completed_at, u.completed_at),
    -- Who has completed an experience stays at 100, whatever the state loses afterwards.
    completion_percentage = CASE WHEN COALESCE(p.completed_at, u.completed_at) IS NOT NULL THEN 100
                                 ELSE COALESCE(u.completion, p.completion_percentage) END,
    updated_at = now()
FROM unnest(
    $1::uuid[], $2::bigint[], $3::uuid[], $4::jsonb[], $5::jsonb[], $6::text[], $7::bigint[], $8::bigint[],
    $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::float8[]
) AS u (id, version, last_entry, state, kinds, current_location, distance_micrometers, playtime_ms,
        last_update_at, first_at, last_at, completed_at, completion)
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
-- Totals grow by what this flush adds to progress rows that it holds locked, so they never drift. The level follows from
-- the totals; achievements are in already.
UPDATE player_profiles f SET
    total_experiences_played = f.total_experiences_played + u.experiences,
    total_playtime_ms = f.total_playtime_ms + u.playtime_ms,
    total_distance_micrometers = f.total_distance_micrometers + u.distance_micrometers,
    account_level = account_level_of(
        f.total_playtime_ms + u.playtime_ms,
        f.total_distance_micrometers + u.distance_micrometers,
        CASE WHEN jsonb_typeof(f.stats -> 'achievements') = 'array' THEN jsonb_array_length(f.stats -> 'achievements') ELSE 0 END,
        $5, $6, $7, $8, $9
    ),
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

-- name: find_states
-- The states from before this flush: where one has just become complete, or may have been so in between, to find the
-- update that did it. Rare.
SELECT id, state::text AS state, kinds::text AS kinds FROM experience_progress WHERE id = ANY ($1::uuid[]);

-- name: find_shard
-- A shard of the rollups that no other flusher has; held as long as the connection lives. None: all are taken.
SELECT shard FROM generate_series(0, 15) AS shard WHERE pg_try_advisory_lock(1987013736, shard) LIMIT 1;

-- name: find_content_ids
-- The numbers of what events are about.
SELECT c.id, c.experience_id, c.event_type, c.content_id
FROM unnest($1::text[], $2::text[], $3::text[]) AS u (experience_id, event_type, content_id)
JOIN contents c ON c.experience_id = u.experience_id AND c.event_type = u.event_type AND c.content_id = u.content_id;

-- name: make_contents
-- Numbers for what no event was about before; given in key order, so that two who make the same do not wait in a circle.
INSERT INTO contents (experience_id, event_type, content_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT DO NOTHING
RETURNING id, experience_id, event_type, content_id;

-- name: add_content_hours
-- Visits and time spent. Hours count from 1970.
INSERT INTO content_hours AS h (content, hour, shard, events, timed_events, time_spent_ms)
SELECT u.content, 'epoch'::timestamptz + u.hour * interval '1 hour', $6::smallint, u.events, u.timed_events, u.time_spent_ms
FROM unnest($1::integer[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS u (content, hour, events, timed_events, time_spent_ms)
ON CONFLICT (content, hour, shard) DO UPDATE SET
    events = h.events + EXCLUDED.events,
    timed_events = h.timed_events + EXCLUDED.timed_events,
    time_spent_ms = h.time_spent_ms + EXCLUDED.time_spent_ms;

-- name: add_content_player_days
-- Who met what on which day. Days count from 1970; the progress are locked, so nobody else touches their rows.
INSERT INTO content_player_days AS d (content, day, experience_progress_id, events, first_at)
SELECT u.content, date '1970-01-01' + u.day, u.progress, u.events, 'epoch'::timestamptz + u.first_ms * interval '1 millisecond'
FROM unnest($1::integer[], $2::integer[], $3::uuid[], $4::integer[], $5::bigint[]) AS u (content, day, progress, events, first_ms)
ON CONFLICT (content, day, experience_progress_id) DO UPDATE SET
    events = d.events + EXCLUDED.events,
    first_at = LEAST(d.first_at, EXCLUDED.first_at);

-- name: add_experience_hours
-- Updates and played time of an experience.
INSERT INTO experience_hours AS h (experience_id, hour, shard, updates, playtime_ms)
SELECT u.experience_id, 'epoch'::timestamptz + u.hour * interval '1 hour', $5::smallint, u.updates, u.playtime_ms
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[]) AS u (experience_id, hour, updates, playtime_ms)
ON CONFLICT (experience_id, hour, shard) DO UPDATE SET
    updates = h.updates + EXCLUDED.updates,
    playtime_ms = h.playtime_ms + EXCLUDED.playtime_ms;

-- name: add_player_days
-- Who played on which day.
INSERT INTO player_days AS d (experience_id, day, experience_progress_id, updates, playtime_ms, first_at)
SELECT u.experience_id, date '1970-01-01' + u.day, u.progress, u.updates, u.playtime_ms,
       'epoch'::timestamptz + u.first_ms * interval '1 millisecond'
FROM unnest($1::text[], $2::integer[], $3::uuid[], $4::integer[], $5::bigint[], $6::bigint[])
    AS u (experience_id, day, progress, updates, playtime_ms, first_ms)
ON CONFLICT (experience_id, day, experience_progress_id) DO UPDATE SET
    updates = d.updates + EXCLUDED.updates,
    playtime_ms = d.playtime_ms + EXCLUDED.playtime_ms,
    first_at = LEAST(d.first_at, EXCLUDED.first_at);

-- name: add_new_player_days
-- The same for days that are new, as far as the flush can tell: each comes with the player's first day, so that the trigger
-- need not write it again. The look for it costs more than the rest, and most days are not new.
INSERT INTO player_days AS d (experience_id, day, experience_progress_id, updates, playtime_ms, first_at, first_day)
SELECT u.experience_id, date '1970-01-01' + u.day, u.progress, u.updates, u.playtime_ms,
       'epoch'::timestamptz + u.first_ms * interval '1 millisecond',
       LEAST(date '1970-01-01' + u.day, (SELECT min(o.day) FROM player_days o WHERE o.experience_progress_id = u.progress))
FROM unnest($1::text[], $2::integer[], $3::uuid[], $4::integer[], $5::bigint[], $6::bigint[])
    AS u (experience_id, day, progress, updates, playtime_ms, first_ms)
ON CONFLICT (experience_id, day, experience_progress_id) DO UPDATE SET
    updates = d.updates + EXCLUDED.updates,
    playtime_ms = d.playtime_ms + EXCLUDED.playtime_ms,
    first_at = LEAST(d.first_at, EXCLUDED.first_at);

-- name: insert_dead_letter
-- An event that Postgres refuses for its data, whole and with the reason, so that it can be replayed.
INSERT INTO dead_letters (id, experience_progress_id, device_id, seq, version, payload, reason, sqlstate, playtime_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING;
