-- name: describe_database
-- What a backup says about itself: schema, whose installation, how many players.
SELECT (SELECT COALESCE(max(number), 0) FROM schema_migrations) AS schema,
       (SELECT hash_key FROM installation) AS hash_key,
       (SELECT count(*) FROM users) AS users,
       current_setting('server_version') AS postgres;

-- name: list_granted_roles
-- Roles that a restored database grants something to: they have to be there first.
SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_' ORDER BY rolname;

-- name: list_tombstones
-- Everybody who was ever erased.
SELECT encode(user_hash, 'hex') AS user_hash,
       ARRAY(SELECT encode(device, 'hex') FROM unnest(device_hashes) AS device ORDER BY 1) AS device_hashes,
       CASE WHEN isfinite(erased_at) THEN to_char(erased_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            ELSE 'infinity' END AS erased_at
FROM erased_players ORDER BY user_hash;

-- name: choose_compression
-- As the migrations choose it: a dump does not say, because not every server that it is restored on has lz4.
DO $$
BEGIN
    ALTER TABLE experience_progress ALTER COLUMN state SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

-- name: merge_tombstone
-- A tombstone that is newer than what was restored, or not there at all.
INSERT INTO erased_players AS e (user_hash, device_hashes, erased_at)
VALUES (decode($1, 'hex'), ARRAY(SELECT decode(device, 'hex') FROM unnest($2::text[]) AS device), $3::text::timestamptz)
ON CONFLICT (user_hash) DO UPDATE SET
    device_hashes = ARRAY(SELECT DISTINCT unnest(e.device_hashes || EXCLUDED.device_hashes)),
    erased_at = GREATEST(e.erased_at, EXCLUDED.erased_at);

-- name: list_users_after
-- All players, in pages: a tombstone names nobody, so each has to be asked whether it is theirs.
SELECT id FROM users WHERE ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2;
