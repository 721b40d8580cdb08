-- Indexes that queries were missing: the open dead letters, the dead letters of a progress (an erase and an export look for
-- them), and ranges of the events' BRIN index that bear with late events and are known as soon as they are full.
--
-- Lock: dead_letters and player_progress_events against writing while the indexes are built (the first two are small;
-- BRIN takes about a second per million events): players play on, what they do waits in Redis. Runs before or after the
-- new code.

-- Serves the list of dead letters and the gauge that counts them, past those that an operator has dropped.
CREATE INDEX idx_dead_letters_open ON dead_letters (created_at, id) WHERE dropped_at IS NULL;

-- Serves the end of a progress (every one of its rows goes) and the export of a player.
CREATE INDEX idx_dead_letters_progress ON dead_letters (experience_progress_id);

-- Serves windows of time over everything; a hundredth of a b-tree's size, because events arrive nearly in order. Several
-- spans for each range of pages, because a few are sent days after they happened. Without autosummarize every query would
-- read what was written since the last vacuum.
DROP INDEX idx_progress_events_timestamp;
CREATE INDEX idx_progress_events_timestamp ON player_progress_events
    USING brin ("timestamp" timestamptz_minmax_multi_ops) WITH (pages_per_range = 64, autosummarize = on);
