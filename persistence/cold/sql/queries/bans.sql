-- name: put_ban
-- The last word about a player, in the transaction that marks its action. An older word that comes late changes nothing,
-- and nothing comes back then.
INSERT INTO bans (user_id, action_id, asked_at, until, message, reason, operator)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (user_id) DO UPDATE SET
    action_id = EXCLUDED.action_id, asked_at = EXCLUDED.asked_at, until = EXCLUDED.until, message = EXCLUDED.message,
    reason = EXCLUDED.reason, operator = EXCLUDED.operator, lifted_at = NULL, lifted_by = NULL
WHERE bans.asked_at < EXCLUDED.asked_at OR bans.action_id = EXCLUDED.action_id
RETURNING *;

-- name: lift_ban
-- Likewise. Nothing comes back for a player who is not banned, and for a word that is older than the last.
UPDATE bans SET action_id = $2, asked_at = $3, lifted_at = now(), lifted_by = $4
WHERE user_id = $1 AND (action_id = $2 OR (asked_at < $3 AND lifted_at IS NULL AND (until IS NULL OR until > now())))
RETURNING *;

-- name: find_ban
-- The last word about a player.
SELECT * FROM bans WHERE user_id = $1;

-- name: list_bans
-- Those that hold, newest first, page by page.
SELECT * FROM bans
WHERE lifted_at IS NULL AND (until IS NULL OR until > now()) AND (asked_at, user_id) < ($1, $2)
ORDER BY asked_at DESC, user_id DESC LIMIT $3;

-- name: put_maintenance
-- The last word; an older one that comes late changes nothing.
INSERT INTO maintenance (is_on, starts_at, message, action_id, asked_at, operator)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (is_only_row) DO UPDATE SET
    is_on = EXCLUDED.is_on, starts_at = EXCLUDED.starts_at, message = EXCLUDED.message, action_id = EXCLUDED.action_id,
    asked_at = EXCLUDED.asked_at, operator = EXCLUDED.operator
WHERE maintenance.asked_at < EXCLUDED.asked_at OR maintenance.action_id = EXCLUDED.action_id
RETURNING *;

-- name: find_maintenance_end
-- The action that the maintenance which holds was begun with, and when it is to end, if that was said.
SELECT a.id, a.operator, a.role, e.until, e.until <= now() AS is_over
FROM maintenance m
    JOIN liveops_actions a ON a.id = m.action_id,
    LATERAL (SELECT (a.payload #>> '{details,payload,until}')::timestamptz AS until) e
WHERE m.is_on AND e.until IS NOT NULL;

-- name: find_maintenance
-- Asked by every gateway every few seconds: one row.
SELECT * FROM maintenance;
