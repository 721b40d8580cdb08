-- Events of an experience may be removed when they are old enough: a table of how far that went, and the functions that do
-- it in slices, as the owner, for roles that may only append.
--
-- Lock: none on tables that are there; new ones only. Runs before or after the new code: without it flushers log that they
-- cannot remove events, and go on.

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

-- The start of the oldest month that has a partition: where a first round begins, after a look at what lies outside.
CREATE FUNCTION oldest_event_month() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT min(to_date(right(c.relname, 7), 'YYYY_MM')::timestamp AT TIME ZONE 'UTC')
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'player_progress_events'::regclass AND c.relname ~ '^player_progress_events_[0-9]{4}_[0-9]{2}$'
$$;
