-- name: open_progress
-- A hello: one statement, so one commit, whoever comes. A token tells whole seconds: only one that is surely from before
-- an erase is refused for its age. `erased_ms` goes into the hot copy, where later hellos are compared with it.
SELECT is_erased, id, version, last_entry, state, kinds, device_seq,
       COALESCE((SELECT floor(extract(epoch FROM LEAST(e.erased_at, timestamptz '9999-12-31')) * 1000)::bigint
                 FROM erased_players e WHERE e.user_hash = $5), 0) AS erased_ms,
       (SELECT json_build_array((extract(epoch FROM b.asked_at) * 1000000)::bigint,
                                floor(extract(epoch FROM b.until) * 1000)::bigint, b.message)::text
        FROM bans b WHERE b.user_id = $1 AND b.lifted_at IS NULL AND (b.until IS NULL OR b.until > now())) AS ban
FROM open_progress($1, $2, $3, to_timestamp($4::float8) + interval '1 second', $5, $6);

-- name: find_progress
-- Hydrate: a progress, how far one of its devices got, whether one session has ended, and when an earlier player of this
-- id was erased, in one statement and so at one instant.
SELECT p.id, p.version, p.last_entry, p.state::text AS state, p.kinds::text AS kinds,
       COALESCE((SELECT d.last_seq FROM device_streams d WHERE d.experience_progress_id = p.id AND d.device_id = $3), 0) AS device_seq,
       COALESCE((SELECT s.ended_at IS NOT NULL FROM player_sessions s WHERE s.id = $4), false) AS session_ended,
       COALESCE((SELECT floor(extract(epoch FROM LEAST(e.erased_at, timestamptz '9999-12-31')) * 1000)::bigint
                 FROM erased_players e WHERE e.user_hash = $5), 0) AS erased_ms,
       (SELECT json_build_array((extract(epoch FROM b.asked_at) * 1000000)::bigint,
                                floor(extract(epoch FROM b.until) * 1000)::bigint, b.message)::text
        FROM bans b WHERE b.user_id = $1 AND b.lifted_at IS NULL AND (b.until IS NULL OR b.until > now())) AS ban
FROM player_profiles f
JOIN experience_progress p ON p.player_id = f.id AND p.experience_id = $2
WHERE f.user_id = $1;

-- name: find_many
-- Hydrates of many: for each question what find_progress says, and whether a tombstone refuses the token or the device,
-- as open_progress judges it. Nothing is made. LIMIT keeps it one search of the indexes for each, whatever the planner
-- thinks of the tables.
SELECT p.id, p.version, p.last_entry, p.state, p.kinds,
       COALESCE((SELECT d.last_seq FROM device_streams d WHERE d.experience_progress_id = p.id AND d.device_id = a.device), 0) AS device_seq,
       COALESCE((SELECT s.ended_at IS NOT NULL FROM player_sessions s WHERE s.id = a.session_id), false) AS session_ended,
       COALESCE((SELECT floor(extract(epoch FROM LEAST(e.erased_at, timestamptz '9999-12-31')) * 1000)::bigint
                 FROM erased_players e WHERE e.user_hash = a.user_hash), 0) AS erased_ms,
       COALESCE((SELECT a.token_issued_at IS NULL OR to_timestamp(a.token_issued_at) + interval '1 second' <= e.erased_at
                        OR a.device_hash = ANY (e.device_hashes)
                 FROM erased_players e WHERE e.user_hash = a.user_hash), false) AS is_erased,
       (SELECT json_build_array((extract(epoch FROM b.asked_at) * 1000000)::bigint,
                                floor(extract(epoch FROM b.until) * 1000)::bigint, b.message)::text
        FROM bans b WHERE b.user_id = a.user_id AND b.lifted_at IS NULL AND (b.until IS NULL OR b.until > now())) AS ban
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::float8[], $6::bytea[], $7::bytea[]) WITH ORDINALITY
     AS a (user_id, experience_id, device, session_id, token_issued_at, user_hash, device_hash, place)
LEFT JOIN LATERAL (
    SELECT p.id, p.version, p.last_entry, p.state::text AS state, p.kinds::text AS kinds
    FROM player_profiles f
    JOIN experience_progress p ON p.player_id = f.id AND p.experience_id = a.experience_id
    WHERE f.user_id = a.user_id
    LIMIT 1
) p ON true
ORDER BY a.place;

-- name: find_device_seq
-- How far a stream is saved: what decides whether Redis or Postgres forgot.
SELECT last_seq FROM device_streams WHERE experience_progress_id = $1 AND device_id = $2;

-- name: find_profile
-- What a player may read of the own profile.
SELECT id, user_id, total_experiences_played, total_playtime_seconds, total_distance_meters, account_level,
       stats::text AS stats, created_at, updated_at
FROM player_profiles WHERE user_id = $1;

-- name: list_history
-- A page of a progress's events, newest first; the cursor is the version before which to go on. Served by the primary key;
-- bounds of time leave out whole months, the other filters pass over events of this player alone.
SELECT e.event_type, e.content_id, e.data::text AS data, e.location_lat, e.location_lng, e."timestamp", e.device_id, e.seq, e.version
FROM player_profiles f
JOIN experience_progress p ON p.player_id = f.id AND p.experience_id = $2
JOIN player_progress_events e ON e.experience_progress_id = p.id
WHERE f.user_id = $1 AND e.version < $3 AND e."timestamp" >= $5 AND e."timestamp" < $6
  AND ($7::text IS NULL OR e.event_type = $7) AND ($8::text IS NULL OR e.content_id = $8)
ORDER BY e.version DESC
LIMIT $4;

-- name: list_player_history
-- A page of a player's events over all experiences, by when they happened, newest first. Served by the primary key for
-- each of the player's progress; the cursor is the place of the last event: time, progress, version.
SELECT e.event_type, e.content_id, e.data::text AS data, e.location_lat, e.location_lng, e."timestamp", e.device_id, e.seq, e.version,
       p.experience_id, p.id AS experience_progress_id
FROM player_profiles f
JOIN experience_progress p ON p.player_id = f.id
JOIN player_progress_events e ON e.experience_progress_id = p.id
WHERE f.user_id = $1 AND e."timestamp" >= $5 AND e."timestamp" < $6 AND e."timestamp" <= $2
  AND (e."timestamp", p.id, e.version) < ($2, $3, $9)
  AND ($7::text IS NULL OR e.event_type = $7) AND ($8::text IS NULL OR e.content_id = $8)
ORDER BY e."timestamp" DESC, p.id DESC, e.version DESC
LIMIT $4;

-- name: list_open_sessions
-- Sessions that began long ago and have no end, page by page: those of which Redis knows nothing any more are lost.
SELECT id, user_id, experience_id FROM player_sessions
WHERE ended_at IS NULL AND started_at < now() - make_interval(secs => $1)
  AND (started_at, id) > (SELECT COALESCE(max(c.started_at), '-infinity'), COALESCE(max(c.id::text), repeat('0', 32))::uuid
                          FROM player_sessions c WHERE c.id = $3)
ORDER BY started_at, id LIMIT $2;

-- name: close_lost_sessions
-- They ended when their progress was last played, as far as anybody knows. Locked in id order, and never waited for: a
-- row that a flush or another sweep holds is about to change, and is looked at again with the next sweep.
WITH lost AS (
    SELECT id, user_id, experience_id FROM player_sessions
    WHERE id = ANY ($1::uuid[]) AND ended_at IS NULL
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE player_sessions s SET
    ended_at = GREATEST(s.started_at, COALESCE(p.last_played_at, s.started_at)),
    end_reason = 'lost'
FROM lost
LEFT JOIN player_profiles f ON f.user_id = lost.user_id
LEFT JOIN experience_progress p ON p.player_id = f.id AND p.experience_id = lost.experience_id
WHERE s.id = lost.id
RETURNING s.id;

-- name: ping
-- Is Postgres there, and may it write?
SELECT pg_is_in_recovery() AS is_standby;
