-- name: use_analytics_settings
-- For the transaction around one question: room to hash a few hundred thousand players, a plan for these very arguments
-- (a plan for any window serves none), and an end.
SELECT set_config('work_mem', '64MB', true), set_config('plan_cache_mode', 'force_custom_plan', true),
       set_config('statement_timeout', $1, true);

-- name: list_experiences
-- Every experience that anybody ever opened: one look into the index for each, however many play it.
WITH RECURSIVE found AS (
    (SELECT experience_id FROM experience_progress ORDER BY experience_id LIMIT 1)
    UNION ALL
    SELECT (SELECT p.experience_id FROM experience_progress p WHERE p.experience_id > f.experience_id ORDER BY p.experience_id LIMIT 1)
    FROM found f WHERE f.experience_id IS NOT NULL
)
SELECT experience_id FROM found WHERE experience_id IS NOT NULL LIMIT $1;

-- name: list_known_contents
-- What events of an experience were about, by type.
SELECT event_type, content_id FROM contents
WHERE experience_id = $1 AND ($2::text IS NULL OR event_type = $2)
ORDER BY event_type, content_id LIMIT $3;

-- name: list_unknown_contents
-- Which of these contents (types, ids) no event of the experience was ever about.
SELECT w.event_type, w.content_id FROM unnest($2::text[], $3::text[]) AS w (event_type, content_id)
WHERE NOT EXISTS (
    SELECT FROM contents c
    WHERE c.experience_id = $1 AND c.event_type = w.event_type AND c.content_id = w.content_id
);

-- name: find_engagement
-- Where a window is open, it reaches for ever; so in all of these.
SELECT total_visits, unique_players, average_time_spent_s
FROM content_engagement($1, $2, $3, COALESCE($4::timestamptz, '-infinity'), COALESCE($5::timestamptz, 'infinity'));

-- name: list_ranking
-- Contents by visits.
SELECT content_id, total_visits, average_time_spent_s
FROM content_ranking($1, $2, COALESCE($3::timestamptz, '-infinity'), COALESCE($4::timestamptz, 'infinity'), $5);

-- name: list_funnel
-- Players for each step.
SELECT step, players
FROM funnel($1, $2, $3, COALESCE($4::timestamptz, '-infinity'), COALESCE($5::timestamptz, 'infinity')) ORDER BY step;

-- name: list_retention
-- Cohorts by their day.
SELECT cohort, players, retained_1, retained_7, retained_30
FROM retention($1, COALESCE($2::date, '-infinity'), COALESCE($3::date, 'infinity'),
               COALESCE($4::date, (now() AT TIME ZONE 'UTC')::date));

-- name: list_active_players
-- Days by their date.
SELECT day, players, new_players, updates, playtime_ms
FROM active_players($1, COALESCE($2::date, '-infinity'), COALESCE($3::date, 'infinity'));

-- name: find_completion
-- Players who started in a window.
SELECT players, completed, average_percentage
FROM completion($1, COALESCE($2::timestamptz, '-infinity'), COALESCE($3::timestamptz, 'infinity'));

-- name: list_quest_completion
-- Quests by how many players met them.
SELECT quest, players, completed
FROM quest_completion($1, COALESCE($2::timestamptz, '-infinity'), COALESCE($3::timestamptz, 'infinity'));

-- name: list_playtime
-- Buckets in order.
SELECT from_s, to_s, players AS count, playtime_ms AS total_ms
FROM playtime_distribution($1, COALESCE($2::date, '-infinity'), COALESCE($3::date, 'infinity'), $4);

-- name: list_session_lengths
-- Buckets in order.
SELECT from_s, to_s, sessions AS count, length_ms AS total_ms
FROM session_lengths($1, COALESCE($2::timestamptz, '-infinity'), COALESCE($3::timestamptz, 'infinity'), $4);

-- name: list_drop_off
-- Locations by how many players ended there.
SELECT location, players FROM drop_off($1, $2, $3);
