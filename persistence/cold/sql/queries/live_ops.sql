-- name: list_players
-- Players whose id begins with what was typed, given as the lowest and the highest such id; the cursor is the last id.
SELECT u.id, u.created_at, f.total_experiences_played, f.total_playtime_seconds, f.account_level, f.updated_at
FROM users u LEFT JOIN player_profiles f ON f.user_id = u.id
WHERE u.id >= $1 AND u.id <= $2 AND ($3::uuid IS NULL OR u.id > $3)
ORDER BY u.id LIMIT $4;

-- name: find_player
-- The head of a player's page.
SELECT u.created_at, f.total_experiences_played, f.total_playtime_seconds, f.total_distance_meters, f.account_level,
       f.stats::text AS stats, f.created_at AS profile_created_at, f.updated_at
FROM users u LEFT JOIN player_profiles f ON f.user_id = u.id
WHERE u.id = $1;

-- name: list_progress_of_player
-- What the player plays, the latest first, as it is saved.
SELECT p.id, p.experience_id, p.started_at, p.completed_at, p.last_played_at, p.playtime_seconds, p.completion_percentage,
       p.current_location, p.version, p.state::text AS state
FROM player_profiles f JOIN experience_progress p ON p.player_id = f.id
WHERE f.user_id = $1
ORDER BY p.last_played_at DESC, p.id LIMIT $2;

-- name: list_devices_of_player
-- Every installation that ever sent something, the latest first.
SELECT p.experience_id, d.device_id, d.last_seq, d.updated_at
FROM player_profiles f JOIN experience_progress p ON p.player_id = f.id
JOIN device_streams d ON d.experience_progress_id = p.id
WHERE f.user_id = $1
ORDER BY d.updated_at DESC, d.device_id LIMIT $2;

-- name: list_sessions_of_player
-- A page of a player's sessions, newest first.
SELECT s.id, s.experience_id, s.device_id, s.started_at, s.ended_at, s.end_reason, s.playtime_seconds
FROM player_sessions s
WHERE s.user_id = $1 AND (s.started_at, s.id) < ($2, $3)
ORDER BY s.started_at DESC, s.id DESC LIMIT $4;

-- name: find_ban_of_player
-- The last word about a player, lifted or not.
SELECT b.asked_at, b.until, b.message, b.reason, b.operator, b.lifted_at, b.lifted_by FROM bans b WHERE b.user_id = $1;

-- name: list_path
-- Where a player was in an experience, the newest first: only events that say so.
SELECT e.location_lat, e.location_lng, e."timestamp", e.content_id
FROM player_profiles f
JOIN experience_progress p ON p.player_id = f.id AND p.experience_id = $2
JOIN player_progress_events e ON e.experience_progress_id = p.id
WHERE f.user_id = $1 AND e."timestamp" >= $3 AND e."timestamp" < $4 AND e.location_lat IS NOT NULL
ORDER BY e.version DESC LIMIT $5;

-- name: list_audited_actions
-- A page of what operators did to players, newest first; what is null takes everything.
SELECT * FROM liveops_actions a
WHERE (a.created_at, a.id) < ($1, $2) AND a.created_at >= $3
  AND ($4::text IS NULL OR a.operator = $4) AND ($5::text IS NULL OR a.action = $5)
ORDER BY a.created_at DESC, a.id DESC LIMIT $6;

-- name: list_audited_actions_of_player
-- The same of one player. A query of its own, so that its prepared plan is one by the player.
SELECT * FROM liveops_actions a
WHERE a.user_id = $7 AND (a.created_at, a.id) < ($1, $2) AND a.created_at >= $3
  AND ($4::text IS NULL OR a.operator = $4) AND ($5::text IS NULL OR a.action = $5)
ORDER BY a.created_at DESC, a.id DESC LIMIT $6;

-- name: list_operator_log
-- A page of what operators did that is no action, newest first; what is null takes everything.
SELECT l.id, l.at, l.operator, l.role, l.what, l.user_id, l.address, l.details::text AS details FROM operator_log l
WHERE (l.at, l.id) < ($1, $2) AND l.at >= $3
  AND ($4::text IS NULL OR l.operator = $4) AND ($5::text IS NULL OR l.what = $5)
ORDER BY l.at DESC, l.id DESC LIMIT $6;

-- name: list_operator_log_of_player
-- The same about one player.
SELECT l.id, l.at, l.operator, l.role, l.what, l.user_id, l.address, l.details::text AS details FROM operator_log l
WHERE l.user_id = $7 AND (l.at, l.id) < ($1, $2) AND l.at >= $3
  AND ($4::text IS NULL OR l.operator = $4) AND ($5::text IS NULL OR l.what = $5)
ORDER BY l.at DESC, l.id DESC LIMIT $6;

-- name: list_undone
-- Which of these actions were taken back, and by which.
SELECT u.undo_of, u.id FROM liveops_actions u WHERE u.undo_of = ANY ($1::uuid[]) AND u.state <> 'refused';
