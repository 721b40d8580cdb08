"""
One viewer of the live feed: what they want, and a mailbox that never grows past its bounds.

Promise: pure. Nothing here waits for the viewer: figures and positions that were not fetched are replaced by newer
ones, events and trace items past the bound are counted and dropped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.liveops.live.table import STATES, make_clusters, place_of
from gateway.liveops.shapes import iso_ms
from persistence.viewing import EventFilter, Row

TOPICS = ("figures", "events", "players", "player")
EVENTS_KEPT = 200
TRACE_KEPT = 1_000
PLAYERS_SHOWN_MAX = 2_000
"""More than these on one map are shown as clusters."""

Box = tuple[float, float, float, float]
"""south, west, north, east"""


@dataclass(eq=False)
class Viewer:
    topics: frozenset[str]
    events: EventFilter
    experience: str = ""
    player: str = ""
    box: Box | None = None
    is_precise: bool = False
    operator: str = ""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _figures: dict[str, Any] | None = None
    _events: list[dict[str, Any]] = field(default_factory=list)
    _dropped: int = 0
    _is_events_due: bool = False
    _players: dict[str, Row | None] = field(default_factory=dict)
    _has_all: bool = False
    _is_map_due: bool = False
    _is_clustered: bool = False
    _shown: set[str] = field(default_factory=set)
    _trace: list[dict[str, Any]] = field(default_factory=list)
    _trace_dropped: int = 0

    # ── what comes in ───────────────────────────────────────────────────────────────────────────────────────────────

    def put_figures(self, figures: dict[str, Any]) -> None:
        self._figures = figures
        self.wake.set()

    def put_events(self, items: Sequence[dict[str, Any]], dropped: int) -> None:
        """`dropped`: how many a gateway left out, whatever they were about."""
        for item in items:
            if not self.events.takes(item["experience"], item["player"]):
                continue
            if not self.events.takes_event(item["type"], item["content_id"]):
                continue
            if len(self._events) >= EVENTS_KEPT:
                self._dropped += 1
                continue
            self._events.append(self._show_event(item))
        self._dropped += dropped
        self._is_events_due = True
        self.wake.set()

    def put_players(self, changed: dict[str, Row | None], everybody: Sequence[Row]) -> None:
        """Who has moved since the last time, and who is there at all."""
        rows = [row for row in everybody if self._is_on_map(row)]
        is_clustered = len(rows) > PLAYERS_SHOWN_MAX
        if is_clustered or is_clustered != self._is_clustered or not self._has_all:
            self._players = {row.user_id: row for row in rows}
            self._has_all = False
        else:
            self._players.update(changed)
        self._is_clustered = is_clustered
        if self._players or not self._has_all:
            self._is_map_due = True
            self.wake.set()

    def put_trace(self, items: Sequence[dict[str, Any]], dropped: int) -> None:
        self._trace_dropped += dropped
        for item in items:
            if len(self._trace) >= TRACE_KEPT:
                self._trace_dropped += 1
                continue
            shown = {name: value for name, value in item.items() if name not in ("at_ms", "received_ms")}
            for name in ("data", "effects"):
                if isinstance(shown.get(name), str):
                    shown[name] = _json_or_text(shown[name])
            if "lat" in shown:
                shown["lat"], shown["lng"] = self._place(shown["lat"], shown.get("lng"))
            self._trace.append({"at": iso_ms(item["at_ms"]), **shown})
        self.wake.set()

    # ── what goes out ───────────────────────────────────────────────────────────────────────────────────────────────

    def take(self) -> list[tuple[str, Any]]:
        """What there is to tell, as (event name, data)."""
        self.wake.clear()
        out: list[tuple[str, Any]] = []
        if self._figures is not None:
            out.append(("figures", self._figures))
            self._figures = None
        if self._is_events_due:
            out.append(("events", {"items": self._events, "dropped": self._dropped}))
            self._events, self._is_events_due = [], False
        if self._is_map_due:
            self._is_map_due = False
            players = self._take_players()
            if players is not None:
                out.append(("players", players))
        if self._trace or self._trace_dropped:
            out.append(("player", {"player": self.player, "items": self._trace, "dropped": self._trace_dropped}))
            self._trace, self._trace_dropped = [], 0
        return out

    def _take_players(self) -> dict[str, Any] | None:
        changed, self._players = self._players, {}
        is_full, self._has_all = not self._has_all, True
        facts: dict[str, Any] = {"experience": self.experience or None, "full": is_full}
        if self._is_clustered:
            rows = [row for row in changed.values() if row is not None]
            self._shown = set()
            self._has_all = False  # clusters are always told whole
            return facts | {
                "full": True,
                "players": [],
                "gone": [],
                "clusters": make_clusters(rows, self.is_precise),
                "total": len(rows),
            }
        shown, gone = [], []
        if is_full:
            self._shown = set()
        for user_id, row in changed.items():
            if row is not None and self._is_on_map(row):
                shown.append([user_id, *self._place(row.lat, row.lng), STATES[row.state]])
                self._shown.add(user_id)
            elif user_id in self._shown:
                gone.append(user_id)
                self._shown.discard(user_id)
        if not shown and not gone and not is_full:
            return None
        return facts | {"players": shown, "gone": gone, "clusters": [], "total": len(self._shown)}

    def _is_on_map(self, row: Row) -> bool:
        if row.lat is None or row.lng is None or self.experience not in ("", row.experience):
            return False
        if self.box is None:
            return True
        # What is shown decides, not what is known: a small window must not tell more than the map.
        lat, lng = self._place(row.lat, row.lng)
        assert lat is not None and lng is not None
        south, west, north, east = self.box
        is_across = west <= lng <= east if west <= east else lng >= west or lng <= east
        return south <= lat <= north and is_across

    def _place(self, lat: float | None, lng: float | None) -> tuple[float | None, float | None]:
        return place_of(lat, lng, self.is_precise)

    def _show_event(self, item: dict[str, Any]) -> dict[str, Any]:
        lat, lng = self._place(item.get("lat"), item.get("lng"))
        shown = {
            "at": iso_ms(item["at_ms"]),
            "received_at": iso_ms(item["received_ms"]),
            **{name: item.get(name) for name in ("player", "experience", "type", "content_id", "device", "seq")},
            "lat": lat,
            "lng": lng,
        }
        if "data" in item:
            shown["data"] = _json_or_text(item["data"])
        return shown


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
