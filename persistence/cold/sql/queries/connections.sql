-- name: insert_connections
-- Connections that have ended. Who was erased meanwhile is passed over; written again it changes nothing. One look for each
-- row: as a join, the plan for arguments that are not known yet would go through all users.
INSERT INTO player_connections (
    user_id, connection, experience_id, session_id, device_id, node, opened_at, closed_at, close_code, is_resumed, updates, rtt_ms
)
SELECT c.user_id, c.connection, c.experience_id, c.session_id, c.device_id, c.node, to_timestamp(c.opened_ms / 1000.0),
       to_timestamp(c.closed_ms / 1000.0), c.close_code, c.is_resumed, c.updates, c.rtt_ms
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::smallint[],
            $10::boolean[], $11::bigint[], $12::real[])
    AS c (user_id, connection, experience_id, session_id, device_id, node, opened_ms, closed_ms, close_code, is_resumed, updates, rtt_ms)
WHERE (SELECT u.id FROM users u WHERE u.id = c.user_id) IS NOT NULL
ON CONFLICT DO NOTHING;

-- name: remove_old_connections
-- A piece of what is old, so that nobody waits for it.
DELETE FROM player_connections WHERE (user_id, connection) IN (
    SELECT o.user_id, o.connection FROM player_connections o
    WHERE o.closed_at < now() - make_interval(days => $1) ORDER BY o.closed_at LIMIT $2
);

-- name: list_connections_of_player
-- A page of a player's connections, the newest first; the cursor is the number of the last one.
SELECT * FROM player_connections c WHERE c.user_id = $1 AND c.connection < $2 ORDER BY c.connection DESC LIMIT $3;
