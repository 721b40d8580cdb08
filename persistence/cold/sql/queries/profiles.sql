-- name: lock_requested
-- Whether an action is still to be done, and nobody else does it meanwhile.
SELECT true FROM liveops_actions WHERE id = $1 AND state = 'requested' FOR NO KEY UPDATE;

-- name: lock_stats
-- What a profile says beside its totals. As a flush locks it, after any progress.
SELECT stats::text FROM player_profiles WHERE user_id = $1 FOR NO KEY UPDATE;

-- name: put_stats
-- An operator's edit of it.
UPDATE player_profiles SET stats = $2::jsonb, updated_at = now() WHERE user_id = $1;

-- name: find_stats
-- For a preview of that edit.
SELECT stats::text FROM player_profiles WHERE user_id = $1;

-- name: find_progress_owner
-- Whose progress a row is.
SELECT f.user_id, p.experience_id
FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id
WHERE p.id = $1;

-- name: find_user
-- Whether there is such a player.
SELECT true FROM users WHERE id = $1;
