"""
Sets of indexes to compare: ours, those of the first sketch of the data model, and each one added or taken away.

Each variant is SQL that turns a filled database of this release into another one. Not here: how they are measured
(indexes.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variant:
    """A database with other indexes."""

    name: str
    about: str
    sql: str = ""


_DROP_LAST_PLAYED = "DROP INDEX idx_experience_progress_last_played;"
_DROP_CONTENT = "DROP INDEX idx_progress_events_content_id;"
_DROP_TIMESTAMP = "DROP INDEX idx_progress_events_timestamp;"
_GIN = """
CREATE INDEX idx_experience_progress_state_inventory ON experience_progress USING GIN ((state -> 'inventory'));
CREATE INDEX idx_experience_progress_state_visited ON experience_progress USING GIN ((state -> 'visited_waypoints'));
"""
_SKETCH_PROGRESS = f"""
{_DROP_LAST_PLAYED}
CREATE INDEX sketch_player_id ON experience_progress (player_id);
CREATE INDEX sketch_experience_id ON experience_progress (experience_id);
CREATE INDEX sketch_last_played ON experience_progress (last_played_at);
CREATE INDEX sketch_player_exp ON experience_progress (player_id, experience_id);
CREATE INDEX sketch_user_id ON player_profiles (user_id);
CREATE INDEX sketch_account_level ON player_profiles (account_level);
"""
# Our key stays: it is what refuses a row twice. A primary key on the id alone cannot be had on a partitioned table.
_SKETCH_EVENTS = f"""
{_DROP_CONTENT}
{_DROP_TIMESTAMP}
CREATE UNIQUE INDEX sketch_event_id ON player_progress_events (id, "timestamp");
CREATE INDEX sketch_progress ON player_progress_events (experience_progress_id);
CREATE INDEX sketch_type ON player_progress_events (event_type);
CREATE INDEX sketch_timestamp ON player_progress_events ("timestamp");
CREATE INDEX sketch_content ON player_progress_events (content_id);
"""

VARIANTS = (
    Variant("ours", "what a fresh install has"),
    Variant("sketch", "all that the data model lists, GIN included", _SKETCH_PROGRESS + _SKETCH_EVENTS + _GIN),
    Variant("sketch_without_gin", "all that the data model lists but GIN", _SKETCH_PROGRESS + _SKETCH_EVENTS),
    Variant("gin", "ours, and the two GIN indexes on the state", _GIN),
    Variant(
        "account_level",
        "ours, and player_profiles (account_level)",
        "CREATE INDEX sketch_account_level ON player_profiles (account_level);",
    ),
    Variant("no_last_played", "ours without experience_progress (experience_id, last_played_at)", _DROP_LAST_PLAYED),
    Variant(
        "narrow_last_played",
        "ours, with (experience_id, last_played_at) that holds nothing else",
        f"{_DROP_LAST_PLAYED} CREATE INDEX narrow ON experience_progress (experience_id, last_played_at);",
    ),
    Variant(
        "event_type",
        "ours, and player_progress_events (event_type)",
        "CREATE INDEX sketch_type ON player_progress_events (event_type);",
    ),
    Variant(
        "timestamp_btree",
        "ours, with a b-tree on timestamp where we have BRIN",
        f'{_DROP_TIMESTAMP} CREATE INDEX sketch_timestamp ON player_progress_events ("timestamp");',
    ),
    Variant(
        "coarse_brin",
        "ours, with BRIN as Postgres makes it: one span for each 128 pages",
        f'{_DROP_TIMESTAMP} CREATE INDEX coarse ON player_progress_events USING brin ("timestamp");',
    ),
    Variant(
        "fine_brin",
        "ours, with BRIN of one span for each 32 pages",
        f'{_DROP_TIMESTAMP} CREATE INDEX fine ON player_progress_events USING brin ("timestamp") '
        "WITH (pages_per_range = 32);",
    ),
    Variant(
        "content_alone",
        "ours, with (content_id) where we have (content_id, timestamp)",
        f"{_DROP_CONTENT} CREATE INDEX sketch_content ON player_progress_events (content_id);",
    ),
    Variant("no_content", "ours without (content_id, timestamp)", _DROP_CONTENT),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A query whose time depends on an index, and the variants to ask in."""

    name: str
    sql: str
    variants: tuple[str, ...]


QUESTIONS = (
    Question(
        "players at a waypoint in the last week (events)",
        "SELECT count(*), count(DISTINCT experience_progress_id) FROM player_progress_events "
        "WHERE event_type = 'waypoint_visited' AND content_id = '8_inter_gravity_car' "
        "AND \"timestamp\" > now() - interval '7 days'",
        ("ours", "content_alone", "no_content", "sketch"),
    ),
    Question(
        "all events of an hour, ten days ago",
        "SELECT count(*), sum(playtime_ms) FROM player_progress_events "
        "WHERE \"timestamp\" BETWEEN now() - interval '10 days' AND now() - interval '239 hours'",
        ("ours", "timestamp_btree", "coarse_brin", "fine_brin", "sketch"),
    ),
    Question(
        "all events of the last day",
        "SELECT count(*), sum(playtime_ms) FROM player_progress_events WHERE \"timestamp\" > now() - interval '1 day'",
        ("ours", "timestamp_btree", "coarse_brin", "fine_brin", "sketch"),
    ),
    Question(
        "events of the rarest type, ever",
        "SELECT count(*) FROM player_progress_events WHERE event_type = 'experience_completed'",
        ("ours", "event_type", "sketch"),
    ),
    Question(
        "events of the commonest type, ever",
        "SELECT count(*), avg((data ->> 'time_spent')::float8) FROM player_progress_events "
        "WHERE event_type = 'waypoint_visited'",
        ("ours", "event_type"),
    ),
    Question(
        "the same by the rollups",
        "SELECT sum(h.events), sum(h.time_spent_ms) / sum(h.timed_events) FROM content_hours h "
        "JOIN contents c ON c.id = h.content WHERE c.event_type = 'waypoint_visited'",
        ("ours",),
    ),
    Question(
        "a whole history of one progress, newest first",
        "SELECT * FROM player_progress_events WHERE experience_progress_id = "
        "(SELECT id FROM experience_progress ORDER BY id OFFSET 500 LIMIT 1) ORDER BY version DESC",
        ("ours", "sketch"),
    ),
    Question(
        "who has the library card (state)",
        "SELECT count(*) FROM experience_progress WHERE state -> 'inventory' ? 'library_card'",
        ("ours", "gin"),
    ),
    Question(
        "who has ever been at the last waypoint (state)",
        "SELECT count(*) FROM experience_progress WHERE state -> 'visited_waypoints' ? '37_inter_homecoming_plaza'",
        ("ours", "gin"),
    ),
    Question(
        "the same by the rollups (unique players)",
        "SELECT count(DISTINCT d.experience_progress_id) "
        "FROM content_player_days d JOIN contents c ON c.id = d.content "
        "WHERE c.experience_id = 'wylding-woods' AND c.event_type = 'waypoint_visited' "
        "AND c.content_id = '37_inter_homecoming_plaza'",
        ("ours",),
    ),
    Question(
        "the hundred that played last",
        "SELECT player_id FROM experience_progress WHERE experience_id = 'wylding-woods' "
        "ORDER BY last_played_at DESC NULLS LAST LIMIT 100",
        ("ours", "no_last_played", "sketch"),
    ),
    Question(
        "where players stopped (drop_off)",
        "SELECT * FROM drop_off('wylding-woods')",
        ("ours", "narrow_last_played", "no_last_played"),
    ),
    Question(
        "who completed it (completion)",
        "SELECT * FROM completion('wylding-woods')",
        ("ours", "narrow_last_played", "no_last_played"),
    ),
    Question(
        "the hundred that walked farthest",
        "SELECT player_id, distance_micrometers FROM experience_progress WHERE experience_id = 'wylding-woods' "
        "ORDER BY distance_micrometers DESC LIMIT 100",
        ("ours", "narrow_last_played", "no_last_played"),
    ),
    Question(
        "how many players have level 5",
        "SELECT count(*) FROM player_profiles WHERE account_level = 5",
        ("ours", "account_level"),
    ),
)
