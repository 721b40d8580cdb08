-- What operators and services do to players: a row is the journal of an action, written before the action is applied and
-- marked by the flush that saved it. An operator's edit is no play: the days a player played are counted without it.
--
-- Lock: none that lasts; a table of its own, and the function that rebuilds the rollups is replaced. Runs before the new
-- code. A flusher from before would save actions and not mark them: restart flushers before anybody asks for an action.

-- What operators and services do to players, each one row: asked for (`requested`), saved (`done`), or without effect
-- (`refused`, and `message` says why). The row of an action on a progress is its journal: `ops_seq` is its number in the
-- stream `ops` of that progress, in whose order actions are applied. Other actions (a ban, a message to everybody) have no
-- progress and no number, and an executor of their own.
CREATE TABLE liveops_actions (
    id uuid PRIMARY KEY,
    experience_progress_id uuid REFERENCES experience_progress (id) ON DELETE CASCADE,
    ops_seq bigint,
    -- Whom it concerns; NULL for an action that concerns nobody in particular, or somebody who was erased by it.
    user_id uuid REFERENCES users (id) ON DELETE CASCADE,
    experience_id varchar(100),
    operator varchar(200) NOT NULL,
    role varchar(20) NOT NULL,
    action varchar(50) NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}',
    reason varchar(1000) NOT NULL DEFAULT '',
    state varchar(10) NOT NULL DEFAULT 'requested',
    message varchar(500),
    result jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz,
    CONSTRAINT liveops_actions_state_known CHECK (state IN ('requested', 'done', 'refused')),
    CONSTRAINT liveops_actions_end_has_time CHECK ((state = 'requested') = (done_at IS NULL)),
    CONSTRAINT liveops_actions_progress_has_number CHECK ((experience_progress_id IS NULL) = (ops_seq IS NULL)),
    CONSTRAINT liveops_actions_ops_seq_positive CHECK (ops_seq >= 1),
    CONSTRAINT liveops_actions_operator_not_empty CHECK (operator <> ''),
    CONSTRAINT liveops_actions_action_not_empty CHECK (action <> ''),
    CONSTRAINT liveops_actions_payload_is_object CHECK (jsonb_typeof(payload) = 'object')
);

-- Serves "what must still be applied to this progress, in order", and keeps two actions from having one number.
CREATE UNIQUE INDEX idx_liveops_actions_stream ON liveops_actions (experience_progress_id, ops_seq);
-- Serves the sweep for actions that nobody has applied yet.
CREATE INDEX idx_liveops_actions_requested ON liveops_actions (created_at, id) WHERE state = 'requested';
-- Serves "what was done to this player", newest first, and the end of a player.
CREATE INDEX idx_liveops_actions_user ON liveops_actions (user_id, created_at);
-- Serves the audit log, newest first.
CREATE INDEX idx_liveops_actions_created ON liveops_actions (created_at, id);

-- Ask for an action on a progress: under the row lock of the progress it gets the next number of the stream `ops`. Asked
-- again with the same id it is the same action. No row: there is no such progress. WH001: too many wait to be applied.
CREATE FUNCTION request_action(
    wanted_id uuid, wanted_user uuid, wanted_experience text, by_operator text, by_role text, wanted_action text,
    wanted_payload jsonb, why text, waiting_max integer
) RETURNS SETOF liveops_actions LANGUAGE plpgsql AS $$
DECLARE
    progress uuid;
BEGIN
    -- A statement of its own: what is read below is as it is after the wait for the lock.
    SELECT p.id INTO progress
    FROM player_profiles f JOIN experience_progress p ON p.player_id = f.id AND p.experience_id = wanted_experience
    WHERE f.user_id = wanted_user
    FOR NO KEY UPDATE OF p;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT * FROM liveops_actions a WHERE a.id = wanted_id;
    IF FOUND THEN
        RETURN;
    END IF;
    IF (SELECT count(*) FROM liveops_actions a WHERE a.experience_progress_id = progress AND a.state = 'requested') >= waiting_max THEN
        RAISE EXCEPTION 'too many actions on this progress wait to be applied' USING ERRCODE = 'WH001';
    END IF;
    RETURN QUERY
        INSERT INTO liveops_actions (
            id, experience_progress_id, ops_seq, user_id, experience_id, operator, role, action, payload, reason
        )
        SELECT wanted_id, progress, 1 + GREATEST(
                   COALESCE((SELECT max(a.ops_seq) FROM liveops_actions a WHERE a.experience_progress_id = progress), 0),
                   COALESCE((SELECT d.last_seq FROM device_streams d
                             WHERE d.experience_progress_id = progress AND d.device_id = 'ops'), 0)
               ), wanted_user, wanted_experience, by_operator, by_role, wanted_action, wanted_payload, why
        RETURNING *;
END
$$;

CREATE OR REPLACE FUNCTION rebuild_rollups(first_day date DEFAULT '-infinity', only_experience text DEFAULT NULL)
RETURNS void LANGUAGE plpgsql SET enable_nestloop = off AS $$
DECLARE
    since timestamptz := first_day::timestamp AT TIME ZONE 'UTC';
BEGIN
    -- Everybody else writes events first, then contents and rollups: whoever is at it is waited for, nobody else begins.
    LOCK TABLE player_progress_events IN SHARE MODE;

    INSERT INTO contents (experience_id, event_type, content_id)
    SELECT DISTINCT p.experience_id, e.event_type, e.content_id
    FROM player_progress_events e JOIN experience_progress p ON p.id = e.experience_progress_id
    WHERE e.content_id IS NOT NULL AND e.event_type <> 'update' AND e."timestamp" >= since
      AND (only_experience IS NULL OR p.experience_id = only_experience)
    ON CONFLICT DO NOTHING;

    DELETE FROM content_hours h USING contents c
    WHERE c.id = h.content AND h.hour >= since AND (only_experience IS NULL OR c.experience_id = only_experience);
    DELETE FROM content_player_days d USING contents c
    WHERE c.id = d.content AND d.day >= first_day AND (only_experience IS NULL OR c.experience_id = only_experience);
    DELETE FROM experience_hours
    WHERE hour >= since AND (only_experience IS NULL OR experience_id = only_experience);
    DELETE FROM player_days
    WHERE day >= rebuild_rollups.first_day AND (only_experience IS NULL OR experience_id = only_experience);

    INSERT INTO content_hours (content, hour, shard, events, timed_events, time_spent_ms)
    SELECT c.id, date_bin('1 hour', e."timestamp", '2000-01-01 00:00:00+00'), 0, count(*),
           count(time_spent_ms(e.data)), COALESCE(sum(time_spent_ms(e.data)), 0)
    FROM player_progress_events e
    JOIN experience_progress p ON p.id = e.experience_progress_id
    JOIN contents c ON c.experience_id = p.experience_id AND c.event_type = e.event_type AND c.content_id = e.content_id
    WHERE e.event_type <> 'update' AND e."timestamp" >= since
      AND (only_experience IS NULL OR p.experience_id = only_experience)
    GROUP BY 1, 2;

    INSERT INTO content_player_days (content, day, experience_progress_id, events, first_at)
    SELECT c.id, (e."timestamp" AT TIME ZONE 'UTC')::date, e.experience_progress_id, count(*), min(e."timestamp")
    FROM player_progress_events e
    JOIN experience_progress p ON p.id = e.experience_progress_id
    JOIN contents c ON c.experience_id = p.experience_id AND c.event_type = e.event_type AND c.content_id = e.content_id
    WHERE e.event_type <> 'update' AND e."timestamp" >= since
      AND (only_experience IS NULL OR p.experience_id = only_experience)
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3;

    INSERT INTO experience_hours (experience_id, hour, shard, updates, playtime_ms)
    SELECT p.experience_id, date_bin('1 hour', e."timestamp", '2000-01-01 00:00:00+00'), 0, count(*), sum(e.playtime_ms)
    FROM player_progress_events e JOIN experience_progress p ON p.id = e.experience_progress_id
    WHERE e."timestamp" >= since AND (only_experience IS NULL OR p.experience_id = only_experience)
    GROUP BY 1, 2;

    INSERT INTO player_days (experience_id, day, experience_progress_id, updates, playtime_ms, first_at)
    SELECT p.experience_id, (e."timestamp" AT TIME ZONE 'UTC')::date, e.experience_progress_id, count(*),
           sum(e.playtime_ms), min(e."timestamp")
    FROM player_progress_events e JOIN experience_progress p ON p.id = e.experience_progress_id
    WHERE e."timestamp" >= since AND (only_experience IS NULL OR p.experience_id = only_experience)
      -- An operator's edit is no play.
      AND NOT (e.device_id = 'ops' AND e.event_type = 'operator_edit')
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3;
END
$$;
