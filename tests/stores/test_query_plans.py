"""
Every query is served by an index: on a filled database, without forbidding sequential scans, with the plan that is made
for the arguments and with the one that a prepared statement gets later.

Each statement in `persistence/cold/sql/queries/` has a row in `CASES`. A new one fails here until it has one.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from persistence.cold.queries import queries
from persistence.fill.fill import fill
from persistence.fill.plan import FillPlan
from persistence.fill.story import World
from tests.servers import Servers
from tests.stores.observed_query import Observed, observe

PLAN = FillPlan(World.invent("wylding-woods"), 800, 20_000, random_seed=11, stories_max=100)
OTHER = FillPlan(World.invent("west-of-house"), 150, 3_000, random_seed=12, stories_max=30, adds=True)

GROWING = frozenset(
    {
        "users",
        "player_profiles",
        "experience_progress",
        "player_progress_events",
        "device_streams",
        "player_sessions",
        "dead_letters",
        "liveops_actions",
        "content_hours",
        "content_player_days",
        "player_days",
    }
)
"""Tables with rows for each player or each step. Going through one of them takes longer every day."""

ROWS_MAX = 50
"""Rows of those tables that a query may read without an index: what lies in a partition that is nearly empty."""

QUERIES = Path(__file__).parents[2] / "persistence" / "cold" / "sql" / "queries"


@dataclass(frozen=True)
class Sample:
    """One player of the filled database, with a long history, and a second one."""

    user_id: uuid.UUID
    profile_id: uuid.UUID
    progress_id: uuid.UUID
    other_progress_id: uuid.UUID
    other_profile_id: uuid.UUID
    session_id: uuid.UUID
    version: int
    device: str
    experience: str = "wylding-woods"
    new_id: uuid.UUID = field(default_factory=uuid.uuid4)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def progress_ids(self) -> list[uuid.UUID]:
        return [self.progress_id, self.other_progress_id]

    @property
    def today(self) -> date:
        return self.now.date()

    @property
    def long_ago(self) -> datetime:
        return self.now - timedelta(days=100)

    @property
    def week_ago(self) -> datetime:
        return self.now - timedelta(days=7)


@dataclass(frozen=True)
class Case:
    """
    Arguments of a query, and indexes without which it would not be served.

    `scans`: it may go through a whole table, for this reason. `before`: SQL that makes what it works on. `is_small`:
    the filled tables are so small that going through them is as good; here the planner is told not to.
    `is_custom_only`: its callers never let it have a generic plan.
    """

    arguments: Callable[[Sample], Sequence[Any]]
    searches: frozenset[str] = frozenset()
    scans: str = ""
    answers: int | None = None
    before: str = ""
    is_small: bool = False
    is_custom_only: bool = False


def case(arguments: Callable[[Sample], Sequence[Any]], *searches: str, **more: Any) -> Case:
    return Case(arguments, frozenset(searches), **more)


USER_KEY = "player_profiles_user_id_key"
PROGRESS_KEY = "experience_progress_player_id_experience_id_key"
PROGRESS = "experience_progress_pkey"
EVENTS_KEY = "player_progress_events_pkey"
ALL_OF_EXPERIENCE = "idx_experience_progress_last_played"
VISITED = "waypoint_visited"
VERIFIES = "a verification reads everything"

CASES: dict[str, Case] = {
    "progress.open_progress": case(
        lambda s: [s.user_id, s.experience, s.device, None, b"x", b"y"],
        USER_KEY,
        PROGRESS_KEY,
        "device_streams_pkey",
        answers=1,
    ),
    "progress.find_progress": case(
        lambda s: [s.user_id, s.experience, s.device, s.session_id, b"x"],
        *(USER_KEY, PROGRESS_KEY, "device_streams_pkey", "player_sessions_pkey"),
        answers=1,
    ),
    "progress.find_many": case(
        lambda s: [
            *([s.user_id, s.new_id], [s.experience] * 2, [s.device] * 2, [s.session_id, None], [1e9, None]),
            *([b"x", b"y"], [b"z", b""]),
        ],
        *(USER_KEY, PROGRESS_KEY, "device_streams_pkey", "player_sessions_pkey"),
        answers=2,
    ),
    "progress.find_device_seq": case(lambda s: [s.progress_id, s.device], "device_streams_pkey", answers=1),
    "progress.find_profile": case(lambda s: [s.user_id], USER_KEY, answers=1),
    "progress.list_history": case(
        lambda s: [s.user_id, s.experience, 2**63 - 1, 20, s.long_ago, s.now, None, None],
        *(USER_KEY, PROGRESS_KEY, EVENTS_KEY),
        answers=20,
    ),
    "progress.list_player_history": case(
        lambda s: [s.user_id, s.now, s.new_id, 20, s.long_ago, s.now, None, None, 2**62],
        *(USER_KEY, PROGRESS_KEY, EVENTS_KEY),
        answers=20,
    ),
    "progress.list_open_sessions": case(lambda s: [3600.0, 500, None], "idx_player_sessions_open"),
    "progress.close_lost_sessions": case(lambda s: [[s.session_id]], "player_sessions_pkey"),
    "progress.ping": case(lambda s: []),
    "erase.find_hash_key": case(lambda s: [], scans="one row"),
    "erase.list_player_progress": case(lambda s: [s.user_id], USER_KEY, PROGRESS_KEY, answers=1),
    "erase.list_player_devices": case(
        lambda s: [s.user_id], USER_KEY, PROGRESS_KEY, "device_streams_pkey", "idx_player_sessions_user"
    ),
    "erase.put_tombstone": case(lambda s: [b"x", [b"y"]]),
    "erase.lock_player": case(lambda s: [b"x"]),
    "erase.lock_player_progress": case(lambda s: [s.user_id], USER_KEY, PROGRESS_KEY, answers=1),
    "erase.erase_rollups": case(
        lambda s: [s.user_id],
        *(EVENTS_KEY, "idx_player_days_progress", "content_player_days_pkey", "content_hours_pkey"),
        is_small=True,
    ),
    "erase.delete_player": case(
        lambda s: [s.user_id],
        *("users_pkey", USER_KEY, PROGRESS_KEY, EVENTS_KEY, "device_streams_pkey", "idx_player_sessions_user"),
        *("idx_dead_letters_progress", "idx_liveops_actions_user", "idx_liveops_actions_stream"),
    ),
    "erase.settle_tombstone": case(lambda s: [b"x"]),
    "erase.find_tombstone": case(lambda s: [b"x", b"y"]),
    "flush.lock_progress": case(lambda s: [s.progress_ids], PROGRESS, answers=2),
    "flush.list_present_progress": case(lambda s: [s.progress_ids], PROGRESS, answers=2),
    "flush.find_states": case(lambda s: [s.progress_ids], PROGRESS, answers=2),
    "flush.update_progress": case(
        lambda s: [
            s.progress_ids,
            [s.version + 1] * 2,
            [s.new_id] * 2,
            ["{}"] * 2,
            ["{}"] * 2,
            ["x"] * 2,
            [1] * 2,
            [1] * 2,
            [s.now] * 2,
            [s.now] * 2,
            [s.now] * 2,
            [None] * 2,
            [1.0] * 2,
        ],
        PROGRESS,
    ),
    "flush.upsert_device_streams": case(
        lambda s: [s.progress_ids, ["new", "new"], [1, 1]], "device_streams_pkey", PROGRESS
    ),
    "flush.upsert_sessions": case(
        lambda s: [[s.session_id], [s.user_id], [s.experience], ["phone"], [s.now], [None], [None]],
        "player_sessions_pkey",
    ),
    "flush.add_session_playtime": case(lambda s: [[s.session_id], [5]], "player_sessions_pkey", is_small=True),
    "flush.lock_profiles": case(lambda s: [[s.profile_id]], "player_profiles_pkey", answers=1),
    "flush.add_to_profiles": case(
        lambda s: [[s.profile_id], [0], [5], [5], 100, 50, 100, 80, 100], "player_profiles_pkey", is_small=True
    ),
    "flush.add_achievements": case(lambda s: [[s.profile_id], ['["x"]']], "player_profiles_pkey", is_small=True),
    "flush.find_shard": case(lambda s: []),
    "flush.find_content_ids": case(lambda s: [[s.experience], [VISITED], ["waypoint_03"]], answers=1),
    "flush.make_contents": case(lambda s: [[s.experience], [VISITED], ["a_new_one"]], "contents_key", answers=1),
    "flush.add_content_hours": case(lambda s: [[1], [480_000], [1], [1], [1], 3], "content_hours_pkey"),
    "flush.add_content_player_days": case(
        lambda s: [[1], [20_000], [s.progress_id], [1], [1_728_000_000_000]], "content_player_days_pkey"
    ),
    "flush.add_experience_hours": case(lambda s: [[s.experience], [480_000], [1], [1], 3], "experience_hours_pkey"),
    "flush.add_player_days": case(
        lambda s: [[s.experience], [20_000], [s.progress_id], [1], [1], [1_728_000_000_000]],
        *("player_days_pkey", "idx_player_days_progress"),
    ),
    "flush.add_new_player_days": case(
        lambda s: [[s.experience], [20_000], [s.progress_id], [1], [1], [1_728_000_000_000]],
        *("player_days_pkey", "idx_player_days_progress"),
    ),
    "flush.insert_dead_letter": case(
        lambda s: [s.new_id, s.progress_id, "phone", 1, 1, b"", "refused", "22000", 0], "dead_letters_pkey", PROGRESS
    ),
    "dead_letters.list_dead_letters": case(lambda s: [50], "idx_dead_letters_open", answers=3),
    "dead_letters.count_dead_letters": case(lambda s: [], "idx_dead_letters_open", answers=1),
    "dead_letters.lock_progress_of_dead_letters": case(lambda s: [[s.new_id]], "dead_letters_pkey"),
    # By their ids or, as long as they are few, among those that are open: both are good.
    "dead_letters.take_dead_letters": case(lambda s: [[s.new_id]]),
    "dead_letters.delete_dead_letter": case(lambda s: [s.new_id], "dead_letters_pkey"),
    "dead_letters.drop_dead_letters": case(lambda s: [[s.new_id]]),
    "actions.request_action": case(
        lambda s: [s.new_id, s.user_id, s.experience, "somebody", "service", "edit", "{}", "", 1000],
        *(USER_KEY, PROGRESS_KEY, "liveops_actions_pkey", "idx_liveops_actions_stream", "device_streams_pkey"),
        answers=1,
    ),
    "actions.insert_action": case(
        lambda s: [s.new_id, s.user_id, s.experience, "somebody", "service", "ban", "{}", ""],
        *("users_pkey", "liveops_actions_pkey"),
        answers=1,
    ),
    "actions.find_action": case(lambda s: [s.new_id], "liveops_actions_pkey"),
    "actions.list_requested_actions": case(lambda s: [s.progress_id, 10], "idx_liveops_actions_stream", answers=2),
    "actions.list_waiting_actions": case(
        lambda s: [0.0, s.long_ago, uuid.UUID(int=0), 100], "idx_liveops_actions_requested", answers=2
    ),
    "actions.mark_actions": case(lambda s: [[s.new_id], ["done"], [None], ["{}"]], is_small=True),
    "actions.refuse_overtaken_actions": case(
        lambda s: [s.progress_id],
        *("device_streams_pkey", "idx_liveops_actions_stream"),
        before="INSERT INTO device_streams (experience_progress_id, device_id, last_seq) "
        "SELECT experience_progress_id, 'ops', 2 FROM liveops_actions WHERE state = 'requested' LIMIT 1",
        answers=2,
    ),
    "actions.list_player_actions": case(
        lambda s: [s.user_id, s.now, s.new_id, 10], "idx_liveops_actions_user", answers=2
    ),
    "actions.list_actions": case(lambda s: [s.now, s.new_id, 10], "idx_liveops_actions_created", answers=10),
    "actions.note_before": case(lambda s: [s.new_id, "{}"], "liveops_actions_pkey"),
    "actions.find_undo": case(lambda s: [s.new_id], "idx_liveops_actions_undo"),
    "actions.list_unexecuted_actions": case(
        lambda s: [0.0, s.long_ago, uuid.UUID(int=0), 100], "idx_liveops_actions_requested"
    ),
    "actions.is_drain_overtaken": case(lambda s: [s.now, s.new_id, "node"], "idx_liveops_actions_created"),
    # By its id or, as long as they are few, among those that are open: both are good. So with the next two.
    "actions.forget_erased": case(lambda s: [s.new_id, "{}", "{}"]),
    "dead_letters.find_dead_letter": case(lambda s: [s.new_id]),
    "operators.count_operators": case(lambda s: []),
    "operators.lock_first_operator": case(lambda s: []),
    "operators.insert_first_operator": case(lambda s: ["ann", "hash"]),
    "operators.insert_operator": case(lambda s: ["ann", "viewer", None, False, ""]),
    "operators.find_operator": case(lambda s: ["ann"]),
    "operators.list_operators": case(lambda s: []),
    "operators.change_operator": case(lambda s: ["ann", None, None, None, None]),
    "operators.insert_token": case(lambda s: ["ann", b"x", "", None]),
    "operators.list_tokens": case(lambda s: ["ann"]),
    "operators.revoke_token": case(lambda s: [s.new_id]),
    "operators.find_by_token": case(lambda s: [b"x"], "operator_tokens_secret_unique", is_small=True),
    "operators.insert_session": case(lambda s: ["ann", b"x", 60.0, ""]),
    "operators.find_by_session": case(lambda s: [b"x"], "operator_sessions_pkey", is_small=True),
    "operators.delete_session": case(lambda s: [b"x"], "operator_sessions_pkey", is_small=True),
    "operators.delete_expired_sessions": case(lambda s: [], "idx_operator_sessions_expires", is_small=True),
    "operators.insert_log": case(lambda s: ["ann", "viewer", "login", s.user_id, "", "{}"], "users_pkey"),
    "live_ops.list_players": case(
        lambda s: [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), None, 10], "users_pkey", answers=10
    ),
    "live_ops.find_player": case(lambda s: [s.user_id], "users_pkey", USER_KEY, answers=1),
    "live_ops.list_progress_of_player": case(lambda s: [s.user_id, 10], USER_KEY, PROGRESS_KEY, answers=1),
    "live_ops.list_devices_of_player": case(
        lambda s: [s.user_id, 10], *(USER_KEY, PROGRESS_KEY, "device_streams_pkey")
    ),
    "live_ops.list_sessions_of_player": case(lambda s: [s.user_id, s.now, s.new_id, 10], "idx_player_sessions_user"),
    "live_ops.find_ban_of_player": case(lambda s: [s.user_id], "bans_pkey", is_small=True),
    "live_ops.list_path": case(
        lambda s: [s.user_id, s.experience, s.long_ago, s.now, 10], *(USER_KEY, PROGRESS_KEY, EVENTS_KEY)
    ),
    "live_ops.list_audited_actions": case(
        lambda s: [s.now, s.new_id, s.long_ago, None, None, 10], "idx_liveops_actions_created", answers=10
    ),
    "live_ops.list_audited_actions_of_player": case(
        lambda s: [s.now, s.new_id, s.long_ago, None, None, 10, s.user_id], "idx_liveops_actions_user", answers=2
    ),
    "live_ops.list_operator_log": case(lambda s: [s.now, 2**62, s.long_ago, None, None, 10], is_small=True),
    "live_ops.list_operator_log_of_player": case(
        lambda s: [s.now, 2**62, s.long_ago, None, None, 10, s.user_id], is_small=True
    ),
    "live_ops.list_undone": case(lambda s: [[s.new_id]], "idx_liveops_actions_undo", is_small=True),
    "connections.insert_connections": case(
        lambda s: [
            *([s.user_id], [7], ["x"], [s.new_id], ["phone"], ["node"], [0], [1], [None], [False], [0], [None]),
        ],
        "users_pkey",
    ),
    "connections.remove_old_connections": case(lambda s: [30, 10], "idx_player_connections_closed", is_small=True),
    "connections.list_connections_of_player": case(
        lambda s: [s.user_id, 2**62, 10], "player_connections_pkey", is_small=True
    ),
    "profiles.lock_requested": case(lambda s: [s.new_id]),
    "profiles.lock_stats": case(lambda s: [s.user_id], USER_KEY, answers=1),
    "profiles.find_stats": case(lambda s: [s.user_id], USER_KEY, answers=1),
    "profiles.find_progress_owner": case(lambda s: [s.progress_id], PROGRESS, answers=1),
    "profiles.find_user": case(lambda s: [s.user_id], "users_pkey", answers=1),
    "profiles.put_stats": case(lambda s: [s.user_id, "{}"], USER_KEY),
    "bans.put_ban": case(lambda s: [s.user_id, s.new_id, s.now, None, "", "", "somebody"], answers=1),
    "bans.lift_ban": case(lambda s: [s.user_id, s.new_id, s.now, "somebody"], is_small=True),
    "bans.find_ban": case(lambda s: [s.user_id], is_small=True),
    "bans.list_bans": case(lambda s: [s.now, s.new_id, 10], "idx_bans_hold", is_small=True),
    "bans.put_maintenance": case(lambda s: [True, s.now, "", s.new_id, s.now, "somebody"], answers=1),
    "bans.find_maintenance_end": case(lambda s: [], scans="it has one row, and leads to one by its id"),
    "bans.find_maintenance": case(lambda s: [], scans="it has one row"),
    "backup.describe_database": case(lambda s: [], scans="once for a backup, which reads everything"),
    "backup.choose_compression": case(lambda s: []),
    "backup.list_granted_roles": case(lambda s: []),
    "backup.list_tombstones": case(lambda s: [], scans="all of them are wanted"),
    "backup.list_users_after": case(lambda s: [s.user_id, 5], "users_pkey"),
    "backup.merge_tombstone": case(lambda s: ["00", ["00"], "infinity"], "erased_players_pkey"),
    "export.find_exported_user": case(lambda s: [s.user_id], "users_pkey", answers=1),
    "export.find_exported_profile": case(lambda s: [s.user_id], USER_KEY, answers=1),
    "export.list_exported_sessions": case(lambda s: [s.user_id], "idx_player_sessions_user"),
    "export.list_exported_progress": case(lambda s: [s.user_id], USER_KEY, PROGRESS_KEY, answers=1),
    "export.find_exported_progress": case(lambda s: [s.progress_id], PROGRESS, answers=1),
    "export.list_exported_streams": case(lambda s: [s.progress_id], "device_streams_pkey"),
    "export.list_exported_events": case(lambda s: [s.progress_id], EVENTS_KEY),
    "export.list_exported_dead_letters": case(lambda s: [s.progress_id], "idx_dead_letters_progress"),
    "export.list_exported_days": case(lambda s: [s.progress_id], "idx_player_days_progress"),
    "export.list_exported_content_days": case(
        lambda s: [s.progress_id], "idx_player_days_progress", "content_player_days_pkey", is_small=True
    ),
    "export.list_player_columns": case(lambda s: []),
    "verify.count_roughly": case(lambda s: []),
    "verify.list_event_horizons": case(lambda s: []),
    "verify.verify_progress": case(lambda s: [], scans=VERIFIES),
    "verify.verify_events": case(lambda s: [s.progress_ids], EVENTS_KEY),
    "verify.verify_dead_letters": case(lambda s: [s.progress_ids], "idx_dead_letters_progress"),
    "verify.verify_streams": case(lambda s: [s.progress_ids], "device_streams_pkey", is_small=True),
    "verify.verify_sessions": case(
        lambda s: [[s.profile_id]], "player_profiles_pkey", "idx_player_sessions_user", is_small=True
    ),
    "verify.verify_profiles": case(lambda s: [100, 50, 100, 80, 100], scans=VERIFIES),
    "verify.verify_achievements": case(lambda s: [[s.profile_id]], "player_profiles_pkey"),
    "verify.verify_content_hours": case(lambda s: [], scans=VERIFIES),
    "verify.verify_content_player_days": case(lambda s: [], scans=VERIFIES),
    "verify.verify_experience_hours": case(lambda s: [], scans=VERIFIES),
    "verify.verify_player_days": case(lambda s: [], scans=VERIFIES),
    "verify.lock_progress_of_player": case(lambda s: [s.profile_id], PROGRESS_KEY, answers=1),
    "verify.lock_profile": case(lambda s: [s.profile_id], "player_profiles_pkey", answers=1),
    "verify.repair_playtime": case(
        lambda s: [s.progress_ids], PROGRESS, EVENTS_KEY, "idx_dead_letters_progress", is_small=True
    ),
    "verify.repair_profile": case(
        lambda s: [s.profile_id, 100, 50, 100, 80, 100], "player_profiles_pkey", PROGRESS_KEY
    ),
    "verify.find_state_for_repair": case(lambda s: [s.progress_id], PROGRESS, answers=1),
    "verify.repair_completion": case(lambda s: [s.progress_id, s.now, 5.0], PROGRESS),
    "verify.repair_rollups": case(lambda s: [s.experience], scans=VERIFIES),
    "retention.move_event_horizon": case(lambda s: [s.experience, 30], "event_retention_pkey"),
    "retention.find_event_retention": case(lambda s: [s.experience], "event_retention_pkey"),
    "retention.oldest_event_month": case(lambda s: []),
    "retention.remove_old_events": case(
        lambda s: [s.experience, s.now - timedelta(days=80), 1000, "me", 60.0],
        "idx_progress_events_timestamp",
        before="SELECT move_event_horizon('wylding-woods', 60); "
        "UPDATE event_retention SET swept_until = now() - interval '82 days'",
        is_small=True,
        answers=1,
    ),
    "retention.drop_old_event_partitions": case(lambda s: [], ALL_OF_EXPERIENCE),
    "boards.list_distance_scores": case(
        lambda s: [s.experience, 50, 1000], ALL_OF_EXPERIENCE, PROGRESS, "player_profiles_pkey", is_small=True
    ),
    "boards.list_completion_scores": case(
        lambda s: [s.experience, 50, 1000], ALL_OF_EXPERIENCE, PROGRESS, "player_profiles_pkey", is_small=True
    ),
    "boards.list_counter_scores": case(
        lambda s: [s.experience, 10, 20, "collectibles", "artist_tools"],
        *(ALL_OF_EXPERIENCE, "player_profiles_pkey"),
        is_small=True,
    ),
    "boards.find_standing": case(lambda s: [s.user_id, s.experience], USER_KEY, PROGRESS_KEY, answers=1),
    "analytics.use_analytics_settings": case(lambda s: ["5s"]),
    "analytics.list_experiences": case(lambda s: [10], ALL_OF_EXPERIENCE, answers=2),
    "analytics.list_known_contents": case(lambda s: [s.experience, VISITED, 100], answers=37),
    "analytics.list_unknown_contents": case(lambda s: [s.experience, [VISITED], ["nowhere"]], answers=1),
    "analytics.find_engagement": case(
        lambda s: [s.experience, "waypoint_03", VISITED, s.week_ago, s.now],
        *("content_hours_pkey", "content_player_days_pkey", "idx_progress_events_content_id"),
        is_custom_only=True,
        answers=1,
    ),
    "analytics.list_ranking": case(
        lambda s: [s.experience, VISITED, s.week_ago, s.now, 10],
        *("content_hours_pkey", "idx_progress_events_content_id"),
        is_custom_only=True,
        answers=10,
    ),
    "analytics.list_funnel": case(
        lambda s: [s.experience, [VISITED] * 3, ["waypoint_01", "waypoint_02", "waypoint_03"], s.week_ago, s.now],
        *("content_player_days_pkey", "idx_progress_events_content_id"),
        is_custom_only=True,
        answers=3,
    ),
    "analytics.list_retention": case(
        lambda s: [s.experience, s.today - timedelta(days=40), s.today, s.today],
        "idx_player_days_cohort",
        is_custom_only=True,
    ),
    "analytics.list_active_players": case(
        lambda s: [s.experience, s.today - timedelta(days=7), s.today],
        *("player_days_pkey", "idx_player_days_cohort"),
        is_custom_only=True,
    ),
    "analytics.find_completion": case(
        lambda s: [s.experience, s.week_ago, s.now], ALL_OF_EXPERIENCE, is_custom_only=True, is_small=True, answers=1
    ),
    "analytics.list_quest_completion": case(
        lambda s: [s.experience, s.week_ago, s.now], "content_player_days_pkey", is_custom_only=True
    ),
    "analytics.list_playtime": case(
        lambda s: [s.experience, s.today - timedelta(days=7), s.today, [0, 60, 600]],
        "player_days_pkey",
        is_custom_only=True,
        answers=3,
    ),
    "analytics.list_session_lengths": case(
        lambda s: [s.experience, s.week_ago, s.now, [0, 60, 600]],
        "idx_player_sessions_experience",
        is_custom_only=True,
        answers=3,
    ),
    "analytics.list_drop_off": case(
        lambda s: [s.experience, s.week_ago, 20], ALL_OF_EXPERIENCE, is_custom_only=True, is_small=True
    ),
}

# What the data model asks of its tables, with its names where they differ.
DATA_MODEL: dict[str, tuple[str, Case]] = {
    "the profile of a user": (
        "SELECT * FROM player_profiles WHERE user_id = $1",
        case(lambda s: [s.user_id], USER_KEY, answers=1),
    ),
    "the progress of a player in an experience": (
        "SELECT * FROM experience_progress WHERE player_id = $1 AND experience_id = $2",
        case(lambda s: [s.profile_id, s.experience], PROGRESS_KEY, answers=1),
    ),
    "every progress of a player": (
        "SELECT * FROM experience_progress WHERE player_id = $1",
        case(lambda s: [s.profile_id], PROGRESS_KEY, answers=1),
    ),
    "the inventory of a player": (
        "SELECT state -> 'inventory' FROM experience_progress WHERE player_id = $1 AND experience_id = $2",
        case(lambda s: [s.profile_id, s.experience], PROGRESS_KEY, answers=1),
    ),
    "has a player visited a waypoint": (
        "SELECT state -> 'visited_waypoints' ? 'waypoint_03' FROM experience_progress "
        "WHERE player_id = $1 AND experience_id = $2",
        case(lambda s: [s.profile_id, s.experience], PROGRESS_KEY, answers=1),
    ),
    "the events of a progress": (
        "SELECT * FROM player_progress_events WHERE experience_progress_id = $1",
        case(lambda s: [s.progress_id], EVENTS_KEY),
    ),
    "how many players visited a waypoint in the last week": (
        "SELECT count(DISTINCT experience_progress_id) FROM player_progress_events "
        "WHERE event_type = 'waypoint_visited' AND content_id = $1 AND \"timestamp\" > $2",
        case(lambda s: ["waypoint_03", s.week_ago], "idx_progress_events_content_id", answers=1),
    ),
}


# What a fill makes none of: dead letters, nearly all of them dropped, and actions, nearly all of them done. Those that
# are open belong to the player with the longest history, as does the sample; the first of several whose is as long.
MORE_ROWS = """
INSERT INTO dead_letters (id, experience_progress_id, device_id, seq, version, payload, reason, sqlstate, dropped_at)
SELECT gen_random_uuid(), id, 'phone', 1, 1, '', 'refused', '22000', now() FROM experience_progress;
UPDATE dead_letters SET dropped_at = NULL WHERE id IN (SELECT id FROM dead_letters LIMIT 3);
INSERT INTO liveops_actions (
    id, experience_progress_id, ops_seq, user_id, experience_id, operator, role, action, state, created_at, done_at
)
SELECT gen_random_uuid(), p.id, n, f.user_id, p.experience_id, 'somebody', 'service', 'edit',
       CASE WHEN p.id = longest.id THEN 'requested' ELSE 'done' END,
       now() - interval '1 day', CASE WHEN p.id <> longest.id THEN now() END
FROM experience_progress p JOIN player_profiles f ON f.id = p.player_id, generate_series(1, 2) AS n,
     (SELECT id FROM experience_progress WHERE experience_id = 'wylding-woods'
      ORDER BY version DESC, id LIMIT 1) longest;
-- As autovacuum does: half of these queries read nothing but an index.
VACUUM (ANALYZE) experience_progress;
VACUUM (ANALYZE) dead_letters;
VACUUM (ANALYZE) liveops_actions;
"""


@pytest.fixture(scope="module")
def filled_url(servers: Servers) -> Any:
    url = servers.create_database()

    async def make() -> None:
        await fill(url, PLAN)
        await fill(url, OTHER)
        connection = await asyncpg.connect(url)
        try:
            for statement in MORE_ROWS.strip().split(";\n"):
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(make())
    yield url
    servers.drop_database(url)


@pytest.fixture
async def connection(filled_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(filled_url)
    # As our own connections have it.
    await connection.execute("SET timezone = 'UTC'")
    yield connection
    await connection.close()


async def pick(connection: Any) -> Sample:
    rows = await connection.fetch(
        """SELECT f.user_id, f.id AS profile_id, p.id AS progress_id, p.version, d.device_id
           FROM experience_progress p
           JOIN player_profiles f ON f.id = p.player_id
           JOIN device_streams d ON d.experience_progress_id = p.id
           WHERE p.experience_id = 'wylding-woods' ORDER BY p.version DESC, p.id LIMIT 2"""
    )
    session_id = await connection.fetchval(
        "SELECT id FROM player_sessions WHERE user_id = $1 LIMIT 1", rows[0]["user_id"]
    )
    return Sample(
        user_id=rows[0]["user_id"],
        profile_id=rows[0]["profile_id"],
        progress_id=rows[0]["progress_id"],
        other_progress_id=rows[1]["progress_id"],
        other_profile_id=rows[1]["profile_id"],
        session_id=session_id,
        version=rows[0]["version"],
        device=rows[0]["device_id"],
    )


def list_queries() -> dict[str, str]:
    return {f"{path.stem}.{name}": sql for path in QUERIES.glob("*.sql") for name, sql in queries(path.stem).items()}


def test_every_query_says_by_which_index_it_is_served() -> None:
    found = set(list_queries())
    assert sorted(found - set(CASES)) == [], "add a row to CASES: its arguments, and the indexes that serve it"
    assert sorted(set(CASES) - found) == [], "these queries are gone"


@pytest.mark.parametrize("name", list(CASES))
async def test_query_is_served_by_its_indexes(connection: Any, name: str) -> None:
    await check(connection, list_queries()[name], CASES[name])


@pytest.mark.parametrize("name", list(DATA_MODEL))
async def test_query_of_the_data_model_is_served_by_its_indexes(connection: Any, name: str) -> None:
    await check(connection, *DATA_MODEL[name])


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("erase.list_player_devices", "idx_player_sessions_user"),
        ("erase.delete_player", "idx_player_sessions_user"),
        ("analytics.list_session_lengths", "idx_player_sessions_experience"),
    ],
)
async def test_an_index_that_is_gone_is_missed(connection: Any, name: str, index: str) -> None:
    """Also where the search is made by a function, or for a foreign key."""
    wanted = CASES[name]
    broken = replace(wanted, before=f"DROP INDEX {index}; {wanted.before}")
    with pytest.raises(AssertionError, match="not searched"):
        await check(connection, list_queries()[name], broken)


async def check(connection: Any, sql: str, wanted: Case) -> None:
    sample = await pick(connection)
    for is_generic in (False,) if wanted.is_custom_only else (False, True):
        seen = await observe(
            connection,
            sql,
            wanted.arguments(sample),
            is_generic=is_generic,
            before=wanted.before + ("; SET LOCAL enable_seqscan = off" if wanted.is_small else ""),
        )
        judge(seen, wanted, is_generic)


def judge(seen: Observed, wanted: Case, is_generic: bool) -> None:
    plan = f"with the {'generic' if is_generic else 'custom'} plan; the custom one is\n{seen.plan}"
    missing = wanted.searches - seen.searched
    assert not missing, f"not searched: {missing}, but {seen.searched}, {seen.read_rows} {plan}"
    if wanted.answers is not None:
        assert seen.answered == wanted.answers, "the arguments do not find what they should"
    read = {table: rows for table, rows in seen.read_rows.items() if table in GROWING and rows > ROWS_MAX}
    assert not read or wanted.scans, f"reads whole tables: {read} {plan}"
