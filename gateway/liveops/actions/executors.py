"""
Carries out actions that are no step of a progress: messages, kicks and bans, profiles, maintenance, drains, erases,
what Postgres refused.

Promise: an executor may die between any two lines and be begun again by anybody: what it does is repeatable, decided by
what stands in the row (when it was asked for, which session it is about), and an older word never replaces a later one.
The row is marked last, or in the transaction that does it.

Not here: who may ask (service.py), steps of a progress (persistence.actions).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.liveops.actions.dead_letters import drop_letter, replay_letter
from gateway.liveops.actions.profiles import patch_profile
from gateway.sessions.session_entries import EndReason, end_entry
from persistence.actions.bans import Bans, ban_row
from persistence.actions.journal import ActionJournal
from persistence.actions.maintenance import find_maintenance
from persistence.actions.shapes import Action, push_body
from persistence.cold.queries import queries
from persistence.cold.store import ColdStore
from persistence.erase import erase_player
from persistence.errors import StoreUnavailable
from persistence.hot.shapes import EndSession, Farewell, Outcome
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey
from persistence.warmer import Warmer
from protocol.closes import CloseCode
from protocol.entry import EntryIds

ATTEMPTS_MAX = 6
PUSHES_AT_ONCE = 40
DRAIN_HEARD_S = 3.0
DRAIN_GIVEN_UP_S = 60.0
FLUSH_GIVEN_UP_S = 600.0
POLL_S = (0.05, 0.5)

Outcomes = tuple[str, str | None, dict[str, Any] | None]
"""State, message and result: what the row is marked with."""

OVERTAKEN: Outcomes = ("refused", "a later action has replaced it", None)


class Waits(Exception):
    """It cannot be finished now; the row stays `requested`, and it is begun again later."""


class Executors:
    """
    One for a process. `at_step` is called between the steps of an action, with their names; tests die there.
    """

    def __init__(
        self,
        hot: HotStore,
        cold: ColdStore,
        database_url: str,
        *,
        at_step: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._hot = hot
        self._cold = cold
        self._database_url = database_url
        self._journal = ActionJournal(cold)
        self._bans = Bans(cold)
        self._warmer = Warmer(hot, cold)
        self._entry_ids = EntryIds()
        self._at_step = at_step
        self._executors: dict[str, Callable[[Action], Awaitable[Outcomes | None]]] = {
            "message": self._message,
            "kick": self._kick,
            "ban": self._ban,
            "unban": self._unban,
            "edit_profile": self._edit_profile,
            "force_flush": self._force_flush,
            "end_session": self._end_session,
            "erase": self._erase,
            "maintenance": self._maintenance,
            "drain": self._drain,
            "replay_dead_letter": self._replay_dead_letter,
            "drop_dead_letter": self._drop_dead_letter,
            "release_quarantine": self._release_quarantine,
        }

    async def close(self) -> None:
        await self._warmer.close()

    def knows(self, action: str) -> bool:
        return action in self._executors

    async def execute(self, action: Action) -> None:
        """
        Do it and mark its row. Repeating it is harmless.

        Raises:
            PersistenceError, Waits, TimeoutError: not finished; the row stays `requested`.
        """
        self._at_step("begin")
        outcome = await self._executors[action.action](action)
        self._at_step("done")
        if outcome is not None:
            state, message, result = outcome
            assert state in ("done", "refused")
            await self._journal.mark(action.id, "done" if state == "done" else "refused", message, result)
        self._at_step("marked")

    # ── players who are there ───────────────────────────────────────────────────────────────────────────────────────

    async def _message(self, action: Action) -> Outcomes:
        body = push_body("message", {"text": _payload(action)["text"]})
        if action.user_id is not None:
            n = await self._hot.push(action.user_id, action.id, body)
            return ("done", None, {"players": 1}) if n else ("refused", "the player is not there", None)
        return "done", None, {"players": await self._push_to_all(action.id, body, action.experience)}

    async def _push_to_all(self, message_id: str, body: bytes, experience: str | None) -> int:
        """Everybody who has a session, in one experience or all. Who has the message already gets it no second time."""
        reached = 0
        async for page in self._hot.list_sessions():
            users = [user_id for user_id, played, _ in page if experience is None or played == experience]
            for first in range(0, len(users), PUSHES_AT_ONCE):
                numbers = await asyncio.gather(
                    *(
                        self._hot.push(user_id, message_id, body, experience=experience)
                        for user_id in users[first : first + PUSHES_AT_ONCE]
                    )
                )
                reached += sum(1 for n in numbers if n)
            self._at_step("page sent")
        return reached

    async def _kick(self, action: Action) -> Outcomes:
        farewell = Farewell(CloseCode.KICKED, _payload(action)["message"])
        return await self._end_named_session(action, farewell, "kicked")

    async def _end_session(self, action: Action) -> Outcomes:
        return await self._end_named_session(action, Farewell(CloseCode.SESSION_ENDED), "kicked")

    async def _end_named_session(self, action: Action, farewell: Farewell, why: EndReason) -> Outcomes:
        """Only the session that was there when it was asked for: whoever came back since is somebody new."""
        session_id = action.payload["details"].get("session")
        if session_id is None:
            return "refused", "the player is not there", None
        assert action.user_id is not None
        ended = await self._end(action.user_id, farewell, why, only=session_id)
        return "done", None, {"session": session_id, "was_there": ended}

    async def _end(self, user_id: str, farewell: Farewell, why: EndReason, *, only: str | None = None) -> bool:
        """End the session of a player, whoever holds it; False: there is none (any more)."""
        is_rowless = False
        for _ in range(ATTEMPTS_MAX):
            session = await self._hot.find_session(user_id)
            if session is None or (only is not None and session.id != only):
                return False
            await self._hot.say_farewell(user_id, session.id, session.node, farewell)
            self._at_step("farewell said")
            key = ProgressKey(user_id, session.experience)
            now_ms = time.time_ns() // 1_000_000
            ended = await self._hot.end_session(
                EndSession(
                    key=key,
                    session_id=session.id,
                    entry=end_entry(self._entry_ids, session, now_ms, why),
                    is_rowless=is_rowless,
                )
            )
            if ended.outcome is Outcome.OK:
                return True
            if ended.outcome is Outcome.MISSING:
                is_rowless = await self._warmer.hydrate(key, session.device) is None
        raise Waits("the session changes again and again")

    # ── bans ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ban(self, action: Action) -> Outcomes:
        payload = _payload(action)
        until = None if payload["for_s"] is None else action.created_at + timedelta(seconds=payload["for_s"])
        row = await self._cold.call(
            "put_ban",
            lambda c: c.fetchrow(
                queries("bans")["put_ban"],
                action.user_id,
                action.id,
                action.created_at,
                until,
                payload["message"],
                action.reason,
                action.operator,
            ),
        )
        if row is None:
            return OVERTAKEN
        self._at_step("ban written")
        assert action.user_id is not None
        ban = ban_row(row).ban
        # Redis before the session ends: who says hello from here on is refused.
        await self._hot.note_bans([(action.user_id, ban)])
        self._at_step("ban noted")
        now_ms = time.time_ns() // 1_000_000
        if not ban.holds_at(now_ms):
            return "done", "it was over before it could be carried out", None
        retry_ms = None if ban.until_ms is None else ban.until_ms - now_ms
        was_there = await self._end(action.user_id, Farewell(CloseCode.BANNED, payload["message"], retry_ms), "banned")
        return "done", None, {"until": None if until is None else until.isoformat(), "was_there": was_there}

    async def _unban(self, action: Action) -> Outcomes:
        assert action.user_id is not None
        row = await self._cold.call(
            "lift_ban",
            lambda c: c.fetchrow(
                queries("bans")["lift_ban"], action.user_id, action.id, action.created_at, action.operator
            ),
        )
        if row is None:
            last = await self._bans.find(action.user_id)
            if last is not None and last.asked_at > action.created_at:
                return OVERTAKEN
            return "refused", "the player is not banned", None
        self._at_step("ban written")
        await self._hot.note_bans([(action.user_id, ban_row(row).ban)])
        until = row["until"]
        return "done", None, {"until": None if until is None else until.isoformat(), "message": row["message"]}

    # ── what is stored ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _edit_profile(self, action: Action) -> Outcomes | None:
        await patch_profile(self._cold, action)
        return None

    async def _force_flush(self, action: Action) -> Outcomes:
        """Until everything that is accepted now is in Postgres."""
        assert action.user_id is not None
        rows = await self._cold.call(
            "list_player_progress", lambda c: c.fetch(queries("erase")["list_player_progress"], action.user_id)
        )
        wanted: dict[ProgressKey, int] = {}
        for row in rows:
            key = ProgressKey(action.user_id, row["experience_id"])
            progress = await self._hot.find_progress(key)
            if progress is None or progress.base_version >= progress.version:
                continue
            if progress.quarantine:
                return "refused", f"{key.experience} is in quarantine: {progress.quarantine}"[:500], None
            wanted[key] = progress.version
            await self._hot.make_due(key)
        flushed = {key.experience: version for key, version in wanted.items()}
        pause_s, pause_max_s = POLL_S
        while wanted:
            for key, version in list(wanted.items()):
                progress = await self._hot.find_progress(key)
                if progress is None or progress.base_version >= version:
                    del wanted[key]
            if wanted:
                if _age_s(action) > FLUSH_GIVEN_UP_S:
                    return "refused", "no flusher has saved it in ten minutes: are flushers running?", None
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, pause_max_s)
        return "done", None, {"versions": flushed}

    async def _erase(self, action: Action) -> Outcomes | None:
        """The row says whom until it is done, so that it can be begun again, and no longer afterwards."""
        player = action.payload["details"]["target"].get("player")
        if player is None:
            return None  # it was done
        report = await erase_player(self._hot, self._database_url, player)
        self._at_step("erased")
        scrubbed = {"details": {"target": {"erased": True}, "payload": {}}}
        result = {"was_known": report.was_known, "progress": report.progress, "keys": report.keys}
        await self._cold.call(
            "forget_erased",
            lambda c: c.execute(
                queries("actions")["forget_erased"], action.id, json.dumps(scrubbed), json.dumps(result)
            ),
        )
        return None

    async def _replay_dead_letter(self, action: Action) -> Outcomes | None:
        await replay_letter(self._database_url, action.id, _payload(action)["id"])
        return None

    async def _drop_dead_letter(self, action: Action) -> Outcomes | None:
        await drop_letter(self._database_url, action.id, _payload(action)["id"])
        return None

    async def _release_quarantine(self, action: Action) -> Outcomes:
        if await self._hot.release_quarantine(action.key):
            return "done", None, None
        return "refused", "this progress is not in quarantine (any more)", None

    # ── gateways ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _maintenance(self, action: Action) -> Outcomes:
        payload = _payload(action)
        given = payload["at"]
        starts_at = action.created_at if given is None else datetime.fromisoformat(given)
        row = await self._cold.call(
            "put_maintenance",
            lambda c: c.fetchrow(
                queries("bans")["put_maintenance"],
                payload["on"],
                starts_at,
                payload["message"],
                action.id,
                action.created_at,
                action.operator,
            ),
        )
        if row is None:
            return OVERTAKEN
        self._at_step("maintenance written")
        holds = await find_maintenance(self._cold)
        if holds is not None:
            await self._hot.note_maintenance(holds)
        told = 0
        if payload["on"]:
            text = payload["message"] or "The game will be closed for a while for maintenance."
            body = push_body(
                "message", {"text": text, "maintenance_at": round(starts_at.astimezone(UTC).timestamp() * 1000)}
            )
            told = await self._push_to_all(action.id, body, None)
        return "done", None, {"players": told, "starts_at": starts_at.isoformat()}

    async def _drain(self, action: Action) -> Outcomes:
        node = action.payload["details"]["target"]["node"]
        is_on = _payload(action)["on"]
        if await self._journal.is_drain_overtaken(action, node):
            return OVERTAKEN
        if not await self._hot.ask_to_drain(node, is_on):
            return "refused", "no gateway of that name is there", None
        deadline = time.monotonic() + DRAIN_HEARD_S
        pause_s, pause_max_s = POLL_S
        while await self._hot.is_drained(node) is not is_on:
            if time.monotonic() > deadline:
                if _age_s(action) > DRAIN_GIVEN_UP_S:
                    return "refused", "the gateway does not answer", None
                raise Waits("the gateway has not answered yet")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, pause_max_s)
        return "done", None, None


def _payload(action: Action) -> dict[str, Any]:
    payload: dict[str, Any] = action.payload["details"]["payload"]
    return payload


def _age_s(action: Action) -> float:
    return (datetime.now(UTC) - action.created_at).total_seconds()


async def find_letter_owner(cold: ColdStore, letter_id: str) -> tuple[str, str] | None:
    """Whose dead letter it is: (user id, experience); None: there is no such letter."""
    row = await cold.call(
        "find_dead_letter", lambda c: c.fetchrow(queries("dead_letters")["find_dead_letter"], letter_id)
    )
    return None if row is None else (str(row["user_id"]), row["experience_id"])


__all__ = ["Executors", "StoreUnavailable", "Waits", "find_letter_owner"]
