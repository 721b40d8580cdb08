-- name: find_hash_key
-- The key with which this installation hashes what it must recognise and must not know.
SELECT hash_key FROM installation;

-- name: list_player_progress
-- What there is of a player: every progress, and every device that ever had a stream or a session.
SELECT p.id, p.experience_id FROM player_profiles f JOIN experience_progress p ON p.player_id = f.id WHERE f.user_id = $1;

-- name: list_player_devices
-- Every device of a player that Postgres knows.
SELECT d.device_id FROM player_profiles f
JOIN experience_progress p ON p.player_id = f.id
JOIN device_streams d ON d.experience_progress_id = p.id
WHERE f.user_id = $1
UNION SELECT s.device_id FROM player_sessions s WHERE s.user_id = $1;

-- name: put_tombstone
-- First of all: from here on nobody comes back with what they had, nor starts anew until the rows are gone.
INSERT INTO erased_players AS e (user_hash, device_hashes, erased_at)
VALUES ($1, $2, 'infinity')
ON CONFLICT (user_hash) DO UPDATE SET
    device_hashes = ARRAY(SELECT DISTINCT unnest(e.device_hashes || EXCLUDED.device_hashes)),
    erased_at = EXCLUDED.erased_at;

-- name: lock_player
-- Waits for a hello that has passed the tombstone before it was there and is making rows: they are deleted too.
SELECT pg_advisory_xact_lock(hashtextextended(encode($1::bytea, 'hex'), 0));

-- name: lock_player_progress
-- Progress before profile, in id order, as the flush locks: a flush that is under way ends first, a later one finds nothing.
SELECT p.id, p.experience_id FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id
WHERE f.user_id = $1 ORDER BY p.id FOR UPDATE OF p;

-- name: erase_rollups
-- The player's share leaves the totals before the events leave, from which it is computed.
SELECT erase_rollups($1);

-- name: delete_player
-- Everything else goes with the user: profile, progress, events, streams, sessions, dead letters.
DELETE FROM users WHERE id = $1;

-- name: settle_tombstone
-- In the transaction of the deletion: whoever gets a token from now on may start anew, with a new device.
UPDATE erased_players SET erased_at = now() WHERE user_hash = $1;

-- name: find_tombstone
-- Was this player erased, when, and was this one of the devices?
SELECT erased_at, $2 = ANY (device_hashes) AS is_known_device FROM erased_players WHERE user_hash = $1;
