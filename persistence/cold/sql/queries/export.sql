-- name: find_exported_user
-- The player, as JSON text with the columns in their order; this and the others below say all that a table has.
SELECT row_to_json(u)::text FROM users u WHERE u.id = $1;

-- name: find_exported_profile
-- What spans experiences.
SELECT row_to_json(f)::text FROM player_profiles f WHERE f.user_id = $1;

-- name: list_exported_sessions
-- Oldest first.
SELECT row_to_json(s)::text FROM player_sessions s WHERE s.user_id = $1 ORDER BY s.started_at, s.id;

-- name: list_exported_progress
-- Which experiences were played; what belongs to each is asked for one by one.
SELECT p.id, p.experience_id FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id
WHERE f.user_id = $1 ORDER BY p.experience_id;

-- name: find_exported_progress
-- The row of a progress, with its state.
SELECT row_to_json(p)::text FROM experience_progress p WHERE p.id = $1;

-- name: list_exported_streams
-- Every device that ever sent something.
SELECT row_to_json(d)::text FROM device_streams d WHERE d.experience_progress_id = $1 ORDER BY d.device_id;

-- name: list_exported_events
-- In the order in which they were accepted.
SELECT row_to_json(e)::text FROM player_progress_events e WHERE e.experience_progress_id = $1 ORDER BY e.version;

-- name: list_exported_dead_letters
-- Events that Postgres refused. The payload is for whoever can read entries.
SELECT (to_jsonb(l) - 'payload')::text AS row, l.payload FROM dead_letters l
WHERE l.experience_progress_id = $1 ORDER BY l.version, l.id;

-- name: list_exported_days
-- On which days the player played.
SELECT row_to_json(d)::text FROM player_days d WHERE d.experience_progress_id = $1 ORDER BY d.day;

-- name: list_exported_content_days
-- What the player met on which day: kept longer than the events, where these are removed for their age.
SELECT row_to_json(met)::text FROM (
    SELECT d.day, c.event_type, c.content_id, d.events, d.first_at
    FROM player_days p
    JOIN contents c ON c.experience_id = p.experience_id
    JOIN content_player_days d ON d.content = c.id AND d.day = p.day
        AND d.experience_progress_id = p.experience_progress_id
    WHERE p.experience_progress_id = $1
    ORDER BY d.day, c.event_type, c.content_id
) met;

-- name: list_player_columns
-- Every table that refers to players, whoever made it: what is not told above is told as it stands.
SELECT c.relname AS table_name, a.attname AS column_name, format_type(a.atttypid, NULL) AS column_type
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.attname IN ('user_id', 'player_id', 'experience_progress_id') AND NOT a.attisdropped
ORDER BY c.relname, array_position(ARRAY['experience_progress_id', 'player_id', 'user_id'], a.attname::text);
