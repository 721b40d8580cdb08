"""
What an action is: somebody who is not the player changes the player's progress, and it is written down who and why.

An action on a progress is a step like any update: an event, effects, or both, whole or not at all. It is asked for
(a row, `requested`), accepted (in Redis, with its effect), saved (`done`); one that cannot have its effect is
`refused`.

Not here: where actions are kept (journal.py) and how they are applied (issuer.py).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from persistence.progress_key import ProgressKey
from protocol.effects import CompiledUpdate, compile_update
from protocol.errors import VoidUpdate
from protocol.events import KNOWN_EVENTS
from protocol.values import canonical_json, millionths_number, parse_json, quoted

OPERATOR_CHARS_MAX = 200
ROLE_CHARS_MAX = 20
ACTION_CHARS_MAX = 50
REASON_CHARS_MAX = 1_000
MESSAGE_CHARS_MAX = 500

ActionState = Literal["requested", "done", "refused"]


class InvalidAction(ValueError):
    """The caller's fault: what was asked for can never be done. `code` is the protocol's error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """
    Who wants what. `id` (a UUID) makes a request repeatable: the same id is the same action. `event` and `effects` as
    in an update of the protocol; `details` is what the action was asked for with, for those who read the audit log.
    `expects`: fields of the hot copy and what each must hold (None: not be there) when it is applied, else it has no
    effect. `undo_of`: the action that it takes back; one that has an effect can be taken back once.
    """

    id: str
    operator: str
    role: str
    action: str
    reason: str = ""
    event: Mapping[str, Any] | None = None
    effects: Sequence[Mapping[str, Any]] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    expects: Mapping[str, str | None] = field(default_factory=dict)
    undo_of: str | None = None

    def check(self) -> None:
        """Raises InvalidAction for a request that can never be done."""
        try:
            uuid.UUID(self.id)
        except ValueError:
            raise InvalidAction(102, "id: must be a UUID") from None
        for name, text, longest in (
            ("operator", self.operator, OPERATOR_CHARS_MAX),
            ("role", self.role, ROLE_CHARS_MAX),
            ("action", self.action, ACTION_CHARS_MAX),
        ):
            if not 1 <= len(text) <= longest:
                raise InvalidAction(102, f"{name}: must be text of 1 to {longest} characters")
        if len(self.reason) > REASON_CHARS_MAX:
            raise InvalidAction(102, f"reason: must be text of at most {REASON_CHARS_MAX} characters")

    def payload_json(self) -> str:
        """
        What the journal keeps of it.

        Raises:
            InvalidAction: an event or effects that can never be done, or details that cannot be kept.
        """
        self.check()
        parts = []
        try:
            if self.details:
                parts.append('"details":' + canonical_json(dict(self.details)).decode())
            if self.event is not None or self.effects is not None:
                compiled = compile_step(self.event, self.effects)
                if compiled.effects_json:
                    parts.append('"effects":' + compiled.effects_json.decode())
                if compiled.event is not None:
                    parts.append('"event":' + _event_json(compiled))
            if self.expects:
                # What fields hold was checked when it was accepted, and is longer than a value may be.
                parts.append('"expects":' + json.dumps(dict(self.expects), ensure_ascii=False, separators=(",", ":")))
            if self.undo_of is not None:
                parts.append(f'"undo_of":"{uuid.UUID(self.undo_of)}"')
            for text in (self.operator, self.role, self.action, self.reason):
                canonical_json(text)
        except VoidUpdate as void:
            raise InvalidAction(int(void.code), void.message) from None
        except ValueError as refused:
            raise InvalidAction(102, str(refused)) from None
        return "{" + ",".join(parts) + "}"


@dataclass(frozen=True, slots=True)
class Action:
    """A row of the journal. `key`, `row_id` and `ops_seq` are None for an action that is no step of a progress."""

    id: str
    user_id: str | None
    experience: str | None
    row_id: str | None
    ops_seq: int | None
    operator: str
    role: str
    action: str
    payload: dict[str, Any]
    reason: str
    state: ActionState
    message: str | None
    result: dict[str, Any] | None
    created_at: datetime
    done_at: datetime | None
    before: dict[str, Any] | None = None
    """{"version", "fields"}: what the fields that it touches held when it was applied as that version."""
    undo_of: str | None = None

    @property
    def key(self) -> ProgressKey:
        assert self.user_id is not None and self.experience is not None
        return ProgressKey(self.user_id, self.experience)

    def compile(self) -> CompiledUpdate:
        """
        Its step, ready to be applied.

        Raises:
            VoidUpdate: this release knows that it cannot be done.
        """
        return compile_step(self.payload.get("event"), self.payload.get("effects"))


def compile_step(event: object, effects: object) -> CompiledUpdate:
    """As an update's; mappings and sequences of any kind are taken."""
    return compile_update(
        dict(event) if isinstance(event, Mapping) else event,
        [dict(effect) if isinstance(effect, Mapping) else effect for effect in effects]
        if isinstance(effects, Sequence) and not isinstance(effects, (str, bytes))
        else effects,
    )


def action_of(row: Any) -> Action:
    """A row of `liveops_actions`."""
    progress_id = row["experience_progress_id"]
    return Action(
        id=str(row["id"]),
        user_id=None if row["user_id"] is None else str(row["user_id"]),
        experience=row["experience_id"],
        row_id=None if progress_id is None else progress_id.hex,
        ops_seq=row["ops_seq"],
        operator=row["operator"],
        role=row["role"],
        action=row["action"],
        payload=parse_json(row["payload"]),
        reason=row["reason"],
        state=row["state"],
        message=row["message"],
        result=None if row["result"] is None else json.loads(row["result"]),
        created_at=row["created_at"],
        done_at=row["done_at"],
        before=None if row["before"] is None else json.loads(row["before"]),
        undo_of=None if row["undo_of"] is None else str(row["undo_of"]),
    )


def state_push(compiled: CompiledUpdate, action: Action) -> dict[str, Any]:
    """What the player is told of an action."""
    told: dict[str, Any] = {"effects": effects_of(compiled), "action": action.action}
    if compiled.event is not None:
        told["event"] = {"type": compiled.event.type, "content_id": compiled.event.content_id}
    return told


def effects_of(compiled: CompiledUpdate) -> list[dict[str, Any]]:
    """
    All effects that a step has on the state, those that its event implies first, so that a client needs no table of
    events.
    """
    effects: list[dict[str, Any]] = []
    if compiled.event is not None and compiled.event.type in KNOWN_EVENTS:
        effects += map(_effect_of_op, KNOWN_EVENTS[compiled.event.type].imply(compiled.event))
    if compiled.effects_json:
        effects += parse_json(compiled.effects_json)
    return effects


def push_body(kind: str, data: Mapping[str, Any]) -> bytes:
    """What Redis keeps of a message to a player, opaque to it."""
    # Values were checked when they came in; as parts of this they may lie deeper than a value may.
    text = json.dumps({"kind": kind, "data": data}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _effect_of_op(op: tuple[Any, ...]) -> dict[str, Any]:
    verb, path, _, argument = op[:4]
    match verb:
        case "set":
            return {"op": "set", "path": path, "value": parse_json(argument)}
        case "incr" | "max":
            return {"op": verb, "path": path, "value": millionths_number(argument)}
        case "add_unless":
            return {"op": "add", "path": path, "value": argument, "unless": op[4]}
        case _:
            return {"op": verb, "path": path, "value": argument}


def _event_json(compiled: CompiledUpdate) -> str:
    event = compiled.event
    assert event is not None
    parts = []
    if event.at_ms is not None:
        parts.append(f'"at":{event.at_ms}')
    if event.content_id is not None:
        parts.append(f'"content_id":{quoted(event.content_id)}')
    parts.append(f'"data":{event.data_json.decode()}')
    for name, degrees in (("lat", event.lat), ("lng", event.lng)):
        if degrees is not None:
            parts.append(f'"{name}":{canonical_json(degrees).decode()}')
    parts.append(f'"type":{quoted(event.type)}')
    return "{" + ",".join(parts) + "}"
