"""
One progress computed again from its history: events and dead letters in version order, as the flush would have.

Pure. Not here: where the history comes from, and what is compared with it (verify.py, compare_progress.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from persistence.replay import compile_stored
from protocol.entry import OPERATOR_EDIT
from protocol.errors import VoidUpdate
from protocol.experience import ExperienceDefinition, completion_percentage
from protocol.limits import OPS_DEVICE
from protocol.state import replay_ops
from protocol.values import ValueRefused

PLAYTIME_GAP_MAX_MS = 60_000
"""Said again on purpose: a verification that shared the flush's numbers would share its mistakes."""


@dataclass(slots=True)
class StoredUpdate:
    """A row of `player_progress_events`, or the same of a dead letter. Times in ms."""

    version: int
    entry_id: str
    device: str
    seq: int
    event_type: str
    content_id: str | None
    data_json: bytes | str
    effects_json: bytes | str | None
    at_ms: int
    playtime_ms: int
    session_id: str


@dataclass(slots=True)
class ProgressReplay:
    """
    Takes updates in version order. `problems`: (check, what, found, expected) of what is wrong within the history
    itself. `is_whole`: nothing of it was removed, so that state and playtime can be known.
    """

    definition: ExperienceDefinition | None
    is_whole: bool = True
    fields: dict[str, Any] = field(default_factory=dict)
    problems: list[tuple[str, str, Any, Any]] = field(default_factory=list)
    last_seqs: dict[str, int] = field(default_factory=dict)
    sessions_ms: dict[str, int] = field(default_factory=dict)
    achievements: set[str] = field(default_factory=set)
    playtime_ms: int = 0
    last_version: int = 0
    last_entry: str = ""
    last_at_ms: int | None = None
    first_ms: int | None = None
    newest_ms: int | None = None
    completed_ms: int | None = None
    """The first update that completed it, by its event or by the state that it made."""
    is_completed_by_event: bool = False
    updates: int = 0
    is_replayable: bool = True

    def add(self, update: StoredUpdate) -> None:
        self.updates += 1
        self._follow_numbers(update)
        self._follow_effects(update)
        self.playtime_ms += update.playtime_ms
        is_action = update.device == OPS_DEVICE
        if is_action and update.event_type == OPERATOR_EDIT:
            if update.playtime_ms:
                self.problems.append(("gaps", f"version {update.version}", update.playtime_ms, 0))
            return  # nothing that the player did
        self._follow_time(update)
        if not is_action:
            played = self.sessions_ms.get(update.session_id, 0)
            self.sessions_ms[update.session_id] = played + update.playtime_ms
        if update.event_type == "achievement_unlocked" and update.content_id:
            self.achievements.add(update.content_id)
        self._follow_completion(update)

    def _follow_numbers(self, update: StoredUpdate) -> None:
        if update.version <= self.last_version:
            self.problems.append(("numbering", "version again", update.version, f"beyond {self.last_version}"))
        self.last_version, self.last_entry = update.version, update.entry_id
        before = self.last_seqs.get(update.device, 0)
        if update.seq <= before:
            what = f"seq of {update.device} at version {update.version}"
            self.problems.append(("numbering", what, update.seq, f"beyond {before}"))
        self.last_seqs[update.device] = max(before, update.seq)

    def _follow_effects(self, update: StoredUpdate) -> None:
        if not self.is_whole or not self.is_replayable:
            return
        try:
            ops = compile_stored(update.event_type, update.content_id, update.data_json, update.effects_json)
            replay_ops(self.fields, ops)
        except (VoidUpdate, ValueRefused) as error:
            self.is_replayable = False
            self.problems.append(("state", f"version {update.version} cannot be replayed", str(error), "an effect"))

    def _follow_time(self, update: StoredUpdate) -> None:
        at_ms = update.at_ms
        gap_ms = 0
        if self.last_at_ms is not None:
            gap_ms = min(max(at_ms - self.last_at_ms, 0), PLAYTIME_GAP_MAX_MS)
        # What was removed for its age may lie between any two that are left.
        if self.is_whole and update.playtime_ms != gap_ms:
            self.problems.append(("gaps", f"version {update.version}", update.playtime_ms, gap_ms))
        self.last_at_ms = at_ms
        self.first_ms = at_ms if self.first_ms is None else min(self.first_ms, at_ms)
        self.newest_ms = at_ms if self.newest_ms is None else max(self.newest_ms, at_ms)

    def _follow_completion(self, update: StoredUpdate) -> None:
        rule = None if self.definition is None else self.definition.completion
        if update.event_type == "experience_completed" and (rule is None or rule.by_event):
            self.is_completed_by_event = True
            self.completed_ms = update.at_ms if self.completed_ms is None else self.completed_ms
        elif self.completed_ms is not None:
            return
        elif self.is_whole and self.definition is not None and rule is not None:
            is_complete = completion_percentage(self.definition, self.fields) >= 100.0
            self.completed_ms = update.at_ms if is_complete else None
