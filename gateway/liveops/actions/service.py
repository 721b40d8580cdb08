"""
Operators' actions: checked, previewed, written down, carried out, taken back.

Promise: what is asked for is first a row in `liveops_actions`, exactly one for each request, whoever dies afterwards
and however often it is asked again with the same key; the row ends `done` or `refused`. A preview changes nothing. An
undo is the inverse of what really happened, and is refused with the reason when the state has moved on.

Not here: who somebody is (gateway.liveops.access), HTTP (routes/actions.py), which actions there are (catalogue.py).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.liveops.actions.catalogue import ACTIONS, ActionKind, Target, check_reason
from gateway.liveops.actions.executors import Executors, Waits, find_letter_owner
from gateway.liveops.actions.previews import Previews
from gateway.liveops.actions.shapes import action_item, payload_of, target_of
from gateway.liveops.actions.steps import CannotUndo, effects_of_payload, invert
from gateway.liveops.errors import ApiError, forbidden, invalid, not_found
from gateway.liveops.shapes import iso
from gateway.telemetry.logs import get_logger
from persistence.actions.bans import Bans, microseconds
from persistence.actions.issuer import Issued
from persistence.actions.journal import ActionJournal, Place
from persistence.actions.maintenance import find_maintenance, find_maintenance_end
from persistence.actions.shapes import Action, ActionRequest, InvalidAction
from persistence.cold.queries import queries
from persistence.cold.store import ColdStore
from persistence.errors import PersistenceError, ProgressMissing, StoreFull, StoreUnavailable, UndoneAlready
from persistence.hot.store import HotStore
from persistence.operators import Operator
from persistence.player_progress import ActionTicket, PlayerProgress, progress_key
from persistence.progress_key import ProgressKey

ANSWER_S = 5.0
"""How long an answer waits for the end of an action; then it says `requested`, and the action goes on."""

SWEEP_S = 2.0
SWEEP_AGE_S = 10.0
"""Younger ones are left to whoever is at them."""
SWEEP_FOR_S = 30.0
"""A sweep ends after this; the next one goes on where it stopped."""
SWEEP_PAGE, SWEEP_WIDTH = 50, 10
RUNNING_MAX = 500
"""What is begun again waits by itself for what holds it up and must not block others; so it costs some memory."""

MAINTENANCE_LOOK_S = 2.0
"""How often it is asked whether maintenance is over, however long a sweep takes."""
MAINTENANCE_END_S = 10.0
"""How long ending it may take; what is left then is done with the next look."""
KEY_CHARS_MAX = 200

_NAMESPACE = uuid.UUID("6d3f7c52-5a7c-5b0e-9d54-0a2f4a1f9a51")

log = get_logger("liveops")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request, checked. `key` is None for an action that is about nobody's progress."""

    id: str
    kind: ActionKind
    target: dict[str, Any]
    payload: dict[str, Any]
    reason: str
    user_id: str | None = None
    experience: str | None = None

    @property
    def key(self) -> ProgressKey:
        assert self.user_id is not None and self.experience is not None
        return ProgressKey(self.user_id, self.experience)

    @property
    def is_step(self) -> bool:
        """An action on the state of a progress: the row has a number in its stream."""
        return self.kind.target is Target.PROGRESS and self.kind.name != "release_quarantine"


class LiveOpsActions:
    """
    For one process. Run `run` as a task; `close` at the end. `at_step` hears of each step of each action; tests die
    there.
    """

    def __init__(
        self,
        hot: HotStore,
        cold: ColdStore,
        database_url: str,
        *,
        progress: PlayerProgress,
        at_step: Callable[[str], None] = lambda step: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hot = hot
        self._cold = cold
        self._progress = progress
        self._journal = ActionJournal(cold)
        self._bans = Bans(cold)
        self._at_step = at_step
        self._clock = clock
        self._swept: Place | None = None
        self._executors = Executors(hot, cold, database_url, at_step=at_step)
        self._previews = Previews(hot, cold, progress)
        self._running: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """What is under way is let go: it is begun again by whoever runs next."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        await self._executors.close()

    # ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def check(
        self,
        operator: Operator,
        action: str,
        target: Mapping[str, Any],
        payload: Mapping[str, Any],
        reason: str,
        idempotency_key: str | None = None,
    ) -> Wanted:
        """Raises ApiError for whoever may not, and for what can never be done."""
        kind = ACTIONS.get(action)
        if kind is None:
            raise invalid(f"action: there is no {action[:64]!r}", "GET /api/v1/actions lists them")
        # As the action will read it: whom a role may reach is judged by the same names.
        named = {name: value for name, value in target.items() if value is not None and value is not False}
        _check_role(operator, kind, is_wide="player" not in named)
        checked = kind.check(dict(payload))
        reason = check_reason(reason)
        action_id = _id_of(operator, idempotency_key)
        return await self._with_target(Wanted(action_id, kind, {}, checked, reason), named)

    async def preview(self, operator: Operator, wanted: Wanted) -> dict[str, Any]:
        """What would be there before and after, and whom it concerns. Changes nothing."""
        preview, warnings = await self._previews.make(wanted)
        return {"preview": preview, "warnings": warnings}

    async def submit(self, operator: Operator, wanted: Wanted) -> dict[str, Any]:
        """
        Write it down and carry it out; waits `ANSWER_S` for its end.

        Raises:
            ApiError, PersistenceError: nothing was written, or (StoreUnavailable) it may have been: ask again with the
            same key.
        """
        return await self._submit(operator, wanted)

    async def find(self, action_id: str) -> dict[str, Any]:
        action = await self._find(action_id)
        return action_item(action, await self._journal.find_undo(action.id))

    async def undo(
        self,
        operator: Operator,
        action_id: str,
        reason: str,
        idempotency_key: str | None = None,
        *,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """
        Take an action back. Takes the role that the action took.

        Raises:
            ApiError: it cannot be, with the reason.
        """
        action = await self._find(action_id)
        kind = ACTIONS.get(action.action)
        if kind is None or not kind.undo:
            raise _cannot_undo(f"{action.action} cannot be taken back")
        _check_role(operator, kind, is_wide=action.user_id is None)
        reason = check_reason(reason)
        key = idempotency_key if idempotency_key is not None else f"undo {action.id} {uuid.uuid4()}"
        undo_id = _id_of(operator, key)
        repeated = await self._journal.find(undo_id)
        if repeated is None:
            if action.state != "done":
                raise _cannot_undo(
                    "it had no effect" if action.state == "refused" else "it is not done yet: wait, then ask again"
                )
            if (other := await self._journal.find_undo(action.id)) is not None:
                if other.id == undo_id:
                    return await self._again(other)
                raise _cannot_undo(f"it was taken back already, by {other.operator}: action {other.id}")
        elif repeated.undo_of != action.id:
            raise _other_key()
        else:
            return await self._again(repeated)
        wanted, extra = await self._inverse(action, kind, undo_id, reason)
        if dry_run:
            return await self.preview(operator, wanted)
        return await self._submit(operator, wanted, undo_of=action.id, **extra)

    # ── carrying out ────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, stop: asyncio.Event) -> None:
        """Finish what whoever was at it has left halfway, and end maintenance in time. Never raises."""

        async def end_maintenance() -> None:
            await asyncio.wait_for(self.end_maintenance(), MAINTENANCE_END_S)

        # Side by side: players must not wait outside because hundreds of other actions are stuck.
        async with asyncio.TaskGroup() as both:
            both.create_task(_repeat("sweep", self.sweep, SWEEP_S, stop))
            both.create_task(_repeat("end_maintenance", end_maintenance, MAINTENANCE_LOOK_S, stop))

    async def end_maintenance(self) -> None:
        """
        End the maintenance whose time is over: an action in the name of whoever had said so. Of several ops processes
        one does it; while none runs it goes on.
        """
        end = await find_maintenance_end(self._cold)
        if end is None or not end.is_over:
            return
        request = ActionRequest(
            id=str(uuid.uuid5(_NAMESPACE, f"the end of {end.action_id}")),
            operator=end.operator,
            role=end.role,
            action="maintenance",
            reason=f"it was asked for until {iso(end.until)}",
            details={"target": {}, "payload": {"on": False, "at": None, "message": ""}},
            undo_of=end.action_id,
        )
        with suppress(UndoneAlready):
            await self._again(await self._journal.insert(request))

    async def sweep(self, older_than_s: float = SWEEP_AGE_S) -> int:
        """
        Begin again what is `requested` and nobody's step, several at once; returns how many ended. One that waits for
        something goes on waiting beside those that come after it.

        Ends after `SWEEP_FOR_S` (and the read that is under way). Those that were not reached are the first of the next
        sweep, so that slow ones cannot keep it from them; after the youngest it begins with the oldest again.
        """
        ended, until = 0, self._clock() + SWEEP_FOR_S
        while True:
            actions, following = await self._journal.list_unexecuted(older_than_s, SWEEP_PAGE, self._swept)
            left = [a for a in actions if a.id not in self._running and self._executors.knows(a.action)]
            for first in range(0, len(left), SWEEP_WIDTH):
                left_s = until - self._clock()
                if left_s <= 0 or len(self._running) + SWEEP_WIDTH > RUNNING_MAX:
                    return ended
                begun = left[first : first + SWEEP_WIDTH]
                tasks = {self._start(action) for action in begun}
                self._swept = (begun[-1].created_at, begun[-1].id)
                done, _ = await asyncio.wait(tasks, timeout=min(ANSWER_S, left_s))
                ended += sum(not task.cancelled() and task.exception() is None for task in done)
            self._swept = following
            if following is None or self._clock() >= until:
                return ended

    async def _submit(
        self,
        operator: Operator,
        wanted: Wanted,
        *,
        undo_of: str | None = None,
        expects: Mapping[str, str | None] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        kept = {"target": wanted.target, "payload": wanted.payload, **(details or {})}
        known = await self._journal.find(wanted.id)
        if known is not None:
            _check_same(known, wanted, undo_of)
        elif wanted.kind.name in ("kick", "end_session"):
            assert wanted.user_id is not None
            session = await self._hot.find_session(wanted.user_id)
            kept["session"] = None if session is None else session.id
        try:
            if wanted.is_step:
                return await self._submit_step(operator, wanted, known, kept, undo_of, expects or {})
            if known is None:
                # An erase takes along every row that names its player; its own names nobody.
                names_player = wanted.kind.name != "erase"
                known = await self._journal.insert(
                    ActionRequest(
                        id=wanted.id,
                        operator=operator.name,
                        role=operator.role.label,
                        action=wanted.kind.name,
                        reason=wanted.reason,
                        details=kept,
                        undo_of=undo_of,
                    ),
                    user_id=wanted.user_id if names_player else None,
                    experience=wanted.experience if names_player else None,
                )
                _check_same(known, wanted, undo_of)
                self._at_step("row written")
        except InvalidAction as refused:
            raise invalid(str(refused)) from None
        except UndoneAlready as done:
            raise _cannot_undo(str(done)) from None
        return await self._again(known)

    async def _again(self, action: Action) -> dict[str, Any]:
        """Carry out what is written down and is not done yet, and say how it is."""
        if action.state == "requested" and action.ops_seq is None:
            await asyncio.wait({self._start(action)}, timeout=ANSWER_S)
        elif action.state == "requested":
            with suppress(StoreUnavailable, StoreFull):
                report = await self._progress.issuer.issue(action, durable=True)
                self._at_step("issued")
                if report.issued is Issued.GONE:
                    raise not_found("the player was erased meanwhile")
            with suppress(TimeoutError, ProgressMissing):
                await self._progress.wait_saved(ActionTicket(action.id, action.key, "requested"), ANSWER_S)
        return await self._answer(action.id)

    async def _submit_step(
        self,
        operator: Operator,
        wanted: Wanted,
        known: Action | None,
        details: Mapping[str, Any],
        undo_of: str | None,
        expects: Mapping[str, str | None],
    ) -> dict[str, Any]:
        if known is None:
            request = ActionRequest(
                id=wanted.id,
                operator=operator.name,
                role=operator.role.label,
                action=wanted.kind.name,
                reason=wanted.reason,
                effects=effects_of_payload(wanted.kind.name, wanted.payload),
                details=details,
                expects=expects,
                undo_of=undo_of,
            )
            try:
                known = await self._journal.request(wanted.key, request)
            except ProgressMissing as missing:
                raise not_found(str(missing), "look at the player's page for the experiences they were in") from None
            self._at_step("row written")
        return await self._again(known)

    async def _answer(self, action_id: str) -> dict[str, Any]:
        action = await self._journal.find(action_id)
        if action is None:
            raise not_found("the player was erased meanwhile, and what was done to them with it")
        return action_item(action, None)

    def _start(self, action: Action) -> asyncio.Task[None]:
        task = self._running.get(action.id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._execute(action), name=f"action {action.action}")
            self._running[action.id] = task
            task.add_done_callback(lambda _: self._running.pop(action.id, None))
        return task

    async def _execute(self, action: Action) -> None:
        """What it raises is in the log; the row stays `requested` and is begun again."""
        try:
            await self._executors.execute(action)
        except (PersistenceError, Waits, TimeoutError) as error:
            log.info("action_waits", action=action.action, id=action.id, error=str(error))
        except Exception:
            log.error("action_failed", action=action.action, id=action.id, exc_info=True)

    # ── taking back ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _inverse(
        self, action: Action, kind: ActionKind, undo_id: str, reason: str
    ) -> tuple[Wanted, dict[str, Any]]:
        """The action that takes `action` back, and what else it is written down with."""
        payload, target = payload_of(action), target_of(action)

        def other(name: str, payload: dict[str, Any]) -> Wanted:
            return Wanted(undo_id, ACTIONS[name], target, payload, reason, action.user_id, action.experience)

        match action.action:
            case "ban":
                last = await self._bans.find(str(action.user_id))
                if last is None or last.action_id != action.id:
                    raise _cannot_undo("the ban was changed since", "look at the player's bans")
                return other("unban", {}), {}
            case "unban":
                last = await self._bans.find(str(action.user_id))
                if last is None or last.action_id != action.id:
                    raise _cannot_undo("the ban was changed since", "look at the player's bans")
                left_s = None if last.until is None else (last.until - datetime.now(UTC)).total_seconds()
                if left_s is not None and left_s < 1:
                    raise _cannot_undo("the ban would be over by now")
                return other("ban", {"for_s": left_s, "message": last.message}), {}
            case "maintenance":
                if not payload["on"]:
                    raise _cannot_undo("the end of maintenance is no state to go back from", "begin it again")
                held = await find_maintenance(self._cold)
                if held is None or held.asked_us != microseconds(action.created_at):
                    raise _cannot_undo("maintenance was changed since", "look at what holds now, and end that")
                return other("maintenance", {"on": False, "at": None, "message": ""}), {}
            case "drain":
                if await self._journal.is_drain_overtaken(action, target["node"]):
                    raise _cannot_undo("that gateway was told something else since", "look at the audit log")
                return other("drain", {"on": not payload["on"]}), {}
            case "edit_profile":
                before = (action.before or {}).get("stats", {})
                return other("edit_profile", {"stats": before}), {"details": {"expects_stats": payload["stats"]}}
            case _:
                effects, expects = self._inverse_step(action)
                return other("edit_state", {"effects": effects}), {"expects": expects}

    def _inverse_step(self, action: Action) -> tuple[list[dict[str, Any]], dict[str, str | None]]:
        found = action.before
        if found is None or found.get("version") != (action.result or {}).get("version"):
            raise _cannot_undo("what was there before is not known: something died in that very moment")
        try:
            inverse = invert(action.payload.get("effects", []), found["fields"])
        except CannotUndo as reason:
            raise _cannot_undo(str(reason)) from None
        return inverse.effects, inverse.expects

    # ── whom ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _with_target(self, wanted: Wanted, target: dict[str, Any]) -> Wanted:
        """Raises ApiError for a target that this action does not take."""
        kind = wanted.kind
        for name in target:
            if name not in ("player", "experience", "node", "all"):
                raise invalid(f"target: {name[:64]!r} is not known", f"this action takes {kind.target.value}")
        player, experience = target.get("player"), target.get("experience")
        user_id = None if player is None else _user_id(player)
        match kind.target:
            case Target.PROGRESS if wanted.payload.get("progress") is not None:
                user_id, experience = await self._progress_of(wanted.payload["progress"])
                target = {"player": user_id, "experience": experience}
            case Target.PROGRESS:
                _takes(target, kind, "player", "experience")
                if user_id is None:
                    raise invalid("target.player: is missing", f"this action takes {kind.target.value}")
                experience = await self._experience_of(user_id, experience)
                target = {"player": user_id, "experience": experience}
            case Target.PLAYER:
                _takes(target, kind, "player")
                if user_id is None:
                    raise invalid("target.player: is missing", "the player's UUID")
                await self._check_known(user_id, kind)
                target = {"player": user_id}
            case Target.AUDIENCE:
                _takes(target, kind, "player", "experience", "all")
                if len(target) != 1:
                    raise invalid("target: must be one of player, experience and all", "say whom it is for")
                if user_id is not None:
                    await self._check_known(user_id, kind)
                    target = {"player": user_id}
                elif experience is not None:
                    experience = _experience(experience)
            case Target.NODE:
                _takes(target, kind, "node")
                if not isinstance(target.get("node"), str) or not 1 <= len(target["node"]) <= 200:
                    raise invalid("target.node: must be the name of a gateway", "GET /api/v1/nodes lists them")
            case Target.NOBODY:
                _takes(target, kind)
                if kind.name.endswith("_dead_letter"):
                    owner = await find_letter_owner(self._cold, wanted.payload["id"])
                    if owner is not None:
                        user_id, experience = owner
        return Wanted(wanted.id, kind, target, wanted.payload, wanted.reason, user_id, experience)

    async def _experience_of(self, user_id: str, given: object) -> str:
        if given is not None:
            return _experience(given)
        session = await self._hot.find_session(user_id)
        if session is not None:
            return session.experience
        rows = await self._cold.call(
            "list_player_progress", lambda c: c.fetch(queries("erase")["list_player_progress"], user_id)
        )
        if len(rows) == 1:
            return str(rows[0]["experience_id"])
        if not rows:
            raise not_found(f"player {user_id} has no progress anywhere")
        names = ", ".join(sorted(row["experience_id"] for row in rows)[:10])
        raise invalid("target.experience: the player has been in several", f"name one of {names}")

    async def _progress_of(self, row_id: str) -> tuple[str, str]:
        row = await self._cold.call(
            "find_progress_owner", lambda c: c.fetchrow(queries("profiles")["find_progress_owner"], row_id)
        )
        if row is None:
            raise not_found(f"there is no progress {row_id}")
        return str(row["user_id"]), row["experience_id"]

    async def _check_known(self, user_id: str, kind: ActionKind) -> None:
        if kind.name == "erase":
            return  # also of somebody of whom nothing is known: a phone may come back
        known = await self._cold.call("find_user", lambda c: c.fetchval(queries("profiles")["find_user"], user_id))
        if known is None:
            raise not_found(
                f"there is no player {user_id}", "look at the spelling; players are known from their first hello"
            )

    async def _find(self, action_id: str) -> Action:
        action = await self._journal.find(action_id)
        if action is None:
            raise not_found(
                f"there is no action {action_id}",
                "GET /api/v1/audit lists them; an erase takes those of its player along",
            )
        return action


async def _repeat(what: str, once: Callable[[], Awaitable[object]], pause_s: float, stop: asyncio.Event) -> None:
    """Do it again and again, with a pause before each time, until asked to stop. What it raises is in the log."""
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s * random.uniform(0.7, 1.3))
            return
        try:
            await once()
        except (PersistenceError, TimeoutError) as error:
            log.debug(f"{what}_failed", error=str(error))
        except Exception:
            log.error(f"{what}_failed", exc_info=True)


def _check_role(operator: Operator, kind: ActionKind, *, is_wide: bool) -> None:
    wanted = kind.wide_role if is_wide and kind.wide_role is not None else kind.role
    if operator.role < wanted:
        raise forbidden(f"{kind.name} takes the role {wanted.label}, and {operator.name} is {operator.role.label}")


def _id_of(operator: Operator, idempotency_key: str | None) -> str:
    if idempotency_key is None:
        return str(uuid.uuid4())
    if not 1 <= len(idempotency_key) <= KEY_CHARS_MAX:
        raise invalid(f"Idempotency-Key: must be 1 to {KEY_CHARS_MAX} characters")
    return str(uuid.uuid5(_NAMESPACE, f"{operator.name}\n{idempotency_key}"))


def _check_same(known: Action, wanted: Wanted, undo_of: str | None) -> None:
    """A repeated request is the same one; another one with its key is a mistake."""
    if known.undo_of != undo_of:
        raise _other_key()
    is_scrubbed = "erased" in target_of(known)
    same = known.action == wanted.kind.name and (
        is_scrubbed or _text([target_of(known), payload_of(known)]) == _text([wanted.target, wanted.payload])
    )
    # What an undo does is computed anew each time: of which action it is says enough.
    if not same and undo_of is None:
        raise _other_key()


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _other_key() -> ApiError:
    return ApiError(
        409, "KEY_REUSED", "that Idempotency-Key was used for another action", "take a new one for each action"
    )


def _cannot_undo(message: str, next: str = "do what is wanted now as an action of its own") -> ApiError:
    return ApiError(409, "CANNOT_UNDO", message, next)


def _takes(target: Mapping[str, Any], kind: ActionKind, *names: str) -> None:
    for name in target:
        if name not in names:
            raise invalid(f"target.{name}: {kind.name} does not take it", f"it takes {kind.target.value}")


def _user_id(text: object) -> str:
    try:
        return str(uuid.UUID(str(text)))
    except ValueError:
        raise invalid("target.player: must be a UUID", "the `sub` of the player's tokens") from None


def _experience(name: object) -> str:
    try:
        return progress_key(str(uuid.UUID(int=0)), str(name)).experience
    except ValueError as error:
        raise invalid(f"target.{error}") from None
