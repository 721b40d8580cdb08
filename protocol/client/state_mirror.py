"""
The state of a player as the server has it, kept up to date from what the server says.

Promise: after everything the server has sent was heard, `state` is what a `state` query would answer: the player's own
updates in order, void ones without effect, and what others did at the place where it happened.

    mirror = StateMirror(journal)
    client = PlayerClient(url, token, experience, journal=journal, listener=mirror)

Not here: updates that are not accepted yet. What a game shows on top of them is its own affair.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgpack

from protocol.client.journal import Journal
from protocol.client.listener import PlayerListener
from protocol.effects import compile_update
from protocol.errors import VoidUpdate
from protocol.events import Op
from protocol.values import millionths_number, parse_json, to_millionths


class StateMirror(PlayerListener):
    """A listener of one client; give it the client's journal, or make it part of a listener of your own."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._own = 0  # own updates up to here are in the state
        self._base_version = 0
        self._voids: set[int] = set()
        self._waiting: deque[tuple[int, list[Any]]] = deque()  # pushes behind updates that are not accepted yet
        self.state: dict[str, Any] = {}

    def on_state(self, state: dict[str, Any], version: int, accepted: int) -> None:
        self.state = copy.deepcopy(state)
        self._own, self._base_version = accepted, version
        self._voids.clear()  # those above are told anew
        self._waiting.clear()

    def on_void(self, device: str, seq: int, code: int, message: str) -> None:
        if seq > self._own:
            self._voids.add(seq)

    def on_accepted(self, device: str, seq: int, at_ms: float) -> None:
        while self._own < seq:
            self._do_waiting()
            page = self._journal.list_after(self._own, seq - self._own)
            if not page:
                break  # saved already, so a state that has it has been told
            for own, payload in page:
                if own not in self._voids:
                    _apply_update(self.state, payload)
                self._voids.discard(own)
                self._own = own
                self._do_waiting()
        self._do_waiting()

    def on_push(self, n: int, kind: str, data: Any, after: int | None) -> None:
        # What is not above the state that was told whole is in it.
        if kind == "state" and data["version"] > self._base_version:
            self._waiting.append((self._own if after is None else after, data["effects"]))
            self._do_waiting()

    def _do_waiting(self) -> None:
        """Whether an update that was sent is void is known with its ack: what fell behind it waits for that."""
        while self._waiting and self._waiting[0][0] <= self._own:
            apply_effects(self.state, self._waiting.popleft()[1])


def apply_effects(state: dict[str, Any], effects: Iterable[dict[str, Any]]) -> None:
    """What a push of kind `state` does to a state as players see it."""
    for effect in effects:
        unless = effect.get("unless")
        if unless is not None and effect["value"] in state.get(unless, ()):
            continue
        for op in compile_update(None, [effect]).ops:
            apply_op(state, op)


def apply_op(state: dict[str, Any], op: Op) -> None:
    """One op that the server has done, done to the document: what it found to be of the right kind still is."""
    verb, path, name, argument = op[:4]
    if verb in ("add", "remove", "add_unless"):
        if verb == "add_unless" and argument in state.get(op[4], ()):
            return
        members = set(state.get(name, ()))
        if verb == "remove":
            members.discard(argument)
        else:
            members.add(argument)
        state[name] = sorted(members)
        return
    holder, key = state, path
    if path != name:
        key = path[len(name) + 1 :]
        if verb == "unset":
            holder = state.get(name, {})
        else:
            holder = state.setdefault(name, {})
    if verb == "set":
        holder[key] = parse_json(argument)
    elif verb == "unset":
        holder.pop(key, None)
    else:
        before = to_millionths(holder[key]) if key in holder else 0
        holder[key] = millionths_number(before + argument if verb == "incr" else max(before, argument))


def _apply_update(state: dict[str, Any], payload: bytes) -> None:
    body = msgpack.unpackb(payload)
    try:
        ops = compile_update(body.get("event"), body.get("effects")).ops
    except VoidUpdate:
        return  # the server says so, too
    for op in ops:
        apply_op(state, op)
