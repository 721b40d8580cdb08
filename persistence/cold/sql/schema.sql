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
) WITH (fillfactor = 80);

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
) WITH (fillfactor = 75);

-- A third less CPU per state than pglz. A server that was built without lz4 keeps what it has.
DO $$
BEGIN
    ALTER TABLE experience_progress ALTER COLUMN state SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

-- Serves "who plays this experience, and since when", and all that analytics and leaderboards ask of every player of an
-- experience, without reading their states. The index changes with every flush anyway, so what it holds costs its size.
CREATE INDEX idx_experience_progress_last_played ON experience_progress (experience_id, last_played_at)
    INCLUDE (id, started_at, completed_at, completion_percentage, playtime_ms, distance_micrometers, current_location);

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
    -- What this update added to the playtime: the gap since the one before it, 0 to 60 s. Kept, because the one before
    -- may lie in dead_letters or be gone when somebody adds up.
    playtime_ms integer NOT NULL DEFAULT 0,
    PRIMARY KEY (experience_progress_id, version, "timestamp"),
    CONSTRAINT player_progress_events_seq_positive CHECK (seq >= 1),
    CONSTRAINT player_progress_events_version_positive CHECK (version >= 1),
    CONSTRAINT player_progress_events_type_not_empty CHECK (event_type <> ''),
    CONSTRAINT player_progress_events_lat_in_range CHECK (location_lat BETWEEN -90 AND 90),
    CONSTRAINT player_progress_events_lng_in_range CHECK (location_lng BETWEEN -180 AND 180)
) PARTITION BY RANGE ("timestamp");

-- Serves "who was at this waypoint, and when".
CREATE INDEX idx_progress_events_content_id ON player_progress_events (content_id, "timestamp") WHERE content_id IS NOT NULL;
-- Serves windows of time over everything; a hundredth of a b-tree's size, because events arrive nearly in order. Several
-- spans for each range of pages, because a few are sent days after they happened. Without autosummarize every query would
-- read what was written since the last vacuum.
CREATE INDEX idx_progress_events_timestamp ON player_progress_events
    USING brin ("timestamp" timestamptz_minmax_multi_ops) WITH (pages_per_range = 64, autosummarize = on);

-- Nothing should ever land here: timestamps are bounded and partitions are made ahead. It keeps a flush whole all the same.
CREATE TABLE player_progress_events_default PARTITION OF player_progress_events DEFAULT;

-- Makes the months of events from `first_day` on that are missing. Cheap when nothing is.
-- Whoever may write events may have it done, as the owner: only an owner makes tables.
CREATE FUNCTION ensure_event_partitions(first_day date, last_day date) RETURNS integer LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
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
-- Not for everybody: it acts as the owner. The role of gateways and flushers is granted it with the tables.
REVOKE EXECUTE ON FUNCTION ensure_event_partitions(date, date) FROM PUBLIC;

-- How far each device's numbered updates are saved: what a client is told, and from which number on a hydrated copy
-- takes the next, so what refuses duplicates when Redis has forgotten.
CREATE TABLE device_streams (
    experience_progress_id uuid NOT NULL REFERENCES experience_progress (id) ON DELETE CASCADE,
    device_id varchar(64) NOT NULL,
    last_seq bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (experience_progress_id, device_id),
    CONSTRAINT device_streams_last_seq_positive CHECK (last_seq >= 1)
) WITH (fillfactor = 80);

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
) WITH (fillfactor = 70);

-- Serves a player's sessions, newest first.
CREATE INDEX idx_player_sessions_user ON player_sessions (user_id, started_at);

-- Serves "how long are sessions of this experience", by when they began.
CREATE INDEX idx_player_sessions_experience ON player_sessions (experience_id, started_at) INCLUDE (ended_at);

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
    created_at timestamptz NOT NULL DEFAULT now(),
    playtime_ms integer NOT NULL DEFAULT 0,
    -- An operator let go of it: it is listed no more and never replayed. It stays, because the state contains its effects
    -- and could not be computed again without it.
    dropped_at timestamptz
);

-- Serves the list of dead letters and the gauge that counts them, past those that an operator has dropped.
CREATE INDEX idx_dead_letters_open ON dead_letters (created_at, id) WHERE dropped_at IS NULL;

-- Serves the end of a progress (every one of its rows goes) and the export of a player.
CREATE INDEX idx_dead_letters_progress ON dead_letters (experience_progress_id);

-- What events are about, as numbers: one row for each (experience, type, content) that any event named. A row is never
-- changed and never goes, so whoever has seen one committed may remember it.
CREATE TABLE contents (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    experience_id varchar(100) NOT NULL,
    event_type varchar(50) NOT NULL,
    content_id varchar(255) NOT NULL,
    CONSTRAINT contents_key UNIQUE (experience_id, event_type, content_id)
);

-- Rollups: kept by the flush in the transaction of the events that they add up, each flusher in a shard of its own, so
-- that nobody waits for a popular place. Shard 16 belongs to erases and replayed dead letters; its rows may be negative:
-- only the sum over the shards means something.

-- Visits and time spent, by the hour (UTC) of the event's own timestamp.
CREATE TABLE content_hours (
    content integer NOT NULL REFERENCES contents (id),
    hour timestamptz NOT NULL,
    shard smallint NOT NULL,
    events bigint NOT NULL,
    -- Events whose data.time_spent is usable, and the sum of those: an average needs both.
    timed_events bigint NOT NULL,
    time_spent_ms bigint NOT NULL,
    PRIMARY KEY (content, hour, shard),
    CONSTRAINT content_hours_shard_in_range CHECK (shard BETWEEN 0 AND 16)
) WITH (fillfactor = 80);

-- Who met which content on which day (UTC): unique players over any run of days. No foreign key, one row for nearly
-- every event: an erase finds a player's rows by the days they played and the contents of the experience.
CREATE TABLE content_player_days (
    content integer NOT NULL,
    day date NOT NULL,
    experience_progress_id uuid NOT NULL,
    events integer NOT NULL,
    first_at timestamptz NOT NULL,
    PRIMARY KEY (content, day, experience_progress_id)
);

-- Updates of any kind, and played time: a gap belongs to the hour of the update that ended it.
CREATE TABLE experience_hours (
    experience_id varchar(100) NOT NULL,
    hour timestamptz NOT NULL,
    shard smallint NOT NULL,
    updates bigint NOT NULL,
    playtime_ms bigint NOT NULL,
    PRIMARY KEY (experience_id, hour, shard),
    CONSTRAINT experience_hours_shard_in_range CHECK (shard BETWEEN 0 AND 16)
) WITH (fillfactor = 80);

-- Who played on which day (UTC): active players, retention, playtime per day.
CREATE TABLE player_days (
    experience_id varchar(100) NOT NULL,
    day date NOT NULL,
    experience_progress_id uuid NOT NULL,
    updates integer NOT NULL,
    playtime_ms bigint NOT NULL,
    first_at timestamptz NOT NULL,
    -- The player's first day of all: what a cohort is. Kept by the trigger below.
    first_day date,
    PRIMARY KEY (experience_id, day, experience_progress_id)
) WITH (fillfactor = 80);

-- Serves an erase (which days did this player play?) and cohorts (what was their first day?).
CREATE INDEX idx_player_days_progress ON player_days (experience_progress_id, day);

-- Serves cohorts (retention, new players): only the days that decide about them are in it.
CREATE INDEX idx_player_days_cohort ON player_days (experience_id, first_day, day) WHERE day - first_day IN (0, 1, 7, 30);

-- A new day of a player: it learns which was their first one; a day that came late may be the first of those after it.
CREATE FUNCTION keep_first_days() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE player_days d SET first_day = f.first_day
    FROM (SELECT i.experience_progress_id, i.new_day,
                 (SELECT min(e.day) FROM player_days e WHERE e.experience_progress_id = i.experience_progress_id) AS first_day
          FROM (SELECT experience_progress_id, min(day) AS new_day FROM inserted GROUP BY experience_progress_id) AS i) AS f
    WHERE d.experience_progress_id = f.experience_progress_id AND d.day >= f.new_day
      AND d.first_day IS DISTINCT FROM f.first_day;
    RETURN NULL;
END
$$;

CREATE TRIGGER player_days_first_day AFTER INSERT ON player_days
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION keep_first_days();

-- The time that an event says was spent, in ms; null when it says none that is usable: a number of seconds, 0 to a day.
CREATE FUNCTION time_spent_ms(data jsonb) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN jsonb_typeof(data -> 'time_spent') = 'number' THEN
        CASE WHEN (data ->> 'time_spent')::numeric BETWEEN 0 AND 86400
             THEN round((data ->> 'time_spent')::numeric * 1000)::integer END
    END
$$;

-- The level that a profile's totals come to. Points: so many per hour played, per kilometre, per achievement, each
-- rounded down; level 2 takes `step_points`, every further level `step_points` more than the one before it took.
CREATE FUNCTION account_level_of(
    playtime_ms bigint, distance_micrometers bigint, achievements bigint,
    points_per_hour bigint, points_per_km bigint, points_per_achievement bigint, step_points bigint, level_max bigint
) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT LEAST(level_max, floor((1 + sqrt((1 + 8 * ((
        playtime_ms * points_per_hour / 3600000
        + GREATEST(distance_micrometers, 0) / 1000000 * points_per_km / 1000
        + achievements * points_per_achievement
    ) / step_points))::double precision)) / 2))::integer
$$;

-- Compute the rollups again from the events, from a day on (UTC) and for one experience or all. Exact beside flushers
-- that run: they wait. Days from which events were removed must not be asked for: their totals would shrink.
-- Without nested loops, because the planner takes (experience, type, content) for independent facts, expects a thousandth
-- of the rows that match, and would look each of ten million up.
CREATE FUNCTION rebuild_rollups(first_day date DEFAULT '-infinity', only_experience text DEFAULT NULL)
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

    INSERT INTO player_days (experience_id, day, experience_progress_id, updates, playtime_ms, first_at, first_day)
    SELECT p.experience_id, (e."timestamp" AT TIME ZONE 'UTC')::date, e.experience_progress_id, count(*),
           sum(e.playtime_ms), min(e."timestamp"),
           -- As the trigger would find it, which then has nothing to change: a row that is changed takes its place twice.
           LEAST(min((e."timestamp" AT TIME ZONE 'UTC')::date) OVER (PARTITION BY e.experience_progress_id),
                 (SELECT min(o.day) FROM player_days o WHERE o.experience_progress_id = e.experience_progress_id))
    FROM player_progress_events e JOIN experience_progress p ON p.id = e.experience_progress_id
    WHERE e."timestamp" >= since AND (only_experience IS NULL OR p.experience_id = only_experience)
      -- An operator's edit is no play.
      AND NOT (e.device_id = 'ops' AND e.event_type = 'operator_edit')
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3;
END
$$;

-- Take a player's share out of the rollups: part of an erase, which holds the player's progress rows locked and deletes
-- the events afterwards. What events were removed before (retention) stays in the hourly totals: nobody knows whose it is.
CREATE FUNCTION erase_rollups(wanted_user uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    progress_ids uuid[] := ARRAY(
        SELECT p.id FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id WHERE f.user_id = wanted_user
    );
BEGIN
    -- What the deletion will need anyway, taken before any rollup: a rebuild that is under way is waited for here.
    LOCK TABLE player_progress_events IN ROW EXCLUSIVE MODE;

    INSERT INTO content_hours AS h (content, hour, shard, events, timed_events, time_spent_ms)
    SELECT c.id, date_bin('1 hour', e."timestamp", '2000-01-01 00:00:00+00'), 16, -count(*),
           -count(time_spent_ms(e.data)), -COALESCE(sum(time_spent_ms(e.data)), 0)
    FROM player_progress_events e
    JOIN experience_progress p ON p.id = e.experience_progress_id
    JOIN contents c ON c.experience_id = p.experience_id AND c.event_type = e.event_type AND c.content_id = e.content_id
    WHERE e.experience_progress_id = ANY (progress_ids) AND e.event_type <> 'update'
    GROUP BY 1, 2
    ORDER BY 1, 2
    ON CONFLICT (content, hour, shard) DO UPDATE SET
        events = h.events + EXCLUDED.events,
        timed_events = h.timed_events + EXCLUDED.timed_events,
        time_spent_ms = h.time_spent_ms + EXCLUDED.time_spent_ms;

    INSERT INTO experience_hours AS h (experience_id, hour, shard, updates, playtime_ms)
    SELECT p.experience_id, date_bin('1 hour', e."timestamp", '2000-01-01 00:00:00+00'), 16, -count(*), -sum(e.playtime_ms)
    FROM player_progress_events e JOIN experience_progress p ON p.id = e.experience_progress_id
    WHERE e.experience_progress_id = ANY (progress_ids)
    GROUP BY 1, 2
    ORDER BY 1, 2
    ON CONFLICT (experience_id, hour, shard) DO UPDATE SET
        updates = h.updates + EXCLUDED.updates,
        playtime_ms = h.playtime_ms + EXCLUDED.playtime_ms;

    DELETE FROM content_player_days d
    USING player_days p, contents c
    WHERE p.experience_progress_id = ANY (progress_ids) AND c.experience_id = p.experience_id
      AND d.content = c.id AND d.day = p.day AND d.experience_progress_id = p.experience_progress_id;
    DELETE FROM player_days WHERE experience_progress_id = ANY (progress_ids);
END
$$;

-- How far the events of an experience were removed for their age. Whoever computes something again from events compares
-- from `horizon` on: it is the start of a day (UTC), only moves forward, and is moved before the first event goes.
CREATE TABLE event_retention (
    experience_id varchar(100) PRIMARY KEY,
    horizon timestamptz NOT NULL,
    -- How far the present round got: no event of the experience is older than this, but for those that came late.
    swept_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Removed one by one; what went with a whole partition was not counted.
    removed_events bigint NOT NULL DEFAULT 0,
    -- Who sweeps, and until when nobody else does.
    lease_holder text,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT event_retention_horizon_is_day CHECK (horizon = date_trunc('day', horizon AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')
);

-- Says that events of an experience go when they are `days` old, at the end of that day (UTC). Never moves back.
-- Moving it begins a round: over what became too old, and over what may have come late (an event is believed for 90 days).
CREATE FUNCTION move_event_horizon(wanted_experience text, days integer) RETURNS timestamptz LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    wanted timestamptz := date_trunc('day', (now() - make_interval(days => days)) AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    found timestamptz;
BEGIN
    IF days < 1 THEN
        RAISE EXCEPTION 'events are kept for a day at least, not for % days', days;
    END IF;
    INSERT INTO event_retention AS r (experience_id, horizon) VALUES (wanted_experience, wanted)
    ON CONFLICT (experience_id) DO UPDATE SET
        horizon = EXCLUDED.horizon,
        swept_until = LEAST(r.swept_until, now() - interval '92 days'),
        updated_at = now()
    WHERE r.horizon < EXCLUDED.horizon;
    SELECT r.horizon INTO found FROM event_retention r WHERE r.experience_id = wanted_experience;
    RETURN found;
END
$$;

-- Removes some of the events before the horizon: those up to `wanted_until`, `row_max` of them at most. One transaction
-- is one slice; the next goes on where it ended. No row when somebody else sweeps this experience.
CREATE FUNCTION remove_old_events(
    wanted_experience text, wanted_until timestamptz, row_max integer, holder text, lease_s double precision
) RETURNS TABLE (removed integer, until timestamptz, is_done boolean) LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    round event_retention%ROWTYPE;
    upper timestamptz;
    gone integer;
BEGIN
    SELECT * INTO round FROM event_retention r WHERE r.experience_id = wanted_experience FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR (round.lease_until > now() AND round.lease_holder IS DISTINCT FROM holder) THEN
        RETURN;
    END IF;
    upper := LEAST(wanted_until, round.horizon);
    -- Rows that an erase holds are left to it: waiting for each other, one of the two would be ended as a deadlock.
    WITH old AS (
        SELECT e.experience_progress_id, e.version, e."timestamp"
        FROM player_progress_events e JOIN experience_progress p ON p.id = e.experience_progress_id
        WHERE p.experience_id = wanted_experience AND e."timestamp" >= round.swept_until AND e."timestamp" < upper
        LIMIT row_max FOR UPDATE OF e SKIP LOCKED
    ), deleted AS (
        DELETE FROM player_progress_events e USING old
        WHERE e.experience_progress_id = old.experience_progress_id AND e.version = old.version
          AND e."timestamp" = old."timestamp" AND e."timestamp" >= round.swept_until AND e."timestamp" < upper
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    UPDATE event_retention r SET
        swept_until = CASE WHEN gone < row_max THEN GREATEST(r.swept_until, upper) ELSE r.swept_until END,
        removed_events = r.removed_events + gone,
        lease_holder = holder,
        lease_until = now() + make_interval(secs => lease_s),
        updated_at = now()
    WHERE r.experience_id = wanted_experience
    RETURNING gone, r.swept_until, r.swept_until >= r.horizon INTO removed, until, is_done;
    RETURN NEXT;
END
$$;

-- Drops the months that no experience keeps anything of. Only where every experience that is played removes its events:
-- one that keeps them for ever keeps every month. Months into which a late event may still fall stay.
CREATE FUNCTION drop_old_event_partitions() RETURNS text[] LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '1s' AS $$
DECLARE
    keep_from timestamptz := now() - interval '92 days';
    partition_name text;
    dropped text[] := '{}';
BEGIN
    -- Every experience that is played, by its index: one look for each, not one for each player.
    WITH RECURSIVE played AS (
        (SELECT p.experience_id FROM experience_progress p ORDER BY p.experience_id LIMIT 1)
        UNION ALL
        SELECT (SELECT p.experience_id FROM experience_progress p WHERE p.experience_id > played.experience_id
                ORDER BY p.experience_id LIMIT 1)
        FROM played WHERE played.experience_id IS NOT NULL
    )
    SELECT LEAST(keep_from, min(COALESCE(r.horizon, '-infinity'))) INTO keep_from
    FROM played LEFT JOIN event_retention r USING (experience_id) WHERE played.experience_id IS NOT NULL;
    FOR partition_name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'player_progress_events'::regclass
          AND c.relname ~ '^player_progress_events_[0-9]{4}_[0-9]{2}$'
          AND to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= keep_from AT TIME ZONE 'UTC'
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', partition_name);
        dropped := dropped || partition_name;
    END LOOP;
    RETURN dropped;
END
$$;

-- Not for everybody: these act as the owner, and what they remove is gone. Gateways and flushers are granted them.
REVOKE EXECUTE ON FUNCTION move_event_horizon(text, integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION remove_old_events(text, timestamptz, integer, text, double precision) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION drop_old_event_partitions() FROM PUBLIC;

-- The start of the oldest month that has a partition: where a first round begins, after a look at what lies outside.
CREATE FUNCTION oldest_event_month() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT min(to_date(right(c.relname, 7), 'YYYY_MM')::timestamp AT TIME ZONE 'UTC')
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'player_progress_events'::regclass AND c.relname ~ '^player_progress_events_[0-9]{4}_[0-9]{2}$'
$$;

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
    -- What the fields that it touches held when it was applied, and as which version: what an undo needs.
    before jsonb,
    undo_of uuid GENERATED ALWAYS AS ((payload ->> 'undo_of')::uuid) STORED,
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
-- Serves "was it taken back?", and keeps an action from being taken back twice.
CREATE UNIQUE INDEX idx_liveops_actions_undo ON liveops_actions (undo_of)
    WHERE undo_of IS NOT NULL AND state <> 'refused';

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

-- Analytics: what designers ask, as functions. Times are those of the events themselves, hours and days are UTC; a window
-- holds `since` and not `before`. Whole hours and days are read from the rollups, what a window cuts of them from the
-- events: every answer is exact, as of the last flush. Plain statements, so that the planner sees through them.
-- docs/analytics.md defines each number.

CREATE FUNCTION hour_of(at timestamptz) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT date_bin('1 hour', at, '2000-01-01 00:00:00+00')
$$;

-- The first hour that begins at `at` or later.
CREATE FUNCTION first_hour_from(at timestamptz) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT date_bin('1 hour', at + interval '3599.999999 seconds', '2000-01-01 00:00:00+00')
$$;

CREATE FUNCTION day_of(at timestamptz) RETURNS date LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (at AT TIME ZONE 'UTC')::date
$$;

-- The first day that begins at `at` or later.
CREATE FUNCTION first_day_from(at timestamptz) RETURNS date LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ((at + interval '86399.999999 seconds') AT TIME ZONE 'UTC')::date
$$;

-- A part of the others: what adds up to the visits of the contents of a type, of one or (null) of all. The hour in which
-- the window begins is counted from its events; the one in which it ends is taken whole, less the events after the end:
-- most windows end now, and after that there is nothing.
CREATE FUNCTION list_content_visits(
    wanted_experience text, wanted_type text, wanted_content text, since timestamptz, before timestamptz
) RETURNS TABLE (content_id varchar, events bigint, timed_events bigint, time_spent_ms bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT c.content_id, h.events, h.timed_events, h.time_spent_ms
    FROM contents c JOIN content_hours h ON h.content = c.id
    WHERE c.experience_id = wanted_experience AND c.event_type = wanted_type
      AND (wanted_content IS NULL OR c.content_id = wanted_content)
      AND h.hour >= first_hour_from(since) AND h.hour < first_hour_from(before)
    UNION ALL
    SELECT c.content_id, 1, CASE WHEN time_spent_ms(e.data) IS NULL THEN 0 ELSE 1 END, COALESCE(time_spent_ms(e.data), 0)
    FROM contents c
    JOIN player_progress_events e ON e.content_id = c.content_id AND e.event_type = c.event_type
        AND e."timestamp" >= since AND e."timestamp" < LEAST(first_hour_from(since), before)
    JOIN experience_progress p ON p.id = e.experience_progress_id AND p.experience_id = c.experience_id
    WHERE c.experience_id = wanted_experience AND c.event_type = wanted_type
      AND (wanted_content IS NULL OR c.content_id = wanted_content)
    UNION ALL
    SELECT c.content_id, -1, CASE WHEN time_spent_ms(e.data) IS NULL THEN 0 ELSE -1 END, -COALESCE(time_spent_ms(e.data), 0)
    FROM contents c
    JOIN player_progress_events e ON e.content_id = c.content_id AND e.event_type = c.event_type
        AND e."timestamp" >= before AND e."timestamp" < first_hour_from(before)
    JOIN experience_progress p ON p.id = e.experience_progress_id AND p.experience_id = c.experience_id
    WHERE c.experience_id = wanted_experience AND c.event_type = wanted_type
      AND (wanted_content IS NULL OR c.content_id = wanted_content)
      AND first_hour_from(since) < first_hour_from(before)
$$;

-- A part of the others: who met some contents, by the numbers of these; the same player several times. On the day in which
-- the window ends `first_at` decides; on the one in which it begins only the events can tell.
CREATE FUNCTION list_content_players(
    numbers integer[], since timestamptz, before timestamptz
) RETURNS TABLE (content integer, experience_progress_id uuid)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT d.content, d.experience_progress_id FROM content_player_days d
    WHERE d.content = ANY (numbers) AND d.day >= first_day_from(since) AND d.day < day_of(before)
    UNION ALL
    SELECT d.content, d.experience_progress_id FROM content_player_days d
    WHERE d.content = ANY (numbers) AND d.day >= first_day_from(since) AND d.day = day_of(before) AND d.first_at < before
    UNION ALL
    SELECT c.id, e.experience_progress_id
    FROM contents c
    JOIN player_progress_events e ON e.content_id = c.content_id AND e.event_type = c.event_type
        AND e."timestamp" >= since AND e."timestamp" < LEAST(first_day_from(since)::timestamp AT TIME ZONE 'UTC', before)
    JOIN experience_progress p ON p.id = e.experience_progress_id AND p.experience_id = c.experience_id
    WHERE c.id = ANY (numbers)
$$;

-- How often a content was met, by how many players, and how long they stayed: an average over the events that say how
-- long, null when none does. Always one row.
CREATE FUNCTION content_engagement(
    wanted_experience text, wanted_content text, wanted_type text DEFAULT 'waypoint_visited',
    since timestamptz DEFAULT '-infinity', before timestamptz DEFAULT 'infinity'
) RETURNS TABLE (total_visits bigint, unique_players bigint, average_time_spent_s double precision)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT v.visits, u.players, v.average_s
    FROM (SELECT COALESCE(sum(events), 0)::bigint AS visits,
                 (sum(time_spent_ms) / 1000 / NULLIF(sum(timed_events), 0))::double precision AS average_s
          FROM list_content_visits(wanted_experience, wanted_type, wanted_content, since, before)) AS v,
         (SELECT count(*) AS players
          FROM (SELECT DISTINCT experience_progress_id
                FROM list_content_players(ARRAY(
                    SELECT id FROM contents
                    WHERE experience_id = wanted_experience AND event_type = wanted_type AND content_id = wanted_content
                ), since, before)) AS d) AS u
$$;

-- The contents of a type that were met most often; those never met in the window are left out.
CREATE FUNCTION content_ranking(
    wanted_experience text, wanted_type text DEFAULT 'waypoint_visited',
    since timestamptz DEFAULT '-infinity', before timestamptz DEFAULT 'infinity', contents_max integer DEFAULT 10
) RETURNS TABLE (content_id varchar, total_visits bigint, average_time_spent_s double precision)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT content_id, sum(events)::bigint,
           (sum(time_spent_ms) / 1000 / NULLIF(sum(timed_events), 0))::double precision
    FROM list_content_visits(wanted_experience, wanted_type, NULL, since, before)
    GROUP BY content_id HAVING sum(events) > 0
    ORDER BY sum(events) DESC, content_id LIMIT contents_max
$$;

-- How many players came how far along contents in this order. A player counts for a step whose first time in the window
-- is at or after that of the step before, for which they count, too. One row for each step, in order.
CREATE FUNCTION funnel(
    wanted_experience text, wanted_types text[], wanted_contents text[],
    since timestamptz DEFAULT '-infinity', before timestamptz DEFAULT 'infinity'
) RETURNS TABLE (step integer, players bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    steps integer := cardinality(wanted_contents);
    steps_max CONSTANT integer := 50;
    numbers integer[];
    firsts text[];
    counts text[];
    so_far text := 'true';
BEGIN
    IF steps IS DISTINCT FROM cardinality(wanted_types) OR steps NOT BETWEEN 1 AND steps_max THEN
        RAISE invalid_parameter_value USING MESSAGE = format('a funnel has 1 to %s steps, each with a type', steps_max);
    END IF;
    numbers := ARRAY(
        SELECT c.id FROM unnest(wanted_types, wanted_contents) WITH ORDINALITY AS w (event_type, content_id, n)
        LEFT JOIN contents c ON c.experience_id = wanted_experience AND c.event_type = w.event_type AND c.content_id = w.content_id
        ORDER BY w.n
    );
    FOR n IN 1..steps LOOP
        firsts := firsts || format('min(m.at) FILTER (WHERE m.content = ($1)[%1$s]) AS at_%1$s', n);
        so_far := CASE WHEN n = 1 THEN 'at_1 IS NOT NULL' ELSE format('%s AND at_%s >= at_%s', so_far, n, n - 1) END;
        counts := counts || format('count(*) FILTER (WHERE %s)', so_far);
    END LOOP;
    RETURN QUERY EXECUTE
        'SELECT c.step::integer, c.players FROM (SELECT ARRAY[' || array_to_string(counts, ', ') || '] AS counts FROM (SELECT '
        || array_to_string(firsts, ', ') || ' FROM (
            SELECT d.content, d.experience_progress_id, d.first_at AS at FROM content_player_days d
            WHERE d.content = ANY ($1) AND d.day >= first_day_from($2) AND d.day <= day_of($3) AND d.first_at < $3
            UNION ALL
            SELECT c.id, e.experience_progress_id, e."timestamp"
            FROM contents c
            JOIN player_progress_events e ON e.content_id = c.content_id AND e.event_type = c.event_type
                AND e."timestamp" >= $2 AND e."timestamp" < LEAST(first_day_from($2)::timestamp AT TIME ZONE ''UTC'', $3)
            JOIN experience_progress p ON p.id = e.experience_progress_id AND p.experience_id = c.experience_id
            WHERE c.id = ANY ($1)
        ) AS m GROUP BY m.experience_progress_id) AS f) AS one, unnest(one.counts) WITH ORDINALITY AS c (players, step)'
        USING numbers, since, before;
END
$$;

-- Who comes back. A player's cohort is the first day on which they ever played; they are retained on day N when they
-- played on the Nth day after it. Null where that day has not ended yet. Cohorts without players are left out.
CREATE FUNCTION retention(
    wanted_experience text, first_cohort date DEFAULT '-infinity', last_cohort date DEFAULT 'infinity',
    today date DEFAULT (now() AT TIME ZONE 'UTC')::date
) RETURNS TABLE (cohort date, players bigint, retained_1 bigint, retained_7 bigint, retained_30 bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT d.first_day, count(*) FILTER (WHERE d.day = d.first_day),
           CASE WHEN d.first_day + 1 < today THEN count(*) FILTER (WHERE d.day - d.first_day = 1) END,
           CASE WHEN d.first_day + 7 < today THEN count(*) FILTER (WHERE d.day - d.first_day = 7) END,
           CASE WHEN d.first_day + 30 < today THEN count(*) FILTER (WHERE d.day - d.first_day = 30) END
    FROM player_days d
    WHERE d.experience_id = wanted_experience AND d.first_day BETWEEN first_cohort AND last_cohort
      AND d.day - d.first_day IN (0, 1, 7, 30)
    GROUP BY d.first_day ORDER BY d.first_day
$$;

-- Who played, day by day: active and new players, updates, played time. Days on which nobody played are left out.
CREATE FUNCTION active_players(
    wanted_experience text, from_day date DEFAULT '-infinity', to_day date DEFAULT 'infinity'
) RETURNS TABLE (day date, players bigint, new_players bigint, updates bigint, playtime_ms bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT a.day, a.players, COALESCE(n.players, 0), COALESCE(h.updates, 0), COALESCE(h.playtime_ms, 0)
    FROM (SELECT d.day, count(*) AS players FROM player_days d
          WHERE d.experience_id = wanted_experience AND d.day BETWEEN from_day AND to_day GROUP BY d.day) AS a
    LEFT JOIN (SELECT day_of(e.hour) AS day, sum(e.updates)::bigint AS updates, sum(e.playtime_ms)::bigint AS playtime_ms
          FROM experience_hours e
          WHERE e.experience_id = wanted_experience AND e.hour >= from_day::timestamp AT TIME ZONE 'UTC'
            AND e.hour <= to_day::timestamp AT TIME ZONE 'UTC' + interval '23 hours'
          GROUP BY 1) AS h ON h.day = a.day
    LEFT JOIN (SELECT d.first_day AS day, count(*) AS players FROM player_days d
               WHERE d.experience_id = wanted_experience AND d.first_day BETWEEN from_day AND to_day
                 AND d.day - d.first_day = 0
               GROUP BY d.first_day) AS n ON n.day = a.day
    ORDER BY a.day
$$;

-- Of the players who started in the window: how many have completed the experience by now, and how far all of them are
-- on average.
CREATE FUNCTION completion(
    wanted_experience text, since timestamptz DEFAULT '-infinity', before timestamptz DEFAULT 'infinity'
) RETURNS TABLE (players bigint, completed bigint, average_percentage double precision)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT count(*), count(p.completed_at), avg(p.completion_percentage) FROM experience_progress p
    WHERE p.experience_id = wanted_experience AND p.started_at >= since AND p.started_at < before
$$;

-- Quest by quest: players who started or completed it in the window, and those of them who completed it in the window.
-- One quest after the other, because telling 200,000 players apart is quick as long as they fit into a cache.
CREATE FUNCTION quest_completion(
    wanted_experience text, since timestamptz DEFAULT '-infinity', before timestamptz DEFAULT 'infinity'
) RETURNS TABLE (quest varchar, players bigint, completed bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT q.content_id, n.players, n.completed
    FROM (SELECT content_id, array_agg(id) AS numbers, min(id) FILTER (WHERE event_type = 'quest_completed') AS completion
          FROM contents
          WHERE experience_id = wanted_experience AND event_type IN ('quest_started', 'quest_completed')
          GROUP BY content_id) AS q,
    LATERAL (SELECT count(*) AS players, count(*) FILTER (WHERE m.is_completed) AS completed
             FROM (SELECT bool_or(p.content = q.completion) AS is_completed
                   FROM list_content_players(q.numbers, since, before) AS p
                   GROUP BY p.experience_progress_id) AS m) AS n
    WHERE n.players > 0
    ORDER BY n.players DESC, q.content_id
$$;

-- How long players played in all on these days: a row for each bucket, from its bound up to the next one, in seconds.
-- Added up as floats, which are exact here and take a quarter less time than a sum that may grow beyond 64 bits.
CREATE FUNCTION playtime_distribution(
    wanted_experience text, from_day date DEFAULT '-infinity', to_day date DEFAULT 'infinity',
    bounds_s integer[] DEFAULT '{0,60,300,900,1800,3600,7200,14400,36000}'
) RETURNS TABLE (from_s integer, to_s integer, players bigint, playtime_ms bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT b.from_s, bounds_s[b.bucket + 1], COALESCE(t.players, 0), COALESCE(t.playtime_ms, 0)
    FROM unnest(bounds_s) WITH ORDINALITY AS b (from_s, bucket)
    LEFT JOIN (SELECT width_bucket(floor(s.ms / 1000), bounds_s::double precision[]) AS bucket, count(*) AS players,
                      sum(s.ms)::bigint AS playtime_ms
               FROM (SELECT sum(d.playtime_ms::double precision) AS ms FROM player_days d
                     WHERE d.experience_id = wanted_experience AND d.day BETWEEN from_day AND to_day
                     GROUP BY d.experience_progress_id) AS s
               GROUP BY 1) AS t ON t.bucket = b.bucket
    ORDER BY b.bucket
$$;

-- How long the sessions were that began in the window and have ended, from hello to end. Buckets as above.
CREATE FUNCTION session_lengths(
    wanted_experience text, since timestamptz DEFAULT '-infinity', before timestamptz DEFAULT 'infinity',
    bounds_s integer[] DEFAULT '{0,60,300,900,1800,3600,7200,14400,36000}'
) RETURNS TABLE (from_s integer, to_s integer, sessions bigint, length_ms bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT b.from_s, bounds_s[b.bucket + 1], COALESCE(t.sessions, 0), COALESCE(t.length_ms, 0)
    FROM unnest(bounds_s) WITH ORDINALITY AS b (from_s, bucket)
    LEFT JOIN (SELECT width_bucket(l.ms / 1000, bounds_s::bigint[]) AS bucket, count(*) AS sessions,
                      sum(l.ms)::bigint AS length_ms
               FROM (SELECT GREATEST(0, date_part('epoch', s.ended_at - s.started_at) * 1000)::bigint AS ms
                     FROM player_sessions s
                     WHERE s.experience_id = wanted_experience AND s.started_at >= since AND s.started_at < before
                       AND s.ended_at IS NOT NULL) AS l
               GROUP BY 1) AS t ON t.bucket = b.bucket
    ORDER BY b.bucket
$$;

-- Where players were last who have not completed the experience and have not played since `idle_since`.
CREATE FUNCTION drop_off(
    wanted_experience text, idle_since timestamptz DEFAULT now() - interval '7 days', locations_max integer DEFAULT 20
) RETURNS TABLE (location varchar, players bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT p.current_location, count(*) FROM experience_progress p
    WHERE p.experience_id = wanted_experience AND p.last_played_at < idle_since AND p.completed_at IS NULL
    GROUP BY p.current_location ORDER BY count(*) DESC, p.current_location LIMIT locations_max
$$;

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

-- Connections that have ended: best effort, written by gateways a few seconds later, gone after 30 days.
CREATE TABLE player_connections (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- Ordered numbers of a player's connections, as sessions know them.
    connection bigint NOT NULL,
    experience_id varchar(100) NOT NULL,
    session_id uuid NOT NULL,
    device_id varchar(64) NOT NULL,
    node varchar(120) NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz NOT NULL,
    -- What we said; NULL when the socket just ended.
    close_code smallint,
    is_resumed boolean NOT NULL,
    updates bigint NOT NULL,
    rtt_ms real,
    PRIMARY KEY (user_id, connection)
);
-- Serves the removal of what is old.
CREATE INDEX idx_player_connections_closed ON player_connections (closed_at);
