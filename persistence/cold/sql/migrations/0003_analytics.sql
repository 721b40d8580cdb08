-- Analytics as functions, and what makes them quick: each day of a player knows the player's first one (cohorts), and the
-- indexes that find a player's progress and a session hold what is asked about them, so that nobody reads the states of
-- an experience to count them.
--
-- Lock: player_days, experience_progress and player_sessions against writing while it fills the new column and builds
-- three indexes (about a minute per million days of players, less for the rest); players play on, what they do waits in
-- Redis. Runs before the new code; the code from before works with it.

-- The player's first day of all: what a cohort is. Kept by the trigger below.
ALTER TABLE player_days ADD COLUMN first_day date;

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

UPDATE player_days d SET first_day = f.first_day
FROM (SELECT experience_progress_id, min(day) AS first_day FROM player_days GROUP BY experience_progress_id) AS f
WHERE f.experience_progress_id = d.experience_progress_id;

CREATE TRIGGER player_days_first_day AFTER INSERT ON player_days
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION keep_first_days();

-- Serves cohorts (retention, new players): only the days that decide about them are in it.
CREATE INDEX idx_player_days_cohort ON player_days (experience_id, first_day, day) WHERE day - first_day IN (0, 1, 7, 30);

-- Serves "who plays this experience, and since when", and all that analytics and leaderboards ask of every player of an
-- experience, without reading their states. The index changes with every flush anyway, so what it holds costs its size.
DROP INDEX idx_experience_progress_last_played;
CREATE INDEX idx_experience_progress_last_played ON experience_progress (experience_id, last_played_at)
    INCLUDE (id, started_at, completed_at, completion_percentage, playtime_ms, distance_micrometers, current_location);

-- Serves "how long are sessions of this experience", by when they began.
DROP INDEX idx_player_sessions_experience;
CREATE INDEX idx_player_sessions_experience ON player_sessions (experience_id, started_at) INCLUDE (ended_at);

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

-- A part of the others: what adds up to the visits of the contents of a type, of one or (null) of all.
CREATE FUNCTION list_content_visits(
    wanted_experience text, wanted_type text, wanted_content text, since timestamptz, before timestamptz
) RETURNS TABLE (content_id varchar, events bigint, timed_events bigint, time_spent_ms bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT c.content_id, h.events, h.timed_events, h.time_spent_ms
    FROM contents c JOIN content_hours h ON h.content = c.id
    WHERE c.experience_id = wanted_experience AND c.event_type = wanted_type
      AND (wanted_content IS NULL OR c.content_id = wanted_content)
      AND h.hour >= first_hour_from(since) AND h.hour < hour_of(before)
    UNION ALL
    SELECT c.content_id, 1, CASE WHEN time_spent_ms(e.data) IS NULL THEN 0 ELSE 1 END, COALESCE(time_spent_ms(e.data), 0)
    FROM contents c
    JOIN player_progress_events e ON e.content_id = c.content_id AND e.event_type = c.event_type
        AND e."timestamp" >= since AND e."timestamp" < LEAST(first_hour_from(since), before)
    JOIN experience_progress p ON p.id = e.experience_progress_id AND p.experience_id = c.experience_id
    WHERE c.experience_id = wanted_experience AND c.event_type = wanted_type
      AND (wanted_content IS NULL OR c.content_id = wanted_content)
    UNION ALL
    SELECT c.content_id, 1, CASE WHEN time_spent_ms(e.data) IS NULL THEN 0 ELSE 1 END, COALESCE(time_spent_ms(e.data), 0)
    FROM contents c
    JOIN player_progress_events e ON e.content_id = c.content_id AND e.event_type = c.event_type
        AND e."timestamp" >= GREATEST(hour_of(before), first_hour_from(since)) AND e."timestamp" < before
    JOIN experience_progress p ON p.id = e.experience_progress_id AND p.experience_id = c.experience_id
    WHERE c.experience_id = wanted_experience AND c.event_type = wanted_type
      AND (wanted_content IS NULL OR c.content_id = wanted_content)
$$;

-- A part of the others: who met the contents of some types, of one or (null) of all; the same player several times.
-- On the day in which the window ends `first_at` decides; on the one in which it begins only the events can tell.
CREATE FUNCTION list_content_players(
    wanted_experience text, wanted_types text[], wanted_content text, since timestamptz, before timestamptz
) RETURNS TABLE (content integer, experience_progress_id uuid)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT c.id, d.experience_progress_id
    FROM contents c JOIN content_player_days d ON d.content = c.id
    WHERE c.experience_id = wanted_experience AND c.event_type = ANY (wanted_types)
      AND (wanted_content IS NULL OR c.content_id = wanted_content)
      AND d.day >= first_day_from(since) AND d.day < day_of(before)
    UNION ALL
    SELECT c.id, d.experience_progress_id
    FROM contents c JOIN content_player_days d ON d.content = c.id
    WHERE c.experience_id = wanted_experience AND c.event_type = ANY (wanted_types)
      AND (wanted_content IS NULL OR c.content_id = wanted_content)
      AND d.day >= first_day_from(since) AND d.day = day_of(before) AND d.first_at < before
    UNION ALL
    SELECT c.id, e.experience_progress_id
    FROM contents c
    JOIN player_progress_events e ON e.content_id = c.content_id AND e.event_type = c.event_type
        AND e."timestamp" >= since AND e."timestamp" < LEAST(first_day_from(since)::timestamp AT TIME ZONE 'UTC', before)
    JOIN experience_progress p ON p.id = e.experience_progress_id AND p.experience_id = c.experience_id
    WHERE c.experience_id = wanted_experience AND c.event_type = ANY (wanted_types)
      AND (wanted_content IS NULL OR c.content_id = wanted_content)
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
                FROM list_content_players(wanted_experience, ARRAY[wanted_type], wanted_content, since, before)) AS d) AS u
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

-- A part of the funnel: when players met a content, one row at least for each with their first time among them.
CREATE FUNCTION list_content_firsts(
    wanted_experience text, wanted_type text, wanted_content text, since timestamptz, before timestamptz
) RETURNS TABLE (experience_progress_id uuid, at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT d.experience_progress_id, d.first_at
    FROM contents c JOIN content_player_days d ON d.content = c.id
    WHERE c.experience_id = wanted_experience AND c.event_type = wanted_type AND c.content_id = wanted_content
      AND d.day >= first_day_from(since) AND d.day <= day_of(before) AND d.first_at < before
    UNION ALL
    SELECT e.experience_progress_id, e."timestamp"
    FROM contents c
    JOIN player_progress_events e ON e.content_id = c.content_id AND e.event_type = c.event_type
        AND e."timestamp" >= since AND e."timestamp" < LEAST(first_day_from(since)::timestamp AT TIME ZONE 'UTC', before)
    JOIN experience_progress p ON p.id = e.experience_progress_id AND p.experience_id = c.experience_id
    WHERE c.experience_id = wanted_experience AND c.event_type = wanted_type AND c.content_id = wanted_content
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
    ctes text[];
    counts text[];
BEGIN
    IF steps IS DISTINCT FROM cardinality(wanted_types) OR steps NOT BETWEEN 1 AND steps_max THEN
        RAISE invalid_parameter_value USING MESSAGE = format('a funnel has 1 to %s steps, each with a type', steps_max);
    END IF;
    -- One join for each step: only who came so far is looked for in the next. Nothing but numbers is put into the text.
    FOR n IN 1..steps LOOP
        ctes := ctes || format(
            'step_%1$s AS (SELECT f.experience_progress_id, min(f.at) AS at'
            ' FROM list_content_firsts($1, ($2)[%1$s], ($3)[%1$s], $4, $5) AS f %2$s',
            n,
            CASE WHEN n = 1 THEN 'GROUP BY 1)' ELSE format(
                'JOIN step_%s AS b ON b.experience_progress_id = f.experience_progress_id'
                ' GROUP BY 1, b.at HAVING min(f.at) >= b.at)', n - 1) END);
        counts := counts || format('SELECT %1$s, count(*) FROM step_%1$s', n);
    END LOOP;
    RETURN QUERY EXECUTE 'WITH ' || array_to_string(ctes, ', ') || ' ' || array_to_string(counts, ' UNION ALL ')
        USING wanted_experience, wanted_types, wanted_contents, since, before;
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
CREATE FUNCTION quest_completion(
    wanted_experience text, since timestamptz DEFAULT '-infinity', before timestamptz DEFAULT 'infinity'
) RETURNS TABLE (quest varchar, players bigint, completed bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT c.content_id, count(*), count(*) FILTER (WHERE q.is_completed)
    FROM (SELECT s.quest, bool_or(s.is_completion) AS is_completed
          FROM list_content_players(wanted_experience, '{quest_started,quest_completed}', NULL, since, before) AS p
          JOIN (SELECT id AS content, min(id) OVER (PARTITION BY content_id) AS quest,
                       event_type = 'quest_completed' AS is_completion
                FROM contents
                WHERE experience_id = wanted_experience AND event_type IN ('quest_started', 'quest_completed')) AS s
              ON s.content = p.content
          GROUP BY s.quest, p.experience_progress_id) AS q
    JOIN contents c ON c.id = q.quest
    GROUP BY c.content_id ORDER BY count(*) DESC, c.content_id
$$;

-- How long players played in all on these days: a row for each bucket, from its bound up to the next one, in seconds.
CREATE FUNCTION playtime_distribution(
    wanted_experience text, from_day date DEFAULT '-infinity', to_day date DEFAULT 'infinity',
    bounds_s integer[] DEFAULT '{0,60,300,900,1800,3600,7200,14400,36000}'
) RETURNS TABLE (from_s integer, to_s integer, players bigint, playtime_ms bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT b.from_s, bounds_s[b.bucket + 1], COALESCE(t.players, 0), COALESCE(t.playtime_ms, 0)
    FROM unnest(bounds_s) WITH ORDINALITY AS b (from_s, bucket)
    LEFT JOIN (SELECT width_bucket(s.ms / 1000, bounds_s::bigint[]) AS bucket, count(*) AS players,
                      sum(s.ms)::bigint AS playtime_ms
               FROM (SELECT sum(d.playtime_ms)::bigint AS ms FROM player_days d
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
