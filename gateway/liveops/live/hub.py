"""
The one place of this process that knows what is going on, for as long as anybody wants to know.

Promise: without viewers nothing is asked of gateways or of Redis; figures of the processes of this machine are read
from their reports every few seconds, so that a chart has a past. With viewers all of them share one table, one
subscription, one look at what only Redis knows. A viewer who is too slow is dropped by the feed; nobody waits for it.

Not here: what a viewer is told (viewer.py), what the table answers (table.py), HTTP (routes/live.py).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from gateway.liveops.live.figures import SAMPLE_S, Figures, Sample
from gateway.liveops.live.table import Table
from gateway.liveops.live.viewer import Viewer
from gateway.telemetry.logs import get_logger
from gateway.telemetry.node_report import STALE_S, NodeReport
from persistence.errors import PersistenceError
from persistence.hot.store import HotStore
from persistence.viewing import EVENTS, FIGURES, ROWS, SAY_S, TRACE, TRACED_MAX, EventFilter, Row, Wants, parse_seen

TICK_S = 1.0
ROWS_LEASE_S = 20.0
"""How long the table is kept after the last question to it, and figures of others after theirs."""
ROWS_MS, ROWS_OF_MAP_MS = 3_000, 1_000
TABLE_WAIT_S = 1.5
ABSENT_LOOK_S = 10.0
NODE_SILENT_S = 5.0
VIEWERS_MAX = 100
VIEWERS_OF_ONE_MAX, TRACED_BY_ONE_MAX = 25, 16
"""Of one operator: whoever has many pages open, or a broken script, leaves places to the others."""
FILTERS_MAX = 16

log = get_logger("liveops")


class TooManyViewers(Exception):
    """The text says of what."""


class LiveHub:
    """`run` is its only task. `clock` is monotonic and shared with the reports."""

    def __init__(
        self,
        hot: HotStore,
        list_reports: Callable[[], list[NodeReport]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._hot = hot
        self._list_reports = list_reports
        self._clock = clock
        self._wall = wall
        self._name = f"ops-{secrets.token_hex(6)}"
        self._viewers: set[Viewer] = set()
        self._rows_until = float("-inf")
        self._figures_until = float("-inf")
        self._rows_token = ""
        self._said: Wants | None = None
        self._say_due = 0.0
        self._change = asyncio.Event()
        self._heard: dict[str, tuple[float, dict[str, Any]]] = {}
        self._table_changed = asyncio.Event()
        self._absent_due = 0.0
        self._absent: dict[str, Row] = {}
        self._sample_due = 0.0
        self.table = Table()
        self.figures = Figures()
        self.refresh: Callable[[], Awaitable[None]] | None = None
        """Called before figures are told: whoever asks the stores about what processes do not know."""
        self.extra: dict[str, Any] = {}
        """Figures that are not of processes: health, quarantine. Set by whoever asks the stores."""

    # ── for requests ────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, viewer: Viewer) -> None:
        """Raises TooManyViewers."""
        own = [each for each in self._viewers if each.operator == viewer.operator]
        if len(own) >= VIEWERS_OF_ONE_MAX:
            raise TooManyViewers(f"{viewer.operator} has {len(own)} live feeds open already")
        if len(self._viewers) >= VIEWERS_MAX:
            raise TooManyViewers("too many live feeds are open")
        if "player" in viewer.topics:
            if len(_list_traced(own) | {viewer.player}) > TRACED_BY_ONE_MAX:
                raise TooManyViewers(f"{viewer.operator} traces {TRACED_BY_ONE_MAX} players already")
            if len(_list_traced(self._viewers) | {viewer.player}) > TRACED_MAX:
                raise TooManyViewers("too many players are traced")
        self._viewers.add(viewer)
        if "figures" in viewer.topics:
            viewer.put_figures(self.read_figures())
        self._change.set()

    def remove(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        self._change.set()

    async def get_table(self) -> Table:
        """The table, at most a moment after it was begun to be kept; kept on for a while."""
        now = self._clock()
        self._rows_until = now + ROWS_LEASE_S
        self._change.set()
        until = now + TABLE_WAIT_S
        while not self._is_table_whole() and (left_s := until - self._clock()) > 0:
            self._table_changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._table_changed.wait(), left_s)
        return self.table

    def keep_figures(self) -> None:
        """Hear what gateways of other machines say of themselves, for a while from now on."""
        self._figures_until = self._clock() + ROWS_LEASE_S
        self._change.set()

    def read_figures(self) -> dict[str, Any]:
        """What an overview shows, as of the newest sample; takes one if that is old."""
        self._sample()
        return {"at": round(self._wall(), 3), **self.figures.read(), **self.extra}

    def list_nodes(self) -> list[dict[str, Any]]:
        """Every gateway that is known: those of this machine by their reports, others while somebody watches."""
        now = self._clock()
        nodes = []
        local = set()
        for report in self._list_reports():
            local.add(report.node)
            if not report.node:
                continue
            is_silent = now - report.written_at > STALE_S
            is_draining = bool(report.figures.get("is_draining")) or "draining" in report.readiness.reasons
            state = (
                "silent"
                if is_silent
                else "draining"
                if is_draining
                else "ready"
                if report.readiness.is_ready
                else "not_ready"
            )
            nodes.append(
                {
                    **_node_facts(report.node, report.figures),
                    "process": report.process,
                    "pid": report.pid,
                    "state": state,
                    "is_ready": report.readiness.is_ready and not is_silent,
                    "reasons": report.readiness.reasons,
                    "is_local": True,
                }
            )
        for node, (at, figures) in self._heard.items():
            if node not in local and now - at < NODE_SILENT_S:
                state = "draining" if figures.get("is_draining") else "ready"
                nodes.append(
                    {
                        **_node_facts(node, figures),
                        "process": None,
                        "pid": None,
                        "state": state,
                        "is_ready": state == "ready",
                        "reasons": [],
                        "is_local": False,
                    }
                )
        return nodes

    # ── the task ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, stop: asyncio.Event) -> None:
        listening: asyncio.Task[None] | None = None
        absent: asyncio.Task[None] | None = None
        try:
            while not stop.is_set():
                wants = self._find_wants()
                try:
                    if wants is None:
                        self._said = None
                        if listening is not None:
                            await _end(listening)
                            listening = None
                            self._idle()
                    else:
                        if listening is None or listening.done():
                            listening = asyncio.create_task(self._listen(), name="what gateways show")
                        await self._say(wants)
                        self._watch_nodes()
                        if wants.rows and (absent is None or absent.done()) and self._clock() >= self._absent_due:
                            self._absent_due = self._clock() + ABSENT_LOOK_S
                            absent = asyncio.create_task(self._look_for_absent(), name="sessions without a connection")
                        if self.refresh is not None and any("figures" in v.topics for v in self._viewers):
                            await self.refresh()
                        self._tell_viewers()
                    if self._clock() >= self._sample_due:
                        self._sample()
                except PersistenceError as error:
                    log.debug("live_failed", error=str(error))
                except Exception:
                    log.error("live_failed", exc_info=True)
                await self._pause(stop, TICK_S if wants is not None else SAMPLE_S)
        finally:
            for task in (listening, absent):
                if task is not None:
                    await _end(task)

    def _find_wants(self) -> Wants | None:
        """What all viewers want together; None: nobody wants anything of gateways."""
        is_rows_leased = self._clock() < self._rows_until
        if not self._viewers and not is_rows_leased and self._clock() >= self._figures_until:
            self._rows_token = ""
            return None
        filters: list[EventFilter] = []
        is_map = False
        for viewer in self._viewers:
            is_map = is_map or "players" in viewer.topics
            if "events" in viewer.topics and viewer.events not in filters:
                filters.append(viewer.events)
        if len(filters) > FILTERS_MAX:
            filters = [EventFilter()]
        rows = ROWS_OF_MAP_MS if is_map else ROWS_MS if is_rows_leased else 0
        if rows and not self._rows_token:
            self._rows_token = secrets.token_hex(6)
        elif not rows:
            self._rows_token = ""
        return Wants(
            self._name,
            figures=True,
            events=tuple(filters) if filters else None,
            rows=rows,
            rows_token=self._rows_token,
            traced=tuple(sorted(_list_traced(self._viewers))),
        )

    async def _say(self, wants: Wants) -> None:
        now = self._clock()
        if wants == self._said and now < self._say_due:
            return
        if self._said is not None and self._said.rows and not wants.rows:
            self.table.clear()
        self._said, self._say_due = wants, now + SAY_S
        await self._hot.publish_wants(wants.pack())

    async def _listen(self) -> None:
        async for packed in self._hot.listen_for_seen():
            if packed is None:
                # From here on nothing is missed; what was said before may have been. Say it all again.
                if self._rows_token:
                    self._rows_token = secrets.token_hex(6)
                self._said = None
                self._change.set()
                continue
            try:
                node, kind, body = parse_seen(packed)
                self._take(node, kind, body)
            except (ValueError, TypeError, IndexError, KeyError, AttributeError):
                log.debug("not_understood", bytes=len(packed))

    def _take(self, node: str, kind: str, body: Any) -> None:
        if kind == FIGURES:
            self._heard[node] = (self._clock(), dict(body))
        elif kind == ROWS:
            self.table.apply(node, body)
            self._table_changed.set()
        elif kind == EVENTS:
            items, dropped = body[:2]
            for viewer in self._viewers:
                if "events" in viewer.topics:
                    viewer.put_events(items, int(dropped))
        elif kind == TRACE:
            user_id, items, dropped = body[:3]
            for viewer in self._viewers:
                if "player" in viewer.topics and viewer.player == user_id:
                    viewer.put_trace(items, int(dropped))

    def _watch_nodes(self) -> None:
        """A node that says nothing any more is gone, and so are its rows."""
        now = self._clock()
        for node, (at, _) in list(self._heard.items()):
            if now - at > 2 * NODE_SILENT_S:
                del self._heard[node]
                self.table.forget_node(node)
        for node in self.table.nodes:
            if node not in self._heard:
                self._heard[node] = (now, {})

    def _tell_viewers(self) -> None:
        if any("figures" in viewer.topics for viewer in self._viewers):
            figures = self.read_figures()
            for viewer in self._viewers:
                if "figures" in viewer.topics:
                    viewer.put_figures(figures)
        maps = [viewer for viewer in self._viewers if "players" in viewer.topics]
        if maps and self._is_table_whole():
            changed, everybody = self.table.take_changed(), self.table.list_all()
            for viewer in maps:
                viewer.put_players(changed, everybody)

    def _is_table_whole(self) -> bool:
        now = self._clock()
        nodes = [report.node for report in self._list_reports() if report.node and now - report.written_at < STALE_S]
        return bool(self.table.nodes or nodes) and self.table.is_whole(nodes)

    async def _look_for_absent(self) -> None:
        """Sessions whose player has no connection now: only Redis knows them."""
        try:
            connected = self.table.user_ids
            found = await self._hot.list_absent_sessions(connected, self._absent)
        except PersistenceError as error:
            log.debug("live_failed", error=str(error))
            return
        self._absent = {row.user_id: row for row in found}
        self.table.set_absent(found)

    def _sample(self) -> None:
        now = self._clock()
        self._sample_due = now + SAMPLE_S
        processes: dict[tuple[str, int], dict[str, Any]] = {}
        local = set()
        for report in self._list_reports():
            local.add(report.node)
            if now - report.written_at < 2 * STALE_S:
                processes[report.process, report.pid] = report.figures
        for node, (at, figures) in self._heard.items():
            if node not in local and figures and now - at < NODE_SILENT_S:
                processes[node, 0] = figures
        self.figures.add(Sample(self._wall(), processes))

    def _idle(self) -> None:
        self.table.clear()
        self._heard = {}
        self._absent = {}
        self._absent_due = 0.0

    async def _pause(self, stop: asyncio.Event, seconds: float) -> None:
        self._change.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (stop, self._change)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _list_traced(viewers: Iterable[Viewer]) -> set[str]:
    return {viewer.player for viewer in viewers if "player" in viewer.topics and viewer.player}


def _node_facts(node: str, figures: dict[str, Any]) -> dict[str, Any]:
    shown = ("connections", "accepted", "resumes", "errors", "lag_ms")
    return {"node": node, "players": figures.get("sessions"), **{name: figures.get(name) for name in shown}}


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
