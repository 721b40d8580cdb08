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
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

from persistence.actions.issuer import ActionIssuer, Hydrate, Issued
from persistence.actions.journal import ActionJournal
from persistence.actions.shapes import Action, ActionRequest
from persistence.cold.shapes import HistoryFilter, HistoryPlace
from persistence.cold.store import ColdStore
from persistence.errors import ProgressMissing, StoreFull, StoreUnavailable
from persistence.hot.store import HotStore
from persistence.progress_key import ProgressKey
from persistence.warmer import Warmer
from protocol.experience import ExperienceDefinition, round_location
from protocol.limits import EXPERIENCE_CHARS_MAX, LAT_MAX, LNG_MAX, OPS_DEVICE, QUERY_LIMIT_MAX
from protocol.state import document, split_state

WARM_SHARE_MAX = 0.6
"""
Part of Redis' memory past which a read warms nothing: room is for those who play. Below the share at which new sessions
are refused.
"""

MEMORY_LOOK_S = 5.0
SAVED_POLL_S = (0.05, 0.5)
"""How often a row is looked at by `wait_saved`: first, and at most."""

_EXPERIENCE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{EXPERIENCE_CHARS_MAX - 1}}}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlayerState:
    """The state as a player sees it, and the number of the newest entry that is in it."""

    state: dict[str, Any]
    version: int


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Events, newest first; `cursor` is for the next page, None at the end."""

    events: list[dict[str, Any]]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class ActionTicket:
    """
    What was asked for, and how far it is: `accepted` (it has had its effect), `void` (it has none and never will;
    `code` and `message` say why), or `requested`: a store was away; it is written down and happens later, without the
    caller.
    """

    id: str
    key: ProgressKey
    state: Literal["accepted", "void", "requested"]
    version: int = 0
    code: int = 0
    message: str = ""


class PlayerProgress:
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
        on_read: Callable[[bool], None] | None = None,
        definitions: Mapping[str, ExperienceDefinition] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hot = hot
        self._cold = cold
        self._caller = caller
        self._role = role
        self._warmer = Warmer(hot, cold) if hydrate is None else None
        self._hydrate: Hydrate = hydrate if hydrate is not None else self._warmer  # type: ignore[assignment]
        self.journal = ActionJournal(cold)
        self.issuer = ActionIssuer(hot, self.journal, self._hydrate)
        self._on_read = on_read
        self._definitions = definitions or {}
        self._clock = clock
        self._memory_due = float("-inf")
        self._has_room = True
        self._owns_stores = False
        self.reads = 0
        self.hot_reads = 0
        """Reads of a state, and those that found it in Redis: their ratio is the hit rate."""

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
        if self._warmer is not None:
            await self._warmer.close()
        if self._owns_stores:
            await self._hot.close()
            await self._cold.close()

    # --- reading what is accepted ----------------------------------------------------------------------------------

    async def get_player_state(self, user_id: str, experience: str, *, warm: bool = True) -> PlayerState:
        """The whole state. Whoever reads many players that are not there says `warm=False`."""
        key = progress_key(user_id, experience)

        async def ask() -> PlayerState | None:
            found = await self._hot.read_progress(key)
            return None if found is None else PlayerState(document(found.fields), found.version)

        return await self._read(
            key, ask, lambda fields, version: PlayerState(document(fields), version), "get_player_state", warm
        )

    async def get_inventory(self, user_id: str, experience: str, *, warm: bool = True) -> list[str]:
        """What the player carries, sorted."""
        return await self._get_members(user_id, experience, "inventory", warm)

    async def list_visited_waypoints(self, user_id: str, experience: str, *, warm: bool = True) -> list[str]:
        """Where the player has been, sorted."""
        return await self._get_members(user_id, experience, "visited_waypoints", warm)

    async def has_visited_waypoint(self, user_id: str, experience: str, waypoint: str, *, warm: bool = True) -> bool:
        key = progress_key(user_id, experience)
        field = f"m:visited_waypoints.{waypoint}"
        return await self._read(
            key,
            lambda: self._hot.has_member(key, "visited_waypoints", waypoint),
            lambda fields, _: field in fields,
            "has_visited_waypoint",
            warm,
        )

    # --- reading what is saved -------------------------------------------------------------------------------------

    async def find_profile(self, user_id: str) -> dict[str, Any] | None:
        """The player across experiences; None for somebody who has never said hello. Times are ms since 1970."""
        return await self._cold.find_profile(canonical_user_id(user_id))

    async def list_history(
        self,
        user_id: str,
        experience: str | None = None,
        *,
        limit: int = 20,
        cursor: str | None = None,
        event_type: str | None = None,
        content_id: str | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
    ) -> HistoryPage:
        """
        A page of at most `limit` (1 to 100) events. Within an experience in the order in which they were accepted,
        over all experiences by when they happened; `since_ms` ≤ when it happened < `until_ms`.
        """
        if not 1 <= limit <= QUERY_LIMIT_MAX:
            raise ValueError(f"limit: must be from 1 to {QUERY_LIMIT_MAX}")
        if since_ms is not None and until_ms is not None and since_ms >= until_ms:
            raise ValueError("from: must be before to")
        only = HistoryFilter(event_type, content_id, since_ms, until_ms)
        if experience is not None:
            key = progress_key(user_id, experience)
            at = None if cursor is None else _version_of(cursor)
            events, following = await self._cold.list_history(key, limit, at, only)
            return HistoryPage(events, None if following is None else str(following))
        place = None if cursor is None else _place_of(cursor)
        events, last = await self._cold.list_player_history(canonical_user_id(user_id), limit, place, only)
        return HistoryPage(events, None if last is None else f"{last.timestamp_ms}.{last.row_id}.{last.version}")

    async def count_active_players(self, experience: str | None = None) -> int:
        """Players that were heard in the last 30 minutes, in one experience or all."""
        if experience is None:
            return await self._hot.count_all_active_players()
        return await self._hot.count_active_players(experience)

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
    ) -> ActionTicket:
        """Any action on a progress: an event, effects, or both, as one step. See `edit_state`."""
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

    # --- how a read goes -------------------------------------------------------------------------------------------

    async def _get_members(self, user_id: str, experience: str, name: str, warm: bool) -> list[str]:
        key = progress_key(user_id, experience)
        prefix = f"m:{name}."
        return await self._read(
            key,
            lambda: self._hot.find_members(key, name),
            lambda fields, _: sorted(field[len(prefix) :] for field in fields if field.startswith(prefix)),
            f"list_{name}",
            warm,
        )

    async def _read(
        self,
        key: ProgressKey,
        ask: Callable[[], Awaitable[T | None]],
        of_fields: Callable[[dict[str, bytes], int], T],
        operation: str,
        warm: bool,
    ) -> T:
        """Redis first; on a miss Postgres, which then warms Redis; what Redis has by then is newer still."""
        found = await ask()
        self.reads += 1
        self.hot_reads += found is not None
        if self._on_read is not None:
            self._on_read(found is not None)
        if found is not None:
            return found
        if warm and await self._may_warm():
            cold = await self._hydrate.hydrate(key, OPS_DEVICE)
            found = await ask() if cold is not None else None
        else:
            cold = await self._cold.find_progress(key, OPS_DEVICE)
        if cold is None:
            raise ProgressMissing(key)
        if found is not None:
            return found
        return of_fields(split_state(cold.state_json, cold.kinds_json), cold.version)

    async def _may_warm(self) -> bool:
        now = self._clock()
        if now >= self._memory_due:
            self._memory_due = now + MEMORY_LOOK_S
            self._has_room = await self._hot.find_memory_share() < WARM_SHARE_MAX
        return self._has_room


def canonical_user_id(user_id: str) -> str:
    """Raises ValueError for what is no UUID."""
    try:
        return str(uuid.UUID(user_id))
    except (ValueError, AttributeError, TypeError):
        raise ValueError("user_id: must be a UUID") from None


def progress_key(user_id: str, experience: str) -> ProgressKey:
    """Raises ValueError for what can name no progress."""
    if not _EXPERIENCE.fullmatch(experience):
        raise ValueError("experience: letters, digits, '.', '_' and '-', at most 100, beginning with a letter or digit")
    return ProgressKey(canonical_user_id(user_id), experience)


def _version_of(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise ValueError("cursor: must be one that an earlier page gave")
    return int(cursor)


def _place_of(cursor: str) -> HistoryPlace:
    match = re.fullmatch(r"(\d{1,15})\.([0-9a-f]{32})\.(\d{1,18})", cursor, re.ASCII)
    if match is None:
        raise ValueError("cursor: must be one that an earlier page gave")
    return HistoryPlace(int(match[1]), match[2], int(match[3]))
