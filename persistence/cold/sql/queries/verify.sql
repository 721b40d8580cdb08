-- name: count_roughly
-- How much there is to look at, as the planner believes: for telling how far a verification got.
SELECT GREATEST(0, sum(c.reltuples))::bigint FROM pg_class c
WHERE c.oid = 'experience_progress'::regclass;

-- name: list_event_horizons
-- From when on the events of an experience are whole; those that are missing here were never removed.
SELECT experience_id, horizon FROM event_retention;

-- name: verify_progress
-- Every progress, a player's one after the other; read through a cursor.
SELECT p.id, p.player_id, f.user_id, p.experience_id, p.version, p.last_entry, p.state::text AS state, p.kinds::text AS kinds,
       p.current_location, p.distance_micrometers, p.playtime_ms, p.started_at, p.last_played_at, p.last_update_at,
       p.completed_at, p.completion_percentage
FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id
ORDER BY p.player_id, p.experience_id;

-- name: verify_events
-- The history of some progress, in order; read through a cursor.
SELECT e.id, e.experience_progress_id, e.event_type, e.content_id, e.data::text AS data, e.effects::text AS effects,
       e."timestamp", e.device_id, e.seq, e.version, e.playtime_ms, e.session_id
FROM player_progress_events e
WHERE e.experience_progress_id = ANY ($1::uuid[])
ORDER BY e.experience_progress_id, e.version;

-- name: verify_dead_letters
-- What is not among the events and in the state all the same, dropped letters too.
SELECT id, experience_progress_id, version, payload, playtime_ms FROM dead_letters
WHERE experience_progress_id = ANY ($1::uuid[]) ORDER BY experience_progress_id, version;

-- name: verify_streams
-- How far the streams of some progress are saved.
SELECT experience_progress_id, device_id, last_seq FROM device_streams WHERE experience_progress_id = ANY ($1::uuid[]);

-- name: verify_sessions
-- The playtime of the sessions of some players.
SELECT s.id, f.id AS player_id, s.experience_id, s.playtime_ms
FROM player_profiles f JOIN player_sessions s ON s.user_id = f.user_id
WHERE f.id = ANY ($1::uuid[]);

-- name: verify_profiles
-- Profiles whose totals are not the sum of their progress, or whose level does not follow from them; through a cursor.
SELECT f.id, f.user_id, f.total_experiences_played, f.total_playtime_ms, f.total_distance_micrometers, f.account_level,
       p.experiences, p.playtime_ms, p.distance_micrometers, l.level
FROM player_profiles f
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE version > 0) AS experiences, COALESCE(sum(playtime_ms), 0)::bigint AS playtime_ms,
           COALESCE(sum(distance_micrometers), 0)::bigint AS distance_micrometers
    FROM experience_progress WHERE player_id = f.id
) AS p
CROSS JOIN LATERAL (
    SELECT account_level_of(
        f.total_playtime_ms, f.total_distance_micrometers,
        CASE WHEN jsonb_typeof(f.stats -> 'achievements') = 'array' THEN jsonb_array_length(f.stats -> 'achievements') ELSE 0 END,
        $1, $2, $3, $4, $5
    ) AS level
) AS l
WHERE f.total_experiences_played <> p.experiences OR f.total_playtime_ms <> p.playtime_ms
   OR f.total_distance_micrometers <> p.distance_micrometers OR f.account_level <> l.level
ORDER BY f.id;

-- name: verify_achievements
-- What profiles hold of achievements, for those of some players.
SELECT id, stats -> 'achievements' AS achievements FROM player_profiles WHERE id = ANY ($1::uuid[]);

-- name: verify_content_hours
-- Hours in which visits or time spent are not what the events say; through a cursor.
WITH expected AS (
    SELECT p.experience_id, e.event_type, e.content_id, date_bin('1 hour', e."timestamp", '2000-01-01 00:00:00+00') AS hour,
           count(*) AS events, count(time_spent_ms(e.data)) AS timed_events, COALESCE(sum(time_spent_ms(e.data)), 0) AS time_spent_ms
    FROM player_progress_events e
    JOIN experience_progress p ON p.id = e.experience_progress_id
    LEFT JOIN event_retention r ON r.experience_id = p.experience_id
    WHERE e.content_id IS NOT NULL AND e.event_type <> 'update' AND e."timestamp" >= COALESCE(r.horizon, '-infinity')
    GROUP BY 1, 2, 3, 4
), found AS (
    SELECT c.experience_id, c.event_type, c.content_id, h.hour,
           sum(h.events) AS events, sum(h.timed_events) AS timed_events, sum(h.time_spent_ms) AS time_spent_ms
    FROM content_hours h
    JOIN contents c ON c.id = h.content
    LEFT JOIN event_retention r ON r.experience_id = c.experience_id
    WHERE h.hour >= COALESCE(r.horizon, '-infinity')
    GROUP BY 1, 2, 3, 4
)
SELECT experience_id, event_type, content_id, hour,
       f.events, f.timed_events, f.time_spent_ms,
       e.events AS expected_events, e.timed_events AS expected_timed_events, e.time_spent_ms AS expected_time_spent_ms
FROM expected e FULL JOIN found f USING (experience_id, event_type, content_id, hour)
WHERE (COALESCE(e.events, 0), COALESCE(e.timed_events, 0), COALESCE(e.time_spent_ms, 0))
   <> (COALESCE(f.events, 0), COALESCE(f.timed_events, 0), COALESCE(f.time_spent_ms, 0));

-- name: verify_content_player_days
-- Days on which a player met something more or less often than the events say, or first at another time; through a cursor.
WITH expected AS (
    SELECT p.experience_id, e.event_type, e.content_id, (e."timestamp" AT TIME ZONE 'UTC')::date AS day,
           e.experience_progress_id, count(*) AS events, min(e."timestamp") AS first_at
    FROM player_progress_events e
    JOIN experience_progress p ON p.id = e.experience_progress_id
    LEFT JOIN event_retention r ON r.experience_id = p.experience_id
    WHERE e.content_id IS NOT NULL AND e.event_type <> 'update' AND e."timestamp" >= COALESCE(r.horizon, '-infinity')
    GROUP BY 1, 2, 3, 4, 5
), found AS (
    SELECT c.experience_id, c.event_type, c.content_id, d.day, d.experience_progress_id, d.events, d.first_at
    FROM content_player_days d
    JOIN contents c ON c.id = d.content
    LEFT JOIN event_retention r ON r.experience_id = c.experience_id
    WHERE d.day >= COALESCE((r.horizon AT TIME ZONE 'UTC')::date, '-infinity')
)
SELECT experience_id, event_type, content_id, day, experience_progress_id,
       f.events, f.first_at, e.events AS expected_events, e.first_at AS expected_first_at
FROM expected e FULL JOIN found f USING (experience_id, event_type, content_id, day, experience_progress_id)
WHERE e.events IS DISTINCT FROM f.events OR e.first_at IS DISTINCT FROM f.first_at;

-- name: verify_experience_hours
-- Hours in which updates or playtime are not what the events say; through a cursor.
WITH expected AS (
    SELECT p.experience_id, date_bin('1 hour', e."timestamp", '2000-01-01 00:00:00+00') AS hour,
           count(*) AS updates, sum(e.playtime_ms) AS playtime_ms
    FROM player_progress_events e
    JOIN experience_progress p ON p.id = e.experience_progress_id
    LEFT JOIN event_retention r ON r.experience_id = p.experience_id
    WHERE e."timestamp" >= COALESCE(r.horizon, '-infinity')
    GROUP BY 1, 2
), found AS (
    SELECT h.experience_id, h.hour, sum(h.updates) AS updates, sum(h.playtime_ms) AS playtime_ms
    FROM experience_hours h
    LEFT JOIN event_retention r ON r.experience_id = h.experience_id
    WHERE h.hour >= COALESCE(r.horizon, '-infinity')
    GROUP BY 1, 2
)
SELECT experience_id, hour, f.updates, f.playtime_ms, e.updates AS expected_updates, e.playtime_ms AS expected_playtime_ms
FROM expected e FULL JOIN found f USING (experience_id, hour)
WHERE (COALESCE(e.updates, 0), COALESCE(e.playtime_ms, 0)) <> (COALESCE(f.updates, 0), COALESCE(f.playtime_ms, 0));

-- name: verify_player_days
-- Days on which a player played more or less than the events say, or whose first day is another; through a cursor. An
-- operator's edit is no play.
WITH expected AS (
    SELECT p.experience_id, (e."timestamp" AT TIME ZONE 'UTC')::date AS day, e.experience_progress_id,
           count(*) AS updates, sum(e.playtime_ms) AS playtime_ms, min(e."timestamp") AS first_at
    FROM player_progress_events e
    JOIN experience_progress p ON p.id = e.experience_progress_id
    LEFT JOIN event_retention r ON r.experience_id = p.experience_id
    WHERE e."timestamp" >= COALESCE(r.horizon, '-infinity') AND NOT (e.device_id = 'ops' AND e.event_type = 'operator_edit')
    GROUP BY 1, 2, 3
), found AS (
    SELECT d.experience_id, d.day, d.experience_progress_id, d.updates, d.playtime_ms, d.first_at, d.first_day,
           min(d.day) OVER (PARTITION BY d.experience_progress_id) AS expected_first_day
    FROM player_days d
)
SELECT experience_id, day, experience_progress_id, f.updates, f.playtime_ms, f.first_at, f.first_day,
       e.updates AS expected_updates, e.playtime_ms AS expected_playtime_ms, e.first_at AS expected_first_at,
       f.expected_first_day
FROM expected e FULL JOIN found f USING (experience_id, day, experience_progress_id)
LEFT JOIN event_retention r USING (experience_id)
WHERE f.first_day IS DISTINCT FROM f.expected_first_day
   OR (day >= COALESCE((r.horizon AT TIME ZONE 'UTC')::date, '-infinity')
       AND (e.updates IS DISTINCT FROM f.updates OR e.playtime_ms IS DISTINCT FROM f.playtime_ms
            OR e.first_at IS DISTINCT FROM f.first_at));

-- name: lock_progress_of_player
-- Repair locks as everybody does: progress in id order, then the profile. Of what is not whole any more no total follows.
SELECT p.id, p.experience_id, COALESCE(p.started_at >= r.horizon, true) AS is_whole
FROM experience_progress p LEFT JOIN event_retention r ON r.experience_id = p.experience_id
WHERE p.player_id = $1 ORDER BY p.id FOR NO KEY UPDATE OF p;

-- name: lock_profile
-- After its progress.
SELECT id FROM player_profiles WHERE id = $1 FOR NO KEY UPDATE;

-- name: repair_playtime
-- The playtime of a progress is what its events and dead letters carry.
UPDATE experience_progress p SET playtime_ms =
    COALESCE((SELECT sum(e.playtime_ms) FROM player_progress_events e WHERE e.experience_progress_id = p.id), 0)
    + COALESCE((SELECT sum(l.playtime_ms) FROM dead_letters l WHERE l.experience_progress_id = p.id), 0)
WHERE p.id = ANY ($1::uuid[]);

-- name: repair_profile
-- Totals of a profile are the sums over its progress; the level follows from them.
UPDATE player_profiles f SET
    total_experiences_played = p.experiences,
    total_playtime_ms = p.playtime_ms,
    total_distance_micrometers = p.distance_micrometers,
    account_level = account_level_of(
        p.playtime_ms, p.distance_micrometers,
        CASE WHEN jsonb_typeof(f.stats -> 'achievements') = 'array' THEN jsonb_array_length(f.stats -> 'achievements') ELSE 0 END,
        $2, $3, $4, $5, $6
    ),
    updated_at = now()
FROM (
    SELECT count(*) FILTER (WHERE version > 0)::integer AS experiences, COALESCE(sum(playtime_ms), 0)::bigint AS playtime_ms,
           COALESCE(sum(distance_micrometers), 0)::bigint AS distance_micrometers
    FROM experience_progress WHERE player_id = $1
) AS p
WHERE f.id = $1;

-- name: find_state_for_repair
-- From what a completion is computed again: the state, and the first event that said so.
SELECT p.state::text AS state, p.kinds::text AS kinds, p.completed_at, p.last_update_at,
       (SELECT e."timestamp" FROM player_progress_events e
        WHERE e.experience_progress_id = p.id AND e.event_type = 'experience_completed'
        ORDER BY e.version LIMIT 1) AS said_completed_at
FROM experience_progress p WHERE p.id = $1;

-- name: repair_completion
-- Completed stays completed.
UPDATE experience_progress SET
    completed_at = COALESCE(completed_at, $2),
    completion_percentage = CASE WHEN COALESCE(completed_at, $2) IS NULL THEN $3 ELSE 100 END
WHERE id = $1;

-- name: repair_rollups
-- Of one experience, from the day on of which its events are whole.
SELECT rebuild_rollups(COALESCE((SELECT (r.horizon AT TIME ZONE 'UTC')::date FROM event_retention r WHERE r.experience_id = $1),
                                '-infinity'), $1);
