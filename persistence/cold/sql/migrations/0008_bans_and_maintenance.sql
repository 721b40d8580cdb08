-- Operators help players: who may not play and until when, whether players are asked to wait, and what an action needs to
-- be undone: what it found (`before`), and which action it takes back (`undo_of`).
--
-- Lock: liveops_actions for as long as its rows are rewritten, which is short: it has one for each action of a person.
-- Runs before the new code; gateways from before neither look at bans nor at maintenance.

ALTER TABLE liveops_actions
    ADD COLUMN before jsonb,
    ADD COLUMN undo_of uuid GENERATED ALWAYS AS ((payload ->> 'undo_of')::uuid) STORED;
-- Serves "was it taken back?", and keeps an action from being taken back twice.
CREATE UNIQUE INDEX idx_liveops_actions_undo ON liveops_actions (undo_of)
    WHERE undo_of IS NOT NULL AND state <> 'refused';

-- Who may not play: the last word about each player. Redis has a copy, for hellos while this is away.
CREATE TABLE bans (
    user_id uuid PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    action_id uuid NOT NULL,
    -- When it was asked for: an older word that comes late changes nothing.
    asked_at timestamptz NOT NULL,
    -- NULL: for ever.
    until timestamptz,
    message varchar(300) NOT NULL DEFAULT '',
    reason varchar(1000) NOT NULL DEFAULT '',
    operator varchar(200) NOT NULL,
    lifted_at timestamptz,
    lifted_by varchar(200),
    CONSTRAINT bans_lifted_by_somebody CHECK ((lifted_at IS NULL) = (lifted_by IS NULL))
);
-- Serves the list of bans that hold, newest first, and bringing them back to a Redis that has forgotten.
CREATE INDEX idx_bans_hold ON bans (asked_at, user_id) WHERE lifted_at IS NULL;

-- Whether players are asked to wait, from when, and what they are told: the last word.
CREATE TABLE maintenance (
    is_only_row boolean PRIMARY KEY DEFAULT true,
    is_on boolean NOT NULL,
    starts_at timestamptz NOT NULL,
    message varchar(300) NOT NULL DEFAULT '',
    action_id uuid NOT NULL,
    asked_at timestamptz NOT NULL,
    operator varchar(200) NOT NULL,
    CONSTRAINT maintenance_only_row CHECK (is_only_row)
);
