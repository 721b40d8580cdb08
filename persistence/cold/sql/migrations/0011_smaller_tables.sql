-- Fewer bytes: days of players that are written once instead of twice, and fuller pages of progress. Their room was for
-- updates in place, which never happen there: every flush changes an indexed column.
--
-- Lock: for moments; nothing is rewritten, so what is there keeps its size until it is written again or by VACUUM FULL. Runs
-- before or after the new code.

ALTER TABLE experience_progress SET (fillfactor = 75);

-- Compute the rollups again from the events, from a day on (UTC) and for one experience or all. Exact beside flushers
-- that run: they wait. Days from which events were removed must not be asked for: their totals would shrink.
-- Without nested loops, because the planner takes (experience, type, content) for independent facts, expects a thousandth
-- of the rows that match, and would look each of ten million up.
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
