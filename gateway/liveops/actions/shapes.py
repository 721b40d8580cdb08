"""How an action looks in the API's JSON: to whoever asked for it, and in the audit log."""

from __future__ import annotations

from typing import Any

from gateway.liveops.actions.catalogue import ACTIONS
from gateway.liveops.shapes import iso
from persistence.actions.bans import BanRow
from persistence.actions.shapes import Action


def target_of(action: Action) -> dict[str, Any]:
    target: dict[str, Any] = action.payload.get("details", {}).get("target", {})
    return target


def payload_of(action: Action) -> dict[str, Any]:
    payload: dict[str, Any] = action.payload.get("details", {}).get("payload", {})
    return payload


def can_undo(action: Action) -> bool:
    """As far as the row tells: the state may have moved on, and only the undo itself finds out."""
    kind = ACTIONS.get(action.action)
    return kind is not None and bool(kind.undo) and action.state == "done" and payload_of(action) is not None


def action_item(action: Action, undone_by: Action | None) -> dict[str, Any]:
    """What became of an action. `undo`: how to take it back, where it can be."""
    item: dict[str, Any] = {"id": action.id, "state": action.state, "action": action.action}
    if action.message:
        item["message"] = action.message
    if action.result:
        item["result"] = action.result
    item["at"] = iso(action.created_at)
    item["done_at"] = iso(action.done_at)
    item["undo_of"] = action.undo_of
    item["undone_by"] = None if undone_by is None else undone_by.id
    item["undo"] = None
    if can_undo(action) and undone_by is None:
        item["undo"] = {
            "method": "POST",
            "path": f"/api/v1/actions/{action.id}/undo",
            "does": ACTIONS[action.action].undo,
        }
    return item


def audit_item(action: Action, undone_by: str | None = None) -> dict[str, Any]:
    """A row of the audit log. Actions of services have no target or payload of ours: theirs are shown as they stand."""
    details = action.payload.get("details", {})
    item: dict[str, Any] = {
        "id": action.id,
        "at": iso(action.created_at),
        "operator": action.operator,
        "role": action.role,
        "action": action.action,
        "player": action.user_id,
        "experience": action.experience,
        "target": target_of(action),
        "payload": details.get("payload") if "payload" in details else action.payload,
        "reason": action.reason,
        "state": action.state,
        "message": action.message,
        "done_at": iso(action.done_at),
        "undo_of": action.undo_of,
        "undone_by": undone_by,
        "undo": None,
    }
    if can_undo(action) and undone_by is None:
        item["undo"] = {
            "method": "POST",
            "path": f"/api/v1/actions/{action.id}/undo",
            "does": ACTIONS[action.action].undo,
        }
    return item


def ban_item(ban: BanRow) -> dict[str, Any]:
    return {
        "id": ban.action_id,
        "player": ban.user_id,
        "from": iso(ban.asked_at),
        "until": iso(ban.until),
        "message": ban.message,
        "operator": ban.operator,
        "reason": ban.reason,
        "lifted_at": iso(ban.lifted_at),
        "lifted_by": ban.lifted_by,
    }
