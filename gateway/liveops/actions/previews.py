"""
Previews: what an action would find and leave, and whom it concerns. Reads alone; what is there when it is carried out
may be another state, and the preview says of which version it is.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from gateway.liveops.actions.steps import effects_of_payload
from gateway.liveops.shapes import iso
from persistence.actions.bans import Bans
from persistence.actions.maintenance import find_maintenance
from persistence.actions.shapes import compile_step
from persistence.cold.queries import queries
from persistence.cold.store import ColdStore
from persistence.errors import ProgressMissing
from persistence.hot.store import HotStore
from persistence.player_progress import PlayerProgress
from protocol.errors import VoidUpdate
from protocol.limits import OPS_DEVICE
from protocol.state import apply_ops, document, split_state

if TYPE_CHECKING:
    from gateway.liveops.actions.service import Wanted

Made = tuple[dict[str, Any], list[str]]


class Previews:
    def __init__(self, hot: HotStore, cold: ColdStore, progress: PlayerProgress) -> None:
        self._hot = hot
        self._cold = cold
        self._progress = progress
        self._bans = Bans(cold)

    async def make(self, wanted: Wanted) -> Made:
        """The preview and warnings, as the API answers them."""
        if wanted.is_step:
            return await self._step(wanted)
        match wanted.kind.name:
            case "message":
                return await self._message(wanted)
            case "ban" | "unban":
                return await self._ban(wanted)
            case "kick" | "end_session":
                return await self._session(wanted)
            case "edit_profile":
                return await self._profile(wanted)
            case "maintenance":
                return await self._maintenance(wanted)
            case "erase" | "force_flush":
                return await self._player(wanted)
            case "drain":
                return await self._drain(wanted)
            case _:
                text = {
                    "replay_dead_letter": "written as the row that it should have been",
                    "drop_dead_letter": "let go",
                }
                about = text.get(wanted.kind.name, "flushed again")
                missing = wanted.kind.name.endswith("_dead_letter") and wanted.user_id is None
                return _made(None, None, 1, 0, about), ["there is no such letter"] if missing else []

    async def _step(self, wanted: Wanted) -> Made:
        """The parts of the state that it touches, and whether the player is there to get it."""
        key = wanted.key
        found = await self._hot.find_progress(key)
        if found is not None:
            fields: dict[str, str | bytes] = dict(found.fields)
            version = found.version
        else:
            cold = await self._cold.find_progress(key, OPS_DEVICE)
            if cold is None:
                raise ProgressMissing(key)
            fields, version = dict(split_state(cold.state_json, cold.kinds_json)), cold.version
        effects = effects_of_payload(wanted.kind.name, wanted.payload)
        tops = {effect["path"].partition(".")[0] for effect in effects}
        before = {name: value for name, value in document(fields).items() if name in tops}
        warnings = []
        try:
            apply_ops(fields, compile_step(None, effects).ops)
        except VoidUpdate as void:
            warnings.append(f"it would be refused: {void.message}")
        after = {name: value for name, value in document(fields).items() if name in tops}
        if before == after and not warnings:
            warnings.append("nothing would change: it is so already")
        session = await self._hot.find_session(key.user_id)
        is_there = session is not None and session.experience == key.experience
        text = f"version {version}; the player {'is playing and gets it at once' if is_there else 'is not there'}"
        return _made(before, after, 1, int(is_there), text), warnings

    async def _message(self, wanted: Wanted) -> Made:
        if wanted.user_id is not None:
            session = await self._hot.find_session(wanted.user_id)
            warnings = [] if session is not None else ["the player is not there: it would be refused"]
            return _made(None, None, int(session is not None), int(session is not None), "one player"), warnings
        if wanted.experience is None:
            players = await self._hot.count_sessions()
            return _made(None, None, players, players, "everybody who has a session"), []
        players = 0
        async for page in self._hot.list_sessions():
            players += sum(1 for _, experience, _ in page if experience == wanted.experience)
        return _made(None, None, players, players, f"everybody in {wanted.experience}"), []

    async def _ban(self, wanted: Wanted) -> Made:
        assert wanted.user_id is not None
        last = await self._bans.find(wanted.user_id)
        now = datetime.now(UTC)
        holds = last is not None and last.ban.holds_at(round(now.timestamp() * 1000))
        before = None
        if last is not None and holds:
            before = {"banned": True, "until": iso(last.until), "message": last.message}
        session = await self._hot.find_session(wanted.user_id)
        if wanted.kind.name == "unban":
            warnings = [] if holds else ["the player is not banned: it would be refused"]
            return _made(before, {"banned": False}, 1, 0, "may play again at once"), warnings
        for_s = wanted.payload["for_s"]
        until = None if for_s is None else now + timedelta(seconds=for_s)
        after = {"banned": True, "until": iso(until), "message": wanted.payload["message"]}
        text = "no end" if until is None else f"until {iso(until)}"
        return _made(before, after, 1, int(session is not None), f"{text}; sockets close with 4203"), []

    async def _session(self, wanted: Wanted) -> Made:
        assert wanted.user_id is not None
        session = await self._hot.find_session(wanted.user_id)
        if session is None:
            return _made(None, None, 0, 0, "nobody"), ["the player is not there: it would be refused"]
        before = {"session": session.id, "experience": session.experience, "node": session.node}
        close = 4202 if wanted.kind.name == "kick" else 4007
        says = "stays away until the player asks" if close == 4202 else "says hello again, into a new session"
        return _made(before, None, 1, 1, f"the socket closes with {close}; the client {says}"), []

    async def _profile(self, wanted: Wanted) -> Made:
        held = await self._cold.call(
            "find_profile", lambda c: c.fetchval(queries("profiles")["find_stats"], wanted.user_id)
        )
        patch = wanted.payload["stats"]
        if held is None:
            return _made(None, None, 0, 0, "nobody"), ["this player has no profile: it would be refused"]
        stats = json.loads(held)
        before = {"stats": {key: stats[key] for key in patch if key in stats}}
        after = {"stats": {key: value for key, value in patch.items() if value is not None}}
        return _made(before, after, 1, 0, "the profile, across experiences"), []

    async def _maintenance(self, wanted: Wanted) -> Made:
        held = await find_maintenance(self._cold)
        before = {"on": held is not None and held.is_on}
        players = await self._hot.count_sessions()
        payload = wanted.payload
        if not payload["on"]:
            return _made(before, {"on": False}, players, 0, "players may come back at once"), []
        at = payload["at"] or "now"
        text = f"everybody is told now, and sent away (4005) {'at ' if payload['at'] else ''}{at}"
        if until := payload.get("until"):
            text += f"; it ends by itself at {until}"
        after = {"on": True, "at": payload["at"], "until": until, "message": payload["message"]}
        return _made(before, after, players, players, text), []

    async def _player(self, wanted: Wanted) -> Made:
        rows = await self._cold.call(
            "list_player_progress", lambda c: c.fetch(queries("erase")["list_player_progress"], wanted.user_id)
        )
        session = None if wanted.user_id is None else await self._hot.find_session(wanted.user_id)
        before = {"experiences": sorted(row["experience_id"] for row in rows)}
        if wanted.kind.name == "force_flush":
            return _made(None, None, 1, int(session is not None), "what is accepted is saved at once"), []
        warnings = ["it cannot be taken back; what was done to this player is forgotten as well"]
        if not rows:
            warnings.append("nothing is known of this player; older tokens would be refused all the same")
        return _made(before, None, 1, int(session is not None), "everything about the player, for ever"), warnings

    async def _drain(self, wanted: Wanted) -> Made:
        nodes: dict[str, int] = {}
        async for page in self._hot.list_sessions():
            for _, _, node in page:
                nodes[node] = nodes.get(node, 0) + 1
        node = wanted.target["node"]
        players = nodes.get(node, 0)
        warnings = []
        if wanted.payload["on"] and not any(other != node for other in nodes):
            warnings.append(
                "no other gateway has players: unless there is one, nobody can come back until it is undone"
            )
        text = "players move to other gateways" if wanted.payload["on"] else "takes players again"
        return _made(
            {"draining": not wanted.payload["on"]}, {"draining": wanted.payload["on"]}, players, players, text
        ), warnings


def _made(before: Any, after: Any, players: int, connections: int, text: str) -> dict[str, Any]:
    return {"before": before, "after": after, "affects": {"players": players, "connections": connections, "text": text}}
