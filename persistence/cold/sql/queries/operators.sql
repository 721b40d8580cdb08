-- name: count_operators
-- Whether there is anybody who could sign in with a password: while there is not, the link of the start makes the first.
SELECT count(*) FROM operators WHERE disabled_at IS NULL AND password_hash IS NOT NULL;

-- name: lock_first_operator
-- Before it is looked whether there is one, by a statement of its own: a statement sees what was there when it began, and
-- so not what it has waited for.
SELECT pg_advisory_xact_lock(70368744181);

-- name: insert_first_operator
-- The first operator, only while there is none: of two that come at once, one is told no.
INSERT INTO operators (name, role, password_hash, created_by, password_changed_at)
SELECT $1, 'admin', $2, 'setup', now()
WHERE NOT EXISTS (SELECT FROM operators WHERE disabled_at IS NULL AND password_hash IS NOT NULL)
ON CONFLICT (name) DO NOTHING
RETURNING *;

-- name: insert_operator
-- An account; nothing comes back when the name is taken.
INSERT INTO operators (name, role, password_hash, is_precise, created_by, password_changed_at)
VALUES ($1, $2, $3, $4, $5, CASE WHEN $3::varchar IS NULL THEN NULL ELSE now() END)
ON CONFLICT (name) DO NOTHING
RETURNING *;

-- name: find_operator
-- Who signs in by that name.
SELECT * FROM operators WHERE name = $1;

-- name: list_operators
-- All of them: there are few.
SELECT o.*, (SELECT count(*) FROM operator_tokens t
             WHERE t.operator_id = o.id AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())) AS tokens
FROM operators o ORDER BY o.name LIMIT 1000;

-- name: change_operator
-- What is given is changed, the rest stays. Whoever may less now, or has a new password, must sign in again.
WITH changed AS (
    UPDATE operators SET
        role = COALESCE($2, role),
        is_precise = COALESCE($3, is_precise),
        password_hash = COALESCE($4, password_hash),
        password_changed_at = CASE WHEN $4::varchar IS NULL THEN password_changed_at ELSE now() END,
        disabled_at = CASE WHEN $5::boolean IS NULL THEN disabled_at WHEN $5 THEN COALESCE(disabled_at, now()) END
    WHERE name = $1
    RETURNING *
), signed_out AS (
    DELETE FROM operator_sessions s USING changed c WHERE s.operator_id = c.id
), revoked AS (
    UPDATE operator_tokens t SET revoked_at = now() FROM changed c
    WHERE t.operator_id = c.id AND c.disabled_at IS NOT NULL AND t.revoked_at IS NULL
)
SELECT * FROM changed;

-- name: insert_token
-- A token of an operator who is not disabled.
INSERT INTO operator_tokens (operator_id, secret_hash, label, expires_at)
SELECT o.id, $2, $3, $4 FROM operators o WHERE o.name = $1 AND o.disabled_at IS NULL
RETURNING id;

-- name: list_tokens
-- An operator's tokens, without what they open.
SELECT t.id, t.label, t.created_at, t.expires_at, t.revoked_at
FROM operator_tokens t JOIN operators o ON o.id = t.operator_id
WHERE o.name = $1 ORDER BY t.created_at DESC LIMIT 200;

-- name: revoke_token
-- From the next look on it opens nothing.
UPDATE operator_tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING id;

-- name: find_by_token
-- Whose token this is, if it still opens anything.
SELECT o.name, o.role, o.is_precise FROM operator_tokens t JOIN operators o ON o.id = t.operator_id
WHERE t.secret_hash = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())
  AND o.disabled_at IS NULL;

-- name: insert_session
-- A browser that has signed in.
INSERT INTO operator_sessions (secret_hash, operator_id, expires_at, address)
SELECT $2, o.id, now() + make_interval(secs => $3), $4 FROM operators o WHERE o.name = $1 AND o.disabled_at IS NULL
RETURNING expires_at;

-- name: find_by_session
-- Whose browser this is.
SELECT o.name, o.role, o.is_precise FROM operator_sessions s JOIN operators o ON o.id = s.operator_id
WHERE s.secret_hash = $1 AND s.expires_at > now() AND o.disabled_at IS NULL;

-- name: delete_session
-- A browser that signs out.
DELETE FROM operator_sessions WHERE secret_hash = $1;

-- name: delete_expired_sessions
-- Now and then, with a sign-in.
DELETE FROM operator_sessions WHERE expires_at < now();

-- name: insert_log
-- One line of the audit log. Whom it concerns may have been erased; then it concerns nobody.
INSERT INTO operator_log (operator, role, what, user_id, address, details)
VALUES ($1, $2, $3, (SELECT id FROM users WHERE id = $4), $5, $6::jsonb);
