-- Totals that analytics read, kept by the flush: what was visited, by whom, on which day, for how long. Each event says
-- which share of the playtime it brought, a dropped dead letter keeps its place in the history, sessions are found by
-- experience, states are compressed faster, and partitions can be made by a role that may not change events.
--
-- Lock: player_progress_events alone, for as long as it takes to give each event its playtime and to fill the rollups
-- (a few minutes per ten million events; every event row is written once more, so have that much disk). Runs before the
-- new code, with all flushers stopped: players play on meanwhile, what they do waits in Redis. A flusher from before would
-- write events and no rollups; if that happened, `wayhold verify --repair` puts it right.

ALTER TABLE player_progress_events ADD COLUMN playtime_ms integer NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN playtime_ms integer NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN dropped_at timestamptz;

UPDATE player_progress_events e SET playtime_ms = g.playtime_ms
FROM (
    SELECT experience_progress_id, version, "timestamp",
           LEAST(GREATEST(floor(extract(epoch FROM
               "timestamp" - lag("timestamp") OVER (PARTITION BY experience_progress_id ORDER BY version)
           ) * 1000), 0), 60000)::integer AS playtime_ms
    FROM player_progress_events
) g
WHERE g.experience_progress_id = e.experience_progress_id AND g.version = e.version AND g."timestamp" = e."timestamp"
  AND g.playtime_ms > 0;

-- Serves "how long are sessions of this experience", by when they began.
CREATE INDEX idx_player_sessions_experience ON player_sessions (experience_id, started_at);

ALTER FUNCTION ensure_event_partitions(date, date) SECURITY DEFINER SET search_path FROM CURRENT;

-- A third less CPU per state than pglz. A server that was built without lz4 keeps what it has.
DO $$
BEGIN
    ALTER TABLE experience_progress ALTER COLUMN state SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

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
    PRIMARY KEY (experience_id, day, experience_progress_id)
) WITH (fillfactor = 80);

-- Serves an erase (which days did this player play?) and cohorts (what was their first day?).
CREATE INDEX idx_player_days_progress ON player_days (experience_progress_id, day);

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

    INSERT INTO player_days (experience_id, day, experience_progress_id, updates, playtime_ms, first_at)
    SELECT p.experience_id, (e."timestamp" AT TIME ZONE 'UTC')::date, e.experience_progress_id, count(*),
           sum(e.playtime_ms), min(e."timestamp")
    FROM player_progress_events e JOIN experience_progress p ON p.id = e.experience_progress_id
    WHERE e."timestamp" >= since AND (only_experience IS NULL OR p.experience_id = only_experience)
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

SELECT rebuild_rollups();
