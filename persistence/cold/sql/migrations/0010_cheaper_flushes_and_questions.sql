-- Flushes write less, questions are answered sooner, and only the owner and the role of gateways and flushers may call
-- what acts with the owner's rights.
--
-- Lock: for moments, against changing the tables named here; nothing is rewritten, so what is there keeps its place until
-- it is written again. Runs before or after the new code.

-- Room for an update beside the row: what grows with every flush is rewritten in place, without touching its indexes.
ALTER TABLE player_profiles SET (fillfactor = 80);
ALTER TABLE device_streams SET (fillfactor = 80);
ALTER TABLE player_sessions SET (fillfactor = 70);

-- They remove events, or make and drop their tables, as the owner.
REVOKE EXECUTE ON FUNCTION ensure_event_partitions(date, date) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION move_event_horizon(text, integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION remove_old_events(text, timestamptz, integer, text, double precision) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION drop_old_event_partitions() FROM PUBLIC;
-- At once and not only by `wayhold migrate` afterwards: flushers of before run on and look for months meanwhile.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wayhold_app') THEN
        GRANT EXECUTE ON FUNCTION ensure_event_partitions(date, date), move_event_horizon(text, integer),
            remove_old_events(text, timestamptz, integer, text, double precision), drop_old_event_partitions()
            TO wayhold_app;
    END IF;
END
$$;

-- A part of the others: what adds up to the visits of the contents of a type, of one or (null) of all. The hour in which
-- the window begins is counted from its events; the one in which it ends is taken whole, less the events after the end:
-- most windows end now, and after that there is nothing.
CREATE OR REPLACE FUNCTION list_content_visits(
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

DROP FUNCTION list_content_players(text, text[], text, timestamptz, timestamptz);

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
CREATE OR REPLACE FUNCTION content_engagement(
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

-- How many players came how far along contents in this order. A player counts for a step whose first time in the window
-- is at or after that of the step before, for which they count, too. One row for each step, in order.
CREATE OR REPLACE FUNCTION funnel(
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

DROP FUNCTION list_content_firsts(text, text, text, timestamptz, timestamptz);

-- Quest by quest: players who started or completed it in the window, and those of them who completed it in the window.
-- One quest after the other, because telling 200,000 players apart is quick as long as they fit into a cache.
CREATE OR REPLACE FUNCTION quest_completion(
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
CREATE OR REPLACE FUNCTION playtime_distribution(
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
