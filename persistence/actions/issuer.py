"""
Applies actions from the journal to the hot copies, strictly in the order of their numbers.

Promise: an action takes effect exactly once, however often, by whomever and on how many nodes at once it is issued: its
number in the stream `ops` tells a repeat, the log match of the flush tells what a Redis that forgot had never saved,
and the journal keeps it `requested` until a flush has committed it. Whatever is raised on the way, it is issued again
later.

Not here: who looks for what is waiting (gateway.sessions.action_sweeper).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from persistence.actions.journal import ActionJournal
from persistence.actions.shapes import Action, push_body, state_push
from persistence.cold.shapes import ColdProgress
from persistence.errors import StoreUnavailable
from persistence.hot.shapes import ActionOutcome, ActionVerdict, HotAction
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey
from protocol.entry import OPERATOR_EDIT, EntryIds, encode_update_body
from protocol.errors import VoidUpdate
from protocol.limits import OPS_DEVICE
from protocol.values import canonical_json

ATTEMPTS_MAX = 6
"""How often an action is tried again after something changed under it: each time somebody else made progress."""

PAGE = 100
"""Actions of one progress that are issued again in one go."""

EVENT_AGE_MAX_MS = 90 * 86_400_000
EVENT_AHEAD_MAX_MS = 5 * 60_000
"""What an action's event may claim about when it happened: as much as a player's."""


class Hydrate(Protocol):
    """What makes a progress hot that has a row. None: it has none."""

    async def hydrate(self, key: ProgressKey, device: str) -> ColdProgress | None: ...

    async def install_device(self, key: ProgressKey, device: str) -> None: ...


class Issued(Enum):
    """How far an action got. WAITS: it stays `requested` and is issued again; the others are final but for a crash."""

    ACCEPTED = auto()
    VOID = auto()  # it uses up its number and has no effect; `refused` once it is saved
    WAITS = auto()
    GONE = auto()  # the player was erased


@dataclass(slots=True)
class IssueReport:
    """`version` is the progress's newest entry when it was issued; `void` says why it has no effect."""

    issued: Issued
    version: int = 0
    void: tuple[int, str] | None = None
    push: int = 0
    """Number of the message that the player got; 0: the player was not there, or it was issued before."""


class ActionIssuer:
    """Safe for many tasks, and for many processes at once."""

    def __init__(
        self,
        hot: HotStore,
        journal: ActionJournal,
        hydrate: Hydrate,
        *,
        entry_ids: EntryIds | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._hot = hot
        self._journal = journal
        self._hydrate = hydrate
        self._entry_ids = entry_ids or EntryIds()
        self._now_ms = now_ms

    async def issue(self, action: Action, *, durable: bool = False) -> IssueReport:
        """
        Apply one action, and before it whatever was asked for earlier and is not applied here. `durable`: flush it at
        once.

        Raises:
            StoreUnavailable, StoreFull: it stays `requested`.
        """
        assert action.row_id is not None and action.ops_seq is not None
        verdict = await self._apply(action, durable)
        if verdict.outcome is ActionOutcome.EARLIER_MISSING:
            await self.issue_requested(action.key, action.row_id)
            verdict = await self._apply(action, durable)
        if durable and verdict.outcome is ActionOutcome.REPEATED:
            await self._hot.make_due(action.key)
        return _report(verdict)

    async def issue_requested(self, key: ProgressKey, row_id: str) -> int:
        """
        Issue again what waits on a progress, in order, at most `PAGE`. Returns how many were applied by this call.

        Raises:
            StoreUnavailable, StoreFull: the rest stays `requested`.
        """
        applied = 0
        for action in await self._journal.list_requested(row_id, PAGE):
            verdict = await self._apply(action, False)
            if verdict.outcome is ActionOutcome.EARLIER_MISSING:
                # Everything below is saved, so this copy has forgotten it. A read of Postgres that begins now proves
                # it.
                await self._hydrate.hydrate(key, OPS_DEVICE)
                verdict = await self._apply(action, False)
            applied += verdict.outcome is ActionOutcome.APPLIED
            if verdict.outcome not in (ActionOutcome.APPLIED, ActionOutcome.REPEATED):
                break
        return applied

    async def _apply(self, action: Action, durable: bool) -> ActionVerdict:
        """One action, with the copy and the stream made hot when they are not."""
        hot_action = self._make(action, durable)
        verdict = ActionVerdict(ActionOutcome.MISSING)
        for _ in range(ATTEMPTS_MAX):
            verdict = await self._hot.apply_action(hot_action)
            if verdict.outcome in (ActionOutcome.MISSING, ActionOutcome.OTHER_ROW):
                cold = await self._hydrate.hydrate(action.key, OPS_DEVICE)
                if cold is None or cold.row_id != action.row_id:
                    return ActionVerdict(ActionOutcome.OTHER_ROW)
            elif verdict.outcome is ActionOutcome.NO_DEVICE:
                await self._hydrate.install_device(action.key, OPS_DEVICE)
            else:
                if verdict.before is not None:
                    await self._note_before(action, verdict)
                return verdict
        raise StoreUnavailable("redis", "apply_action", "the copy goes away again and again")

    async def _note_before(self, action: Action, verdict: ActionVerdict) -> None:
        """Without it the action cannot be undone, and counts all the same."""
        assert verdict.before is not None
        with suppress(StoreUnavailable):
            await self._journal.note_before(action.id, verdict.version, verdict.before)

    def _make(self, action: Action, durable: bool) -> HotAction:
        """
        The action as an entry of its own: a new id each time, because an entry id tells histories apart. It says which
        action it is in the place of a session.
        """
        assert action.row_id is not None and action.ops_seq is not None
        now_ms = self._now_ms()
        asked_ms = round(action.created_at.timestamp() * 1000)
        event_type, content_id, lat, lng = OPERATOR_EDIT, None, None, None
        data_json, effects_json, push = canonical_json({"action": action.action}), b"", b""
        ops: list[tuple[object, ...]] = []
        void: tuple[int, str] | None = None
        try:
            compiled = action.compile()
        except VoidUpdate as refused:
            void = (int(refused.code), refused.message)
        else:
            ops, effects_json = list(compiled.ops), compiled.effects_json
            if (event := compiled.event) is not None:
                event_type, content_id, data_json = event.type, event.content_id, event.data_json
                lat, lng = event.lat, event.lng
                if event.at_ms is not None:
                    asked_ms = event.at_ms
            push = push_body("state", state_push(compiled, action))
        happened_ms = max(now_ms - EVENT_AGE_MAX_MS, min(asked_ms, now_ms + EVENT_AHEAD_MAX_MS))
        body = encode_update_body(
            OPS_DEVICE,
            action.ops_seq,
            happened_ms,
            now_ms,
            action.id,
            event_type,
            content_id,
            data_json,
            effects_json,
            lat,
            lng,
        )
        return HotAction(
            action.key,
            action.row_id,
            action.ops_seq,
            self._entry_ids.next(now_ms),
            body,
            ops,
            push,
            void,
            durable,
            expects=action.payload.get("expects", {}),
        )


def _report(verdict: ActionVerdict) -> IssueReport:
    match verdict.outcome:
        case ActionOutcome.APPLIED | ActionOutcome.REPEATED:
            issued = Issued.VOID if verdict.void is not None else Issued.ACCEPTED
        case ActionOutcome.OTHER_ROW | ActionOutcome.FENCED:
            issued = Issued.GONE
        case _:
            issued = Issued.WAITS
    return IssueReport(issued, verdict.version, verdict.void, verdict.push)
