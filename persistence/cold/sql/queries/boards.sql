-- name: list_distance_scores
-- The farthest of those who played last (a bound for experiences with millions of players): $2 rows out of $3 players.
-- Only the index is read for those who are not among them.
WITH highest AS (
    SELECT id, distance_micrometers AS score
    FROM (SELECT id, distance_micrometers FROM experience_progress
          WHERE experience_id = $1 AND last_played_at IS NOT NULL ORDER BY last_played_at DESC LIMIT $3) AS lately
    WHERE distance_micrometers > 0 ORDER BY distance_micrometers DESC, id LIMIT $2
)
SELECT f.user_id, p.version, h.score
FROM highest h JOIN experience_progress p ON p.id = h.id JOIN player_profiles f ON f.id = p.player_id
ORDER BY h.score DESC;

-- name: list_completion_scores
-- Likewise those who are nearest to the end, in millionths of a percent.
WITH highest AS (
    SELECT id, round(completion_percentage * 1000000)::bigint AS score
    FROM (SELECT id, completion_percentage FROM experience_progress
          WHERE experience_id = $1 AND last_played_at IS NOT NULL ORDER BY last_played_at DESC LIMIT $3) AS lately
    WHERE completion_percentage > 0 ORDER BY completion_percentage DESC, id LIMIT $2
)
SELECT f.user_id, p.version, h.score
FROM highest h JOIN experience_progress p ON p.id = h.id JOIN player_profiles f ON f.id = p.player_id
ORDER BY h.score DESC;

-- name: list_counter_scores
-- Likewise those with the most in a counter of the state, $4 or $4.$5. `kinds` tells a counter from a number that is a value.
-- Reads states, so of fewer players.
WITH highest AS (
    SELECT player_id, version, round(amount::text::numeric * 1000000)::bigint AS score
    FROM (SELECT player_id, version,
                 CASE WHEN kinds ? ($4::text || COALESCE('.' || $5::text, '')) OR ($5 IS NOT NULL AND kinds ? $4) THEN NULL
                      WHEN $5 IS NULL THEN state -> $4
                      WHEN jsonb_typeof(state -> $4) = 'object' THEN state -> $4 -> $5 END AS amount
          FROM experience_progress
          WHERE experience_id = $1 AND last_played_at IS NOT NULL ORDER BY last_played_at DESC LIMIT $3) AS lately
    WHERE CASE WHEN jsonb_typeof(amount) = 'number' THEN amount::text::numeric > 0 END
    ORDER BY score DESC LIMIT $2
)
SELECT f.user_id, h.version, h.score FROM highest h JOIN player_profiles f ON f.id = h.player_id ORDER BY h.score DESC;

-- name: find_standing
-- What one player has, for a place that no board tells: everything that a score is made of.
SELECT p.distance_micrometers, p.completion_percentage, p.state::text AS state, p.kinds::text AS kinds
FROM player_profiles f JOIN experience_progress p ON p.player_id = f.id AND p.experience_id = $2
WHERE f.user_id = $1;
