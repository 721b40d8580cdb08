-- name: list_dead_letters
-- Newest first: what an operator looks at. The player comes along, because that is whom it concerns.
SELECT l.id, f.user_id, p.experience_id, l.device_id, l.seq, l.version, l.payload, l.reason, l.sqlstate, l.created_at
FROM dead_letters l
JOIN experience_progress p ON p.id = l.experience_progress_id
JOIN player_profiles f ON f.id = p.player_id
ORDER BY l.created_at DESC, l.id DESC
LIMIT $1;

-- name: count_dead_letters
-- For a gauge; the table is empty on a good day.
SELECT count(*) FROM dead_letters;

-- name: take_dead_letters
-- Replaying or dropping: locked, so that two operators do not meet.
SELECT id, experience_progress_id, version, payload FROM dead_letters WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE;

-- name: delete_dead_letter
-- It was replayed, or an operator let go of it.
DELETE FROM dead_letters WHERE id = $1;
