-- The whole database as a fresh install sees it. Migrations arrive at the same place; a test compares the two.
-- All times are timestamptz. Amounts that must add up exactly are whole numbers (ms, millionths of a metre); the
-- data model's columns in seconds and metres are generated from them.

CREATE TABLE schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What spans experiences. Kept by the flush, in the transaction of the progress that it adds up.
CREATE TABLE player_profiles (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL UNIQUE REFERENCES users (id) ON DELETE CASCADE,
    total_experiences_played integer NOT NULL DEFAULT 0,
    total_playtime_ms bigint NOT NULL DEFAULT 0,
    total_playtime_seconds integer GENERATED ALWAYS AS ((total_playtime_ms / 1000)::integer) STORED,
    total_distance_micrometers bigint NOT NULL DEFAULT 0,
    total_distance_meters double precision GENERATED ALWAYS AS (total_distance_micrometers / 1000000.0::double precision) STORED,
    account_level integer NOT NULL DEFAULT 1,
    stats jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT player_profiles_playtime_not_negative CHECK (total_playtime_ms >= 0),
    CONSTRAINT player_profiles_stats_is_object CHECK (jsonb_typeof(stats) = 'object')
);

-- One player in one experience: the unit of state. `version` and `last_entry` say how far the log got that made this
-- state; entry 0 is the row itself, so that a log of an erased player never continues a new row.
CREATE TABLE experience_progress (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    player_id uuid NOT NULL REFERENCES player_profiles (id) ON DELETE CASCADE,
    experience_id varchar(100) NOT NULL,
    started_at timestamptz,
    completed_at timestamptz,
    last_played_at timestamptz,
    playtime_ms bigint NOT NULL DEFAULT 0,
    playtime_seconds integer GENERATED ALWAYS AS ((playtime_ms / 1000)::integer) STORED,
    completion_percentage double precision NOT NULL DEFAULT 0,
    current_location varchar(255),
    state jsonb NOT NULL DEFAULT '{}',
    -- How to read `state` back where its shape does not tell: a number that is a value and no counter, an object that is a value.
    kinds jsonb NOT NULL DEFAULT '{}',
    distance_micrometers bigint NOT NULL DEFAULT 0,
    -- The newest update's timestamp, from which the next one's share of the playtime is counted.
    last_update_at timestamptz,
    version bigint NOT NULL DEFAULT 0,
    last_entry uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (player_id, experience_id),
    CONSTRAINT experience_progress_version_not_negative CHECK (version >= 0),
    CONSTRAINT experience_progress_playtime_not_negative CHECK (playtime_ms >= 0),
    CONSTRAINT experience_progress_completion_is_percentage CHECK (completion_percentage BETWEEN 0 AND 100),
    CONSTRAINT experience_progress_state_is_object CHECK (jsonb_typeof(state) = 'object')
) WITH (fillfactor = 60);

-- Serves "who plays this experience, and since when": lists of an experience by last play.
CREATE INDEX idx_experience_progress_last_played ON experience_progress (experience_id, last_played_at);

-- What happened, for ever. Exactly one row for each accepted update that had an effect. The identity was fixed when the
-- update was accepted; the authority against duplicates is the version under the progress lock, the key a second net.
CREATE TABLE player_progress_events (
    id uuid NOT NULL,
    experience_progress_id uuid NOT NULL REFERENCES experience_progress (id) ON DELETE CASCADE,
    event_type varchar(50) NOT NULL,
    content_id varchar(255),
    data jsonb NOT NULL DEFAULT '{}',
    -- The effects that came with the event, so that the state can be computed again from the log.
    effects jsonb,
    location_lat double precision,
    location_lng double precision,
    "timestamp" timestamptz NOT NULL,
    device_id varchar(64) NOT NULL,
    seq bigint NOT NULL,
    version bigint NOT NULL,
    session_id uuid,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (experience_progress_id, version, "timestamp"),
    CONSTRAINT player_progress_events_seq_positive CHECK (seq >= 1),
    CONSTRAINT player_progress_events_version_positive CHECK (version >= 1),
    CONSTRAINT player_progress_events_type_not_empty CHECK (event_type <> ''),
    CONSTRAINT player_progress_events_lat_in_range CHECK (location_lat BETWEEN -90 AND 90),
    CONSTRAINT player_progress_events_lng_in_range CHECK (location_lng BETWEEN -180 AND 180)
) PARTITION BY RANGE ("timestamp");

-- Serves "who was at this waypoint, and when".
CREATE INDEX idx_progress_events_content_id ON player_progress_events (content_id, "timestamp") WHERE content_id IS NOT NULL;
-- Serves windows of time over everything; a hundredth of a b-tree's size, because events arrive nearly in order.
CREATE INDEX idx_progress_events_timestamp ON player_progress_events USING brin ("timestamp");

-- Nothing should ever land here: timestamps are bounded and partitions are made ahead. It keeps a flush whole all the same.
CREATE TABLE player_progress_events_default PARTITION OF player_progress_events DEFAULT;

-- Makes the months of events from `first_day` on that are missing. Cheap when nothing is.
CREATE FUNCTION ensure_event_partitions(first_day date, last_day date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    month date := date_trunc('month', first_day)::date;
    made integer := 0;
    partition_name text;
BEGIN
    WHILE month <= last_day LOOP
        partition_name := 'player_progress_events_' || to_char(month, 'YYYY_MM');
        IF to_regclass(partition_name) IS NULL THEN
            BEGIN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF player_progress_events FOR VALUES FROM (%L) TO (%L)',
                    partition_name,
                    to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
                    to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00'
                );
                made := made + 1;
            EXCEPTION WHEN check_violation THEN
                -- Events of that month lie in the default partition already: so will its others. The months after it
                -- are made all the same.
                RAISE WARNING 'partition % cannot be made: the default partition holds rows of that month', partition_name;
            END;
        END IF;
        month := (month + interval '1 month')::date;
    END LOOP;
    RETURN made;
END
$$;

-- How far each device's numbered updates are saved: what a client is told, and from which number on a hydrated copy
-- takes the next, so what refuses duplicates when Redis has forgotten.
CREATE TABLE device_streams (
    experience_progress_id uuid NOT NULL REFERENCES experience_progress (id) ON DELETE CASCADE,
    device_id varchar(64) NOT NULL,
    last_seq bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (experience_progress_id, device_id),
    CONSTRAINT device_streams_last_seq_positive CHECK (last_seq >= 1)
);

-- Periods of play. Start and end are upserts by id that may arrive in any order, so nothing refers to this table.
CREATE TABLE player_sessions (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    experience_id varchar(100) NOT NULL,
    device_id varchar(64) NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason varchar(20),
    playtime_ms bigint NOT NULL DEFAULT 0,
    playtime_seconds integer GENERATED ALWAYS AS ((playtime_ms / 1000)::integer) STORED,
    CONSTRAINT player_sessions_end_has_reason CHECK ((ended_at IS NULL) = (end_reason IS NULL)),
    CONSTRAINT player_sessions_end_reason_known CHECK (
        end_reason IN ('left', 'expired', 'switched', 'replaced', 'kicked', 'banned', 'erased', 'lost')
    )
);

-- Serves a player's sessions, newest first.
CREATE INDEX idx_player_sessions_user ON player_sessions (user_id, started_at);

-- Serves the sweep for sessions that nobody will end any more: Redis lost them.
CREATE INDEX idx_player_sessions_open ON player_sessions (started_at) WHERE ended_at IS NULL;

-- Event rows that Postgres refused for their data. Everything else of their progress was written.
CREATE TABLE dead_letters (
    id uuid PRIMARY KEY,
    experience_progress_id uuid NOT NULL REFERENCES experience_progress (id) ON DELETE CASCADE,
    device_id text NOT NULL,
    seq bigint NOT NULL,
    version bigint NOT NULL,
    payload bytea NOT NULL,
    reason text NOT NULL,
    sqlstate text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What belongs to this installation alone. `hash_key` makes the hashes of erased players useless to anybody else.
CREATE TABLE installation (
    is_only_row boolean PRIMARY KEY DEFAULT true,
    hash_key bytea NOT NULL DEFAULT decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'),
    CONSTRAINT installation_has_one_row CHECK (is_only_row)
);
INSERT INTO installation DEFAULT VALUES;

-- Tombstones: who was erased, and which devices they had, as keyed hashes. A token from before `erased_at` and every
-- known device are refused for ever; `erased_at` is infinity while an erase is under way.
CREATE TABLE erased_players (
    user_hash bytea PRIMARY KEY,
    device_hashes bytea[] NOT NULL DEFAULT '{}',
    erased_at timestamptz NOT NULL
);

-- Hello in one statement, so in one transaction: is this player allowed in, what do we have of the progress; rows that
-- are missing are made. `is_erased` alone comes back for whom a tombstone refuses: nothing is read or made then.
CREATE FUNCTION open_progress(
    wanted_user uuid, wanted_experience text, device text, token_issued_at timestamptz, tombstone bytea, device_tombstone bytea
) RETURNS TABLE (
    is_erased boolean, id uuid, version bigint, last_entry uuid, state text, kinds text, device_seq bigint
) LANGUAGE plpgsql AS $$
BEGIN
    -- An erase takes the same lock alone: it waits for a hello that is making rows, and deletes them too.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(encode(tombstone, 'hex'), 0));
    IF EXISTS (
        SELECT 1 FROM erased_players e
        WHERE e.user_hash = tombstone
          AND (token_issued_at IS NULL OR token_issued_at <= e.erased_at OR device_tombstone = ANY (e.device_hashes))
    ) THEN
        RETURN QUERY SELECT true, NULL::uuid, NULL::bigint, NULL::uuid, NULL::text, NULL::text, NULL::bigint;
        RETURN;
    END IF;
    FOR attempt IN 1..2 LOOP
        RETURN QUERY
            SELECT false, p.id, p.version, p.last_entry, p.state::text, p.kinds::text, COALESCE(d.last_seq, 0)
            FROM player_profiles f
            JOIN experience_progress p ON p.player_id = f.id AND p.experience_id = wanted_experience
            LEFT JOIN device_streams d ON d.experience_progress_id = p.id AND d.device_id = device
            WHERE f.user_id = wanted_user;
        IF FOUND THEN
            RETURN;
        END IF;
        INSERT INTO users (id) VALUES (wanted_user) ON CONFLICT DO NOTHING;
        INSERT INTO player_profiles (user_id) VALUES (wanted_user) ON CONFLICT DO NOTHING;
        -- Entry 0 of a progress is its own id.
        INSERT INTO experience_progress (id, last_entry, player_id, experience_id)
        SELECT made.id, made.id, f.id, wanted_experience
        FROM player_profiles f, (SELECT gen_random_uuid() AS id) AS made
        WHERE f.user_id = wanted_user
        ON CONFLICT DO NOTHING;
    END LOOP;
END
$$;
