"""
The progress of players, for services: read it, change it, whether or not the player is there.

    async with await PlayerProgress.open(redis_url, database_url, caller="quest-service") as progress:
        state = await progress.get_player_state(user_id, "wylding-woods")
        ticket = await progress.add_to_inventory(user_id, "wylding-woods", "brass_key")
        await progress.wait_saved(ticket)

Promise: reads of the state show what is accepted: Redis first, Postgres when nothing of it is hot, and then it is
warm for the next one; no session is opened. Profile and history show what is saved. A change is an action in the
caller's name: written down first, applied in order with what the player does, pushed to the player, saved exactly once.

A service may see every player; what a player may see is the gateway's business (gateway.sessions.queries).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from persistence.actions.issuer import ActionIssuer, Hydrate, Issued
from persistence.actions.journal import ActionJournal
from persistence.actions.shapes import Action, ActionRequest
from persistence.cold.store import ColdStore
from persistence.errors import ProgressMissing, StoreFull, StoreUnavailable
from persistence.hot.store import HotStore
from persistence.leaderboards import Leaderboards
from persistence.player_progress.reading import ProgressReader
from persistence.player_progress.shapes import ActionTicket, progress_key
from protocol.experience import ExperienceDefinition, round_location
from protocol.limits import LAT_MAX, LNG_MAX

SAVED_POLL_S = (0.05, 0.5)
"""How often a row is looked at by `wait_saved`: first, and at most."""


class PlayerProgress(ProgressReader):
    """
    One caller's access. Safe for many tasks of one event loop.

    `hydrate` makes progress hot (a gateway gives its own); `on_read` hears of every read of a state if it was hot;
    `definitions` say how precise the location of a logged event may be.
    Methods raise ValueError for arguments that fit nothing, ProgressMissing when this player has never been in this
    experience, StoreUnavailable when a store does not answer.
    """

    def __init__(
        self,
        hot: HotStore,
        cold: ColdStore,
        *,
        caller: str,
        role: str = "service",
        hydrate: Hydrate | None = None,
        boards: Leaderboards | None = None,
        on_read: Callable[[bool], None] | None = None,
        definitions: Mapping[str, ExperienceDefinition] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(hot, cold, hydrate=hydrate, boards=boards, on_read=on_read, clock=clock)
        self._caller = caller
        self._role = role
        self.journal = ActionJournal(cold)
        self.issuer = ActionIssuer(hot, self.journal, self._hydrate)
        self._definitions = definitions or {}
        self._owns_stores = False

    @classmethod
    async def open(
        cls,
        redis_url: str,
        database_url: str,
        *,
        caller: str,
        role: str = "service",
        partitions: int = 64,
        flush_interval_s: float = 5.0,
        session_expiry_s: float = 3600.0,
        progress_idle_s: float = 3600.0,
        definitions: Mapping[str, ExperienceDefinition] | None = None,
    ) -> Self:
        """For a process of its own; the four with a default as the gateways have them (settings of the same names)."""
        hot = await HotStore.open(
            redis_url,
            partitions=partitions,
            flush_interval_s=flush_interval_s,
            session_expiry_s=session_expiry_s,
            progress_idle_s=progress_idle_s,
        )
        cold = await ColdStore.open(database_url, pool_max=6)
        opened = cls(hot, cold, caller=caller, role=role, definitions=definitions)
        opened._owns_stores = True
        return opened

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        await super().close()
        if self._owns_stores:
            await self._hot.close()
            await self._cold.close()

    # --- changing --------------------------------------------------------------------------------------------------

    async def add_to_inventory(self, user_id: str, experience: str, item: str, **how: Any) -> ActionTicket:
        """Let the player carry `item`. `how` as in `edit_state`, in all changes."""
        effects = [{"op": "add", "path": "inventory", "value": item}]
        return await self.edit_state(user_id, experience, effects, action="add_to_inventory", **how)

    async def remove_from_inventory(self, user_id: str, experience: str, item: str, **how: Any) -> ActionTicket:
        """Take `item` from the player; nothing happens to one who does not carry it."""
        effects = [{"op": "remove", "path": "inventory", "value": item}]
        return await self.edit_state(user_id, experience, effects, action="remove_from_inventory", **how)

    async def update_location(self, user_id: str, experience: str, location: str, **how: Any) -> ActionTicket:
        """The player is at `location` now: the same as the event `location_reached`."""
        event = {"type": "location_reached", "content_id": location}
        return await self.act(user_id, experience, "update_location", event=event, **how)

    async def log_event(
        self,
        user_id: str,
        experience: str,
        event_type: str,
        content_id: str | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        at_ms: int | None = None,
        lat: float | None = None,
        lng: float | None = None,
        effects: Sequence[Mapping[str, Any]] | None = None,
        **how: Any,
    ) -> ActionTicket:
        """
        Something happened to the player. Known event types have their effects; to the analytics it is an event like the
        player's own.
        """
        event: dict[str, Any] = {"type": event_type, "content_id": content_id, "at": at_ms, "lat": lat, "lng": lng}
        event["data"] = None if data is None else dict(data)
        return await self.act(user_id, experience, "log_event", event=event, effects=effects, **how)

    async def edit_state(
        self,
        user_id: str,
        experience: str,
        effects: Sequence[Mapping[str, Any]],
        *,
        action: str = "edit_state",
        **how: Any,
    ) -> ActionTicket:
        """
        Change the state by effects, as an update of the protocol does.

        `how`: `reason` (text for the audit log), `action_id` (a UUID: asked again with the same one, it is done once),
        `durable` (save it at once), `operator`, `role` (who, if not the caller), `details` (a map for the audit log).

        Raises:
            InvalidAction: it can never be done; nothing was written.
            ActionsWaiting: too much on this progress waits to be saved.
            StoreUnavailable: Postgres did not answer; it may have been written. Ask again with the same `action_id`.
        """
        return await self.act(user_id, experience, action, effects=effects, **how)

    async def act(
        self,
        user_id: str,
        experience: str,
        action: str,
        *,
        event: Mapping[str, Any] | None = None,
        effects: Sequence[Mapping[str, Any]] | None = None,
        reason: str = "",
        action_id: str | None = None,
        durable: bool = False,
        operator: str | None = None,
        role: str | None = None,
        details: Mapping[str, Any] | None = None,
        expects: Mapping[str, str | None] | None = None,
        undo_of: str | None = None,
    ) -> ActionTicket:
        """
        Any action on a progress: an event, effects, or both, as one step. See `edit_state`; `expects` and `undo_of` as
        in ActionRequest.
        """
        key = progress_key(user_id, experience)
        request = ActionRequest(
            id=action_id or str(uuid.uuid4()),
            operator=operator or self._caller,
            role=role or self._role,
            action=action,
            reason=reason,
            event=self._keep(experience, event),
            effects=effects,
            details=details or {},
            expects=expects or {},
            undo_of=undo_of,
        )
        requested = await self.journal.request(key, request)
        if requested.state == "done":
            version = int((requested.result or {}).get("version", 0))
            return ActionTicket(requested.id, key, "accepted", version)
        if requested.state == "refused":
            return ActionTicket(requested.id, key, "void", message=requested.message or "")
        try:
            report = await self.issuer.issue(requested, durable=durable)
        except (StoreUnavailable, StoreFull):
            return ActionTicket(requested.id, key, "requested")
        match report.issued:
            case Issued.ACCEPTED:
                return ActionTicket(requested.id, key, "accepted", report.version)
            case Issued.VOID:
                code, message = report.void or (0, "")
                return ActionTicket(requested.id, key, "void", report.version, code, message)
            case Issued.GONE:
                raise ProgressMissing(key)
            case _:
                return ActionTicket(requested.id, key, "requested")

    def _keep(self, experience: str, event: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """An event with what may be kept of its location: neither its action's row nor anything else holds more."""
        definition = self._definitions.get(experience)
        if event is None or definition is None or not definition.privacy.changes_locations:
            return event
        lat, lng = event.get("lat"), event.get("lng")
        for degrees, degrees_max in ((lat, LAT_MAX), (lng, LNG_MAX)):
            # Written so that NaN fails it. What is no location is refused for that, further on.
            if degrees is not None and not (type(degrees) in (int, float) and -degrees_max <= degrees <= degrees_max):
                return event
        lat, lng = round_location(definition.privacy, lat, lng)
        return {**event, "lat": lat, "lng": lng}

    async def wait_saved(self, ticket: ActionTicket, timeout_s: float = 10.0) -> Action:
        """
        Until Postgres has it: the action as it ended, `done` or `refused`. It is flushed at once for that.

        Raises:
            TimeoutError: not yet; it goes on without the caller.
            ProgressMissing: the player was erased in the meantime.
        """
        pause_s, pause_max_s = SAVED_POLL_S
        async with asyncio.timeout(timeout_s):
            try:
                await self._hot.make_due(ticket.key)
            except (StoreUnavailable, StoreFull):
                pass  # the flusher comes by all the same
            while True:
                try:
                    action = await self.journal.find(ticket.id)
                except StoreUnavailable:
                    action = None
                else:
                    if action is None:
                        raise ProgressMissing(ticket.key)
                    if action.state != "requested":
                        return action
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, pause_max_s)
