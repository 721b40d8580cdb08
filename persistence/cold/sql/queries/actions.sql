-- name: request_action
-- Ask for an action on a progress; the function gives it its number in the stream `ops`. No row: no such progress.
SELECT * FROM request_action($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9);

-- name: insert_action
-- Ask for an action that is no step of a progress. Nothing comes back when it was asked for already, or of nobody.
INSERT INTO liveops_actions (id, user_id, experience_id, operator, role, action, payload, reason)
SELECT $1, $2, $3, $4, $5, $6, $7::jsonb, $8
WHERE $2::uuid IS NULL OR EXISTS (SELECT 1 FROM users WHERE id = $2)
ON CONFLICT (id) DO NOTHING
RETURNING *;

-- name: find_action
-- What became of an action.
SELECT * FROM liveops_actions WHERE id = $1;

-- name: list_requested_actions
-- What must still be applied to a progress, in the order in which it must be. Some of it may be applied and not saved.
SELECT * FROM liveops_actions
WHERE experience_progress_id = $1 AND state = 'requested'
ORDER BY ops_seq LIMIT $2;

-- name: list_waiting_actions
-- A page of actions on progress that were asked for a while ago and are not saved yet, oldest first.
SELECT a.id, a.created_at, a.user_id, a.experience_id, a.experience_progress_id
FROM liveops_actions a
WHERE a.state = 'requested' AND a.ops_seq IS NOT NULL AND a.created_at < now() - make_interval(secs => $1)
  AND (a.created_at, a.id) > ($2, $3)
ORDER BY a.created_at, a.id LIMIT $4;

-- name: mark_actions
-- In the transaction of the flush that saved them, or by an executor: what became of actions. The first word stays.
UPDATE liveops_actions a SET
    state = u.state, message = u.message, result = u.result, done_at = GREATEST(now(), a.created_at)
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[]) AS u (id, state, message, result)
WHERE a.id = u.id AND a.state = 'requested';

-- name: refuse_overtaken_actions
-- Their number is saved and they are not: Postgres lost commits, and another action had this number then. In one
-- statement, so that a flush is seen whole or not at all.
UPDATE liveops_actions a SET
    state = 'refused', message = 'its number belongs to an action that the database had lost: ask again',
    done_at = GREATEST(now(), a.created_at)
FROM device_streams d
WHERE d.experience_progress_id = $1 AND d.device_id = 'ops'
  AND a.experience_progress_id = $1 AND a.state = 'requested' AND a.ops_seq <= d.last_seq
RETURNING a.id;

-- name: list_player_actions
-- What was done to a player, newest first.
SELECT * FROM liveops_actions
WHERE user_id = $1 AND (created_at, id) < ($2, $3)
ORDER BY created_at DESC, id DESC LIMIT $4;

-- name: list_actions
-- The audit log, newest first.
SELECT * FROM liveops_actions WHERE (created_at, id) < ($1, $2) ORDER BY created_at DESC, id DESC LIMIT $3;

-- name: note_before
-- What an action found when it was applied, for an undo. Once it is saved the word stays.
UPDATE liveops_actions SET before = $2::jsonb
WHERE id = $1 AND (state = 'requested' OR before IS NULL);

-- name: find_undo
-- Whether an action was taken back: by at most one that has not been refused.
SELECT * FROM liveops_actions WHERE undo_of = $1 AND state <> 'refused';

-- name: is_drain_overtaken
-- Whether a later word about draining a gateway stands: an older one must not come after it. Reads no further back than
-- the older one.
SELECT EXISTS (
    SELECT FROM liveops_actions
    WHERE (created_at, id) > ($1, $2) AND action = 'drain' AND state <> 'refused'
      AND payload -> 'details' -> 'target' ->> 'node' = $3
);

-- name: list_unexecuted_actions
-- A page of what is no step of a progress and was asked for a while ago, oldest first: whoever was at it has died, or a
-- store was away.
SELECT * FROM liveops_actions
WHERE state = 'requested' AND ops_seq IS NULL AND created_at < now() - make_interval(secs => $1)
  AND (created_at, id) > ($2, $3)
ORDER BY created_at, id LIMIT $4;

-- name: forget_erased
-- An erase is done: its row says that it was, and no longer of whom.
UPDATE liveops_actions SET
    state = 'done', payload = $2::jsonb, result = $3::jsonb, done_at = GREATEST(now(), created_at)
WHERE id = $1 AND state = 'requested';
