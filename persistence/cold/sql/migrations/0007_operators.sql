-- Who may watch and help players: operators with a password or tokens, what they are signed in with, and what they
-- looked at that has no other record.
--
-- Lock: none; tables of their own. Runs before the new code, and code from before does not see it.

-- People and programs that use the live-ops API. One that was disabled stays, because actions name it.
CREATE TABLE operators (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(64) NOT NULL,
    role varchar(10) NOT NULL,
    -- argon2id, with its own salt and costs in it; NULL for one that has tokens only.
    password_hash varchar(300),
    -- May see where players are to the metre; everybody else sees some hundred metres. Each such look is logged.
    is_precise boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by varchar(64) NOT NULL DEFAULT '',
    password_changed_at timestamptz,
    disabled_at timestamptz,
    CONSTRAINT operators_name_unique UNIQUE (name),
    CONSTRAINT operators_name_plain CHECK (name ~ '^[a-z0-9][a-z0-9._@-]{0,63}$'),
    CONSTRAINT operators_role_known CHECK (role IN ('viewer', 'support', 'operator', 'admin'))
);

-- Tokens of programs and of the command line: a secret that is shown once, kept as its SHA-256.
CREATE TABLE operator_tokens (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    operator_id uuid NOT NULL REFERENCES operators (id) ON DELETE CASCADE,
    secret_hash bytea NOT NULL,
    label varchar(100) NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT operator_tokens_secret_unique UNIQUE (secret_hash)
);
-- Serves the list of an operator's tokens.
CREATE INDEX idx_operator_tokens_operator ON operator_tokens (operator_id);

-- Browsers that are signed in: the cookie's value as its SHA-256. Gone with a logout, a new password, a disabled operator.
CREATE TABLE operator_sessions (
    secret_hash bytea PRIMARY KEY,
    operator_id uuid NOT NULL REFERENCES operators (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    address varchar(64) NOT NULL DEFAULT ''
);
-- Serves the end of an operator's sessions, and of those that have expired.
CREATE INDEX idx_operator_sessions_operator ON operator_sessions (operator_id);
CREATE INDEX idx_operator_sessions_expires ON operator_sessions (expires_at);

-- What operators did that is no action on a player: signing in, failing to, looking at exact places, exporting, changing
-- accounts. With `liveops_actions` this is the audit log.
CREATE TABLE operator_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    operator varchar(64) NOT NULL,
    role varchar(20) NOT NULL DEFAULT '',
    what varchar(50) NOT NULL,
    -- Whom it concerns; an erase takes it along.
    user_id uuid REFERENCES users (id) ON DELETE CASCADE,
    address varchar(64) NOT NULL DEFAULT '',
    details jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT operator_log_details_is_object CHECK (jsonb_typeof(details) = 'object')
);
-- Serves the audit log, newest first.
CREATE INDEX idx_operator_log_at ON operator_log (at, id);
-- Serves what was looked at of a player, and the end of a player.
CREATE INDEX idx_operator_log_user ON operator_log (user_id, at);
