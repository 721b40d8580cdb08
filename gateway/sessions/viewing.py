"""
What live-ops may see of this node, while somebody watches.

Promise: without a viewer nothing is computed and nothing is sent; the way of an update meets one comparison with None.
With viewers everything has a bound (events a second, bytes of a message, rows a turn of the loop), is put together
between players' updates in small pieces, and is dropped, never waited for, when Redis is slow. A want that is not said
again lapses.

Not here: who may see what (gateway.liveops), the bytes (persistence.viewing).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from gateway.sessions.connection import Connection, Phase
from gateway.sessions.traced_wire import TracedWire
from gateway.telemetry.logs import get_logger
from persistence.errors import PersistenceError
from persistence.hot.shapes import GroupVerdict, UpdateGroup
from persistence.viewing import EVENTS, FIGURES, LEASE_MS, ROWS, TRACE, RowsSeen, Wants, pack_seen, parse_wants
from protocol.entry import UpdateBody, decode_body

if TYPE_CHECKING:
    from gateway.sessions.node import Node

TICK_S = 0.1
FIGURES_S = 1.0
VIEWERS_MAX = 16
EVENTS_PER_TICK = 10
EVENTS_OF_FOLLOWED_PER_TICK = 50
"""With those of players whom a filter or a trace names: these are looked at in any case."""
LOOKED_AT_PER_TICK = 100
"""Updates that are looked at to see whether a filter takes them. What is accepted beyond counts as dropped."""
DATA_BYTES_MAX = 2_000
TRACE_ITEMS_PER_TICK = 100
ROWS_AT_ONCE = 200
"""Rows that are looked at in one turn of the loop: some 0.3 ms."""
HEARD_STEP_MS = 10_000
"""Somebody who says nothing new is reported so often, and no more."""

log = get_logger("sessions")


class Viewing:
    """One per node. `run` never raises. `node.spectator` is this while events or a player are being watched."""

    def __init__(self, node: Node, read_figures: Callable[[], dict[str, Any]] | None = None) -> None:
        self._node = node
        self.read_figures = read_figures
        self._wants: dict[str, tuple[Wants, float]] = {}
        self._is_wanted = asyncio.Event()
        self._filters: tuple[Any, ...] | None = None
        self._traced: frozenset[str] = frozenset()
        self._events: list[Any] = []
        self._looked_at = 0
        self._accepted = 0
        self._followed: frozenset[str] | set[str] = frozenset()
        self._is_spectating = False
        self._trace: dict[str, list[Any]] = {}
        self._trace_dropped: dict[str, int] = {}
        self._rows = _Rows(node)

    async def run(self, stop: asyncio.Event) -> None:
        listening = asyncio.create_task(self._listen(), name="viewers")
        rows: asyncio.Task[None] | None = None
        figures_due = 0.0
        try:
            while not stop.is_set():
                if not self._wants:
                    self._is_wanted.clear()
                    await _first_of(self._is_wanted, stop)
                    continue
                try:
                    self._lapse()
                    now = self._node.clock()
                    messages = self._take()
                    if now >= figures_due and self.read_figures is not None:
                        # Also for those who want something else: a node that says nothing is known to be gone.
                        figures_due = now + FIGURES_S
                        messages.append(pack_seen(self._node.name, FIGURES, self.read_figures()))
                    await self._node.hot.publish_seen(messages)
                    if any(wants.rows for wants, _ in self._wants.values()) and (rows is None or rows.done()):
                        rows = asyncio.create_task(self._report_rows(stop), name="rows for viewers")
                except PersistenceError as error:
                    log.debug("viewing_failed", error=str(error))
                except Exception:
                    log.error("viewing_failed", exc_info=True)
                await _pause(stop, TICK_S if self._is_spectating else FIGURES_S / 2)
        finally:
            for task in (listening, rows):
                if task is not None:
                    task.cancel()
            await asyncio.gather(*(task for task in (listening, rows) if task is not None), return_exceptions=True)

    # ── from the players' side: called only while somebody watches ──────────────────────────────────────────────────

    def note_updates(self, connection: Connection, group: UpdateGroup, verdict: GroupVerdict) -> None:
        """What was accepted just now. Never raises."""
        try:
            key = connection.key
            is_followed = key.user_id in self._followed
            if not is_followed and (self._looked_at >= LOOKED_AT_PER_TICK or len(self._events) >= EVENTS_PER_TICK):
                if not self._followed:
                    # Enough for this tick: until the next one nobody is told anything, which costs nothing.
                    self._node.spectator = None
                return
            is_traced = key.user_id in self._traced
            accepted = verdict.accepted
            first = accepted - verdict.taken
            for update in group.updates:
                if not first < update.seq <= accepted:
                    continue
                if update.void is not None:
                    if is_traced:
                        code, message = update.void
                        self._tell(key.user_id, "void", {"seq": update.seq, "code": code, "message": message})
                    continue
                if not is_followed and len(self._events) >= EVENTS_PER_TICK:
                    return
                self._looked_at += 1
                self._note_update(key.user_id, key.experience, update.body, is_traced)
        except Exception:
            log.error("viewing_failed", exc_info=True)

    def note_welcomed(self, connection: Connection) -> None:
        if connection.key.user_id in self._traced:
            self._attach(connection)
            facts = {"node": self._node.name, "connection": connection.number, "device": connection.device}
            self._tell(connection.key.user_id, "open", facts | {"session": connection.session_id})

    def note_gone(self, connection: Connection) -> None:
        user_id = connection.key.user_id
        if user_id in self._traced:
            code = connection.close_code
            how = {"code": code} if code else {"text": "the socket ended without a close of ours"}
            self._tell(user_id, "close", {"connection": connection.number, **how})

    # ── wants ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self) -> None:
        async for packed in self._node.hot.listen_for_wants():
            try:
                wants = parse_wants(packed)
            except ValueError:
                continue  # somebody else's bytes
            if len(self._wants) < VIEWERS_MAX or wants.viewer in self._wants:
                self._wants[wants.viewer] = (wants, self._node.clock() + LEASE_MS / 1000)
                self._rows.ask(wants.viewer, wants.rows_token)
                self._settle()
                self._is_wanted.set()

    def _lapse(self) -> None:
        now = self._node.clock()
        over = [viewer for viewer, (_, until) in self._wants.items() if now > until]
        for viewer in over:
            del self._wants[viewer]
            self._rows.forget_viewer(viewer)
        if over:
            self._settle()

    def _settle(self) -> None:
        """What all viewers want together."""
        node = self._node
        filters: list[Any] = []
        traced: set[str] = set()
        for wants, _ in self._wants.values():
            filters += wants.events or ()
            traced.update(wants.traced)
        before = self._traced
        if self._filters is None:
            # What was accepted before anybody wanted events was not dropped.
            self._accepted = node.tally.updates_accepted
        self._filters = tuple(filters) if filters else None
        self._traced = frozenset(traced)
        for user_id in before ^ self._traced:
            connection = node.players.get(user_id)
            if connection is None:
                continue
            if user_id in self._traced:
                self._attach(connection)
                facts = {"text": "from here on", "node": node.name, "connection": connection.number}
                self._tell(user_id, "note", facts | {"phase": connection.phase.name, "accepted": connection.told})
            else:
                _detach(connection)
        for user_id in before - self._traced:
            self._trace.pop(user_id, None)
            self._trace_dropped.pop(user_id, None)
        self._followed = self._traced | {one.player for one in filters if one.player}
        self._is_spectating = self._filters is not None or bool(self._traced)
        node.spectator = self if self._is_spectating else None

    def _attach(self, connection: Connection) -> None:
        if not isinstance(connection.wire, TracedWire):
            user_id = connection.key.user_id
            connection.wire = TracedWire(
                connection.wire, connection.codec, lambda kind, facts: self._tell(user_id, kind, facts)
            )

    # ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────

    def _note_update(self, user_id: str, experience: str, raw: bytes, is_traced: bool) -> None:
        filters = [one for one in self._filters or () if one.takes(experience, user_id)]
        if not filters and not is_traced:
            return
        body = decode_body(raw)
        assert isinstance(body, UpdateBody)
        item = _event_item(user_id, experience, body)
        if is_traced:
            self._tell(user_id, "update", {name: value for name, value in item.items() if name != "player"})
        if len(self._events) < EVENTS_OF_FOLLOWED_PER_TICK and any(
            one.takes_event(body.event_type, body.content_id) for one in filters
        ):
            self._events.append(item)

    def _tell(self, user_id: str, kind: str, facts: dict[str, Any]) -> None:
        items = self._trace.setdefault(user_id, [])
        if len(items) >= TRACE_ITEMS_PER_TICK:
            self._trace_dropped[user_id] = self._trace_dropped.get(user_id, 0) + 1
            return
        items.append({"at_ms": self._node.now_ms(), "kind": kind, **facts})

    def _take(self) -> list[bytes]:
        """What has gathered since the last tick, as messages."""
        messages = []
        accepted = self._node.tally.updates_accepted
        if self._filters is not None:
            dropped = max(0, accepted - self._accepted - self._looked_at)
            if self._events or dropped:
                messages.append(pack_seen(self._node.name, EVENTS, (self._events, dropped)))
        self._events, self._looked_at, self._accepted = [], 0, accepted
        self._node.spectator = self if self._is_spectating else None
        traces, self._trace = self._trace, {}
        for user_id, items in traces.items():
            dropped = self._trace_dropped.pop(user_id, 0)
            messages.append(pack_seen(self._node.name, TRACE, (user_id, items, dropped)))
        return messages

    async def _report_rows(self, stop: asyncio.Event) -> None:
        """The table of connections: whole when somebody new asks, else what has changed. Paced over the period."""
        while not stop.is_set():
            periods = [wants.rows for wants, _ in self._wants.values() if wants.rows]
            if not periods:
                self._rows.clear()
                return
            period_s = min(periods) / 1000
            began = self._node.clock()
            try:
                async for seen in self._rows.report(period_s):
                    await self._node.hot.publish_seen([pack_seen(self._node.name, ROWS, seen.body())])
            except PersistenceError as error:
                # What was in it is missed by somebody: all of it again.
                self._rows.forget()
                log.debug("viewing_failed", error=str(error))
            except Exception:
                self._rows.forget()
                log.error("viewing_failed", exc_info=True)
            left_s = max(0.05, period_s - (self._node.clock() - began))
            await self._rows.wait_asked(left_s)


class _Rows:
    """Which rows of the table the viewers have, so that only what changes is said."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._said: dict[Connection, tuple[int, Any, int]] = {}
        self._next = 1
        self._tokens: dict[str, str] = {}
        self._is_asked = asyncio.Event()

    def ask(self, viewer: str, token: str) -> None:
        """Another token than this viewer had: they have nothing yet. What is said is for all."""
        if self._tokens.get(viewer, "") != token:
            self._tokens[viewer] = token
            if token:
                self._is_asked.set()

    def forget_viewer(self, viewer: str) -> None:
        self._tokens.pop(viewer, None)

    def forget(self) -> None:
        self._is_asked.set()

    def clear(self) -> None:
        self._said = {}

    async def wait_asked(self, timeout_s: float) -> None:
        await _pause(self._is_asked, timeout_s)

    async def report(self, period_s: float) -> AsyncIterator[RowsSeen]:
        is_whole = self._is_asked.is_set() or not self._said
        self._is_asked.clear()
        connections = list(self._node.players.values())
        said = {} if is_whole else self._said
        if is_whole:
            self._said = said
        pause_s = 0.0 if is_whole else period_s * 0.7 / max(1, len(connections) / ROWS_AT_ONCE)
        following = RowsSeen(begins=is_whole)
        for first in range(0, len(connections), ROWS_AT_ONCE):
            seen, following = following, RowsSeen()
            self._look_at(connections[first : first + ROWS_AT_ONCE], seen)
            if seen.begins or seen.whole or seen.changed:
                yield seen
            await asyncio.sleep(pause_s)
        there = set(self._node.players.values())
        gone = [connection for connection in said if connection not in there]
        last = following
        last.ends = is_whole
        last.gone = [said.pop(connection)[0] for connection in gone]
        if last.begins or last.ends or last.gone:
            yield last

    def _look_at(self, connections: list[Connection], seen: RowsSeen) -> None:
        node, said = self._node, self._said
        now, now_ms = node.clock(), node.now_ms()
        for connection in connections:
            if not connection.is_open:
                continue
            place = connection.place
            state = _state_of(connection, now)
            facts = (state, connection.told, connection.saved_told, place)
            heard_ms = now_ms - int((now - connection.heard_at) * 1000)
            before = said.get(connection)
            lat, lng = place if place is not None else (None, None)
            if before is None:
                number, self._next = self._next, self._next + 1
                key = connection.key
                seen.whole.append(
                    (
                        *(number, key.user_id, connection.session_id, key.experience, connection.device),
                        *(connection.number, connection.started_ms, state, heard_ms, lat, lng),
                        *(connection.told, connection.saved_told, connection.wire.find_rtt_ms()),
                    )
                )
            elif before[1] != facts or heard_ms - before[2] >= HEARD_STEP_MS:
                number = before[0]
                seen.changed.append((number, state, heard_ms, lat, lng, connection.told, connection.saved_told))
            else:
                continue
            said[connection] = (number, facts, heard_ms)


def _state_of(connection: Connection, now: float) -> int:
    if connection.suspended_until > now:
        return 1
    return 0 if connection.phase is Phase.PLAYING else 2


def _detach(connection: Connection) -> None:
    if isinstance(connection.wire, TracedWire):
        connection.wire = connection.wire.inner


def _event_item(user_id: str, experience: str, body: UpdateBody) -> dict[str, Any]:
    item: dict[str, Any] = {
        "player": user_id,
        "experience": experience,
        "at_ms": body.timestamp_ms,
        "received_ms": body.received_ms,
        "type": body.event_type,
        "content_id": body.content_id,
        "device": body.device,
        "seq": body.seq,
        "lat": body.lat,
        "lng": body.lng,
    }
    if len(body.data_json) <= DATA_BYTES_MAX:
        item["data"] = body.data_json.decode("utf-8", "replace")
    if body.effects_json and len(body.effects_json) <= DATA_BYTES_MAX:
        item["effects"] = body.effects_json.decode("utf-8", "replace")
    return item


async def _pause(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        pass


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
