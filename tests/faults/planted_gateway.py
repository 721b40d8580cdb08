"""
Bugs to plant into a gateway, in a copy of the tree: what a load test must find. The product has no such switch.

`planted.json` beside this file says which bugs, how often, by which seed, and where to write down each case. It is
looked at again and again, so that one `dev` serves many runs. A case is a line of JSON: kind, player, device, seq.

    lost        the update is acknowledged and counted, its entry is nothing that leaves a row
    duplicated  the entry is appended twice (apply_updates.lua is patched for that, see planted_bugs.py)
    reordered   two updates that came in one frame change places
    late_ack    everything for one connection is held back for `HOLD_S`
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

from gateway.sessions import dispatch, intake, verdicts
from protocol.entry import SessionBody, encode_session_body

PLAN = Path(__file__).with_name("planted.json")
LOOK_EVERY_S = 0.05
HOLD_S = 0.2
DOUBLE = "d0b1e"
"""How the id of an entry begins that is to be appended twice."""


class Planter:
    def __init__(self) -> None:
        self._looked_at = 0.0
        self._plan: dict[str, Any] = {"seed": 0, "rates": {}, "list": os.devnull, "seqs": [0, 0]}
        self._noted: set[tuple[str, str, int]] = set()
        self._swapped: dict[tuple[str, int], Any] = {}

    def is_chosen(self, kind: str, device: str, seq: int) -> bool:
        """The same update is always chosen again: it may be sent twice."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_EVERY_S:
            self._looked_at = now
            self._plan = json.loads(PLAN.read_bytes())
        first, last = self._plan["seqs"]
        rate = self._plan["rates"].get(kind, 0.0)
        return bool(
            rate
            and first <= seq <= last
            and zlib.crc32(f"{self._plan['seed']}/{kind}/{device}/{seq}".encode()) < rate * 2**32
        )

    def note(self, kind: str, connection: Any, seq: int) -> None:
        if (kind, connection.device, seq) not in self._noted:
            self._noted.add((kind, connection.device, seq))
            with Path(self._plan["list"]).open("a") as file:
                file.write(json.dumps([kind, connection.key.user_id, connection.device, seq]) + "\n")

    def take_updates(self, connection: Any, updates: Any) -> None:
        """Swap what follows each other in one frame."""
        for first, second in itertools.pairwise(updates):
            key, next_key = (connection.device, first.seq), (connection.device, second.seq)
            if first.seq < connection.expected or {key, next_key} & self._swapped.keys():
                continue
            if self.is_chosen("reordered", *key):
                now_ms = connection.node.now_ms()
                one, other = (_make_hot_update(connection, update, now_ms) for update in (first, second))
                if one.void is None and other.void is None:
                    self._swapped[key] = other._replace(seq=first.seq)
                    self._swapped[next_key] = one._replace(seq=second.seq)
                    self.note("reordered", connection, first.seq)
        _take_updates(connection, updates)

    def make_hot_update(self, connection: Any, update: Any, now_ms: int) -> Any:
        swapped = self._swapped.get((connection.device, update.seq))
        made = swapped if swapped is not None else _make_hot_update(connection, update, now_ms)
        if swapped is not None or made.void is not None:
            return made
        if self.is_chosen("lost", connection.device, update.seq):
            self.note("lost", connection, update.seq)
            # The start of a session that has started is no news to Postgres.
            user_id, experience = connection.key
            start = SessionBody(connection.session_id, user_id, experience, connection.device, now_ms, 0, "")
            return made._replace(body=encode_session_body(start), ops=())
        if self.is_chosen("duplicated", connection.device, update.seq):
            self.note("duplicated", connection, update.seq)
            return made._replace(entry_id=DOUBLE + made.entry_id[len(DOUBLE) :])
        return made

    def answer(self, connection: Any, group: Any, verdict: Any) -> None:
        if len(group.updates) == 1 and not isinstance(connection.wire, HeldWire):
            seq = group.updates[0].seq
            if self.is_chosen("late_ack", connection.device, seq):
                self.note("late_ack", connection, seq)
                connection.wire = HeldWire(connection)
        _answer(connection, group, verdict)


class HeldWire:
    """Keeps what is sent, in order, until the time is over; then the connection has its own wire again."""

    def __init__(self, connection: Any) -> None:
        self._wire = connection.wire
        self._held: list[bytes] = []
        asyncio.get_running_loop().call_later(HOLD_S, self._let_go, connection)

    def send(self, payload: bytes) -> None:
        self._held.append(payload)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)

    def _let_go(self, connection: Any) -> None:
        connection.wire = self._wire
        for payload in self._held:
            self._wire.send(payload)


_take_updates = dispatch.take_updates
_make_hot_update = intake.make_hot_update
_answer = verdicts._answer


def plant() -> None:
    planter = Planter()
    dispatch.take_updates = planter.take_updates
    intake.make_hot_update = planter.make_hot_update
    verdicts._answer = planter.answer
