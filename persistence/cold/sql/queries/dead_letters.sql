-- name: list_dead_letters
-- Newest first: what an operator looks at. The player comes along, because that is whom it concerns.
SELECT l.id, f.user_id, p.experience_id, l.device_id, l.seq, l.version, l.payload, l.reason, l.sqlstate, l.created_at
FROM dead_letters l
JOIN experience_progress p ON p.id = l.experience_progress_id
JOIN player_profiles f ON f.id = p.player_id
WHERE l.dropped_at IS NULL
ORDER BY l.created_at DESC, l.id DESC
LIMIT $1;

-- name: count_dead_letters
-- For a gauge; the table is empty on a good day.
SELECT count(*) FROM dead_letters WHERE dropped_at IS NULL;

-- name: lock_progress_of_dead_letters
-- Progress before letters, as an erase and a flush lock: a replay adds to rollups of this progress.
SELECT p.id, p.experience_id FROM experience_progress p
WHERE p.id IN (SELECT experience_progress_id FROM dead_letters WHERE id = ANY ($1::uuid[]))
ORDER BY p.id FOR NO KEY UPDATE;

-- name: take_dead_letters
-- Replaying or dropping: locked, so that two operators do not meet.
SELECT id, experience_progress_id, version, payload, playtime_ms FROM dead_letters
WHERE id = ANY ($1::uuid[]) AND dropped_at IS NULL ORDER BY id FOR UPDATE;

-- name: delete_dead_letter
-- It was replayed: the event is where it belongs.
DELETE FROM dead_letters WHERE id = $1;

-- name: drop_dead_letters
-- An operator let go of them. They stay as marks: the state contains what they did.
UPDATE dead_letters SET dropped_at = now() WHERE id = ANY ($1::uuid[]) AND dropped_at IS NULL;

-- name: find_dead_letter
-- Whose it is, for the action that replays or drops it.
SELECT f.user_id, p.experience_id
FROM dead_letters l
JOIN experience_progress p ON p.id = l.experience_progress_id
JOIN player_profiles f ON f.id = p.player_id
WHERE l.id = $1 AND l.dropped_at IS NULL;
