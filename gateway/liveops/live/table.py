"""
The table of sessions that are going on, put together from what gateways report and what only Redis knows.

Promise: pure and bounded. A question is answered from a snapshot that all viewers share and that is made anew at most
once a second: a page out of ten thousand sessions takes some ten milliseconds, whoever asks. A row that its gateway no
longer reports is gone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from operator import attrgetter, ge, le
from typing import Any

from persistence.viewing import Row

ROWS_MAX = 100_000
SNAPSHOT_S = 1.0
DEVICE_CHARS_MIN = 5
"""Two letters are in nearly every device."""
STATES = ("playing", "suspended", "recovering", "disconnected")
METRES_PER_DEGREE = 111_320.0
COARSE_DECIMALS = 3
"""Of a degree: some hundred metres, which is where somebody is and not which house they are in."""


@dataclass(slots=True)
class _NodeRows:
    rows: dict[int, Row] = field(default_factory=dict)
    coming: set[int] | None = None
    """Numbers of a whole table that is arriving."""
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """`near`: (lat, lng, metres). `sort`: a name of `SORTS`. Empty fields take everything."""

    search: str = ""
    experience: str = ""
    state: int | None = None
    lag_ms_min: int = 0
    near: tuple[float, float, float] | None = None
    sort: str = "last_activity"
    is_descending: bool = True
    is_precise: bool = False


SORTS: Mapping[str, Callable[[Row], Any]] = {
    "last_activity": attrgetter("heard_ms"),
    "started_at": attrgetter("started_ms"),
    "user_id": attrgetter("user_id"),
    "experience": attrgetter("experience"),
    "node": attrgetter("node"),
    "state": attrgetter("state"),
    "accepted": attrgetter("accepted"),
    "pending": lambda row: row.accepted - row.saved,
    "rtt_ms": attrgetter("rtt_ms"),
}


class Snapshot:
    """The sessions of one instant."""

    def __init__(self, rows: Sequence[Row], made_at: float) -> None:
        self.made_at = made_at
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def list_meant(self, text: str, limit: int) -> list[Row]:
        """
        Whom somebody may mean who has typed this much: whose own id begins so, then whose session's does or whose
        device has it in its name; in both halves those who were heard last come first.
        """
        text = text.lower()
        by_id = [row for row in self._rows if row.user_id.startswith(text)]
        best = heapq.nlargest(limit, by_id, key=SORTS["last_activity"])
        if len(best) < limit and len(text) >= DEVICE_CHARS_MIN:
            others = [
                row
                for row in self._rows
                if (row.session_id.startswith(text) or text in row.device.lower()) and not row.user_id.startswith(text)
            ]
            best += heapq.nlargest(limit - len(best), others, key=SORTS["last_activity"])
        return best

    def list_page(
        self, query: SessionQuery, now_ms: int, limit: int, after: tuple[Any, str] | None = None
    ) -> tuple[list[Row], int, tuple[Any, str] | None]:
        """
        A page, how many there are in all, and the place of its last row if there are more.

        Nothing is sorted but the page itself: of ten thousand rows the best fifty are picked in one pass, by what they
        are sorted by alone; ids decide among those that are left. An order of all would be asked for once and grow old
        in a second.
        """
        rows: Sequence[Row] = self._rows
        for takes in _list_tests(query, now_ms):
            rows = [row for row in rows if takes(row)]
        total = len(rows)
        value = SORTS[query.sort]
        if after is not None:
            if query.is_descending:
                rows = [row for row in rows if (value(row), row.user_id) < after]
            else:
                rows = [row for row in rows if (value(row), row.user_id) > after]
        pick = heapq.nlargest if query.is_descending else heapq.nsmallest
        if len(rows) > limit + 1:
            values = list(map(value, rows))
            worst = pick(limit + 1, values)[-1]
            fits = partial(le if query.is_descending else ge, worst)
            rows = list(compress(rows, map(fits, values)))
        # A player has one row, so the row itself is never compared.
        best = pick(limit + 1, [(value(row), row.user_id, row) for row in rows])
        page = best[:limit]
        last = (page[-1][0], page[-1][1]) if len(best) > limit else None
        return [place[2] for place in page], total, last


class Table:
    """Everything that is reported, by node; and the sessions without a connection."""

    def __init__(self) -> None:
        self._nodes: dict[str, _NodeRows] = {}
        self._absent: dict[str, Row] = {}
        self._snapshot: Snapshot | None = None
        self._by_user: dict[str, Row] = {}
        self._changed: dict[str, Row | None] = {}

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def apply(self, node: str, body: Any) -> None:
        """A part of a node's table. Raises ValueError, TypeError, IndexError for what is none; then it is forgotten."""
        begins, ends, whole, changed, gone = body[:5]
        at = self._nodes.setdefault(node, _NodeRows())
        if begins:
            at.coming = set()
        for number, *facts in whole:
            row = Row(*facts[:13])
            row.node = node
            if len(at.rows) < ROWS_MAX:
                at.rows[number] = row
                self._note(row)
            if at.coming is not None:
                at.coming.add(number)
        for number, state, heard_ms, lat, lng, accepted, saved in changed:
            known = at.rows.get(number)
            if known is not None:
                known.state, known.heard_ms, known.lat, known.lng = state, heard_ms, lat, lng
                known.accepted, known.saved = accepted, saved
                self._note(known)
        for number in gone:
            self._drop(at, number)
        if ends and at.coming is not None:
            for number in [number for number in at.rows if number not in at.coming]:
                self._drop(at, number)
            at.coming, at.is_whole = None, True

    def forget_node(self, node: str) -> None:
        at = self._nodes.pop(node, None)
        if at is not None:
            for number in list(at.rows):
                self._drop(at, number)

    def set_absent(self, rows: Sequence[Row]) -> None:
        """The sessions that have no connection now."""
        absent = {row.user_id: row for row in rows if row.user_id not in self._by_user}
        for user_id in self._absent.keys() - absent.keys():
            if user_id not in self._by_user:
                self._changed[user_id] = None
        self._absent = absent

    def is_whole(self, nodes: Sequence[str]) -> bool:
        """Whether each of these has told everything at least once."""
        return all(node in self._nodes and self._nodes[node].is_whole for node in nodes)

    @property
    def nodes(self) -> list[str]:
        return list(self._nodes)

    @property
    def user_ids(self) -> set[str]:
        """Players who have a connection."""
        return set(self._by_user)

    def find(self, user_id: str) -> Row | None:
        return self._by_user.get(user_id) or self._absent.get(user_id)

    def take_changed(self) -> dict[str, Row | None]:
        """Players whose row has changed since the last time; None: gone."""
        changed, self._changed = self._changed, {}
        return changed

    def list_all(self) -> list[Row]:
        return [*self._by_user.values(), *(row for user, row in self._absent.items() if user not in self._by_user)]

    def snapshot(self, now: float) -> Snapshot:
        if self._snapshot is None or now - self._snapshot.made_at >= SNAPSHOT_S:
            self._snapshot = Snapshot(self.list_all(), now)
        return self._snapshot

    def _note(self, row: Row) -> None:
        other = self._by_user.get(row.user_id)
        if other is None or other.connection <= row.connection:
            self._by_user[row.user_id] = row
            self._changed[row.user_id] = row

    def _drop(self, at: _NodeRows, number: int) -> None:
        row = at.rows.pop(number, None)
        if row is not None and self._by_user.get(row.user_id) is row:
            del self._by_user[row.user_id]
            self._changed[row.user_id] = self._absent.get(row.user_id)


def _list_tests(query: SessionQuery, now_ms: int) -> list[Callable[[Row], bool]]:
    """The cheap ones and those that leave few first."""
    tests: list[Callable[[Row], bool]] = []
    if query.search:
        text = query.search.lower()
        tests.append(
            lambda row: row.user_id.startswith(text) or row.session_id.startswith(text) or text in row.device.lower()
        )
    if query.experience:
        tests.append(lambda row: row.experience == query.experience)
    if query.state is not None:
        tests.append(lambda row: row.state == query.state)
    if query.lag_ms_min > 0:
        before_ms = now_ms - query.lag_ms_min
        tests.append(lambda row: row.heard_ms <= before_ms)
    if query.near is not None:
        tests.append(_make_near(*query.near, is_precise=query.is_precise))
    return tests


def _make_near(lat: float, lng: float, metres: float, *, is_precise: bool) -> Callable[[Row], bool]:
    """
    Flat earth: good to a part in a thousand over the kilometres that somebody walks. Asks about the places that the
    asker is shown: with exact ones a few circles would tell where somebody is who is shown roughly.
    """
    across = METRES_PER_DEGREE * math.cos(math.radians(lat))
    squared = metres * metres

    def is_near(row: Row) -> bool:
        if row.lat is None or row.lng is None:
            return False
        at_lat, at_lng = place_of(row.lat, row.lng, is_precise)
        assert at_lat is not None and at_lng is not None
        north = (at_lat - lat) * METRES_PER_DEGREE
        east = ((at_lng - lng + 180.0) % 360.0 - 180.0) * across
        return north * north + east * east <= squared

    return is_near


def place_of(lat: float | None, lng: float | None, is_precise: bool) -> tuple[float | None, float | None]:
    """Where somebody is, as exactly as whoever looks may know: some hundred metres, or as it is."""
    if lat is None or lng is None:
        return None, None
    return (lat, lng) if is_precise else (round(lat, COARSE_DECIMALS), round(lng, COARSE_DECIMALS))


def make_clusters(rows: Sequence[Row], is_precise: bool, cells: int = 40) -> list[tuple[float, float, int]]:
    """Where many are: the centre and the number of those in each cell of a grid over all of them."""
    places = [(row.lat, row.lng) for row in rows if row.lat is not None and row.lng is not None]
    if not places:
        return []
    south, west = min(lat for lat, _ in places), min(lng for _, lng in places)
    step = max(max(lat for lat, _ in places) - south, max(lng for _, lng in places) - west, 1e-6) / cells
    sums: dict[tuple[int, int], list[float]] = {}
    for lat, lng in places:
        cell = sums.setdefault((int((lat - south) / step), int((lng - west) / step)), [0.0, 0.0, 0.0])
        cell[0] += lat
        cell[1] += lng
        cell[2] += 1
    # A cluster of one is somebody.
    decimals = 5 if is_precise else COARSE_DECIMALS
    return [(round(lat / n, decimals), round(lng / n, decimals), int(n)) for lat, lng, n in sums.values()]
