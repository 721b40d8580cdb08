-- name: move_event_horizon
-- Events of this experience go when they are so many days old. Only ever moves forward.
SELECT move_event_horizon($1, $2);

-- name: find_event_retention
-- How far the present round is: where it got (null: it has not begun), where it ends.
SELECT NULLIF(swept_until, '-infinity') AS swept_until, horizon, swept_until >= horizon AS is_done
FROM event_retention WHERE experience_id = $1;

-- name: oldest_event_month
-- Where a first round begins; null when there is no month at all.
SELECT oldest_event_month();

-- name: remove_old_events
-- One slice. No row: somebody else sweeps this experience.
SELECT removed, NULLIF(until, '-infinity') AS until, is_done FROM remove_old_events($1, $2, $3, $4, $5);

-- name: drop_old_event_partitions
-- Months that no experience keeps anything of; the names of those that went.
SELECT drop_old_event_partitions();
